"""`recsys keys`: the API keys of the HTTP service, and what each of them may do."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

from jobs.cli.options import JsonOption, actor, open_database
from jobs.cli.teaching import add_command, as_markdown

if TYPE_CHECKING:
    from recsys.database.keys import ApiKey

keys_app = typer.Typer(
    no_args_is_help=True,
    help=as_markdown("""Create, rotate, list and revoke the API keys of the HTTP service.

A first key for a web shop, which reads lists and sends ratings:

    recsys keys create "web shop" --scope read --scope write
    curl -H "Authorization: Bearer recsys_…" http://127.0.0.1:8000/v1/users/196/recommendations

Until the first key exists, requests need none, and `recsys serve` listens on this machine only.
"""),
)


def create_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Who will use the key: 1 to 80 characters, not all digits.")
    ],
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="What the key allows; repeat the option for several scopes. `read`: lists, items, the ratings of a "
            "user, models. `write`: post and delete ratings, change items. `admin`: erase users, publish, roll back, "
            "and everything else. Parts of these: `lists:read`, `items:read`, `ratings:read`, `models:read`, "
            "`ratings:write`, `items:write`, `models:publish`, `users:erase`.",
        ),
    ],
    days: Annotated[
        float | None,
        typer.Option(
            "--expires-days", metavar="DAYS", help="Days after which the key expires; by default it does not."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Create a key and print it once. Only its hash is stored.

    The key alone goes to standard output, so that a script can read it. Give each client its own key, with no more
    scopes than it needs. `write` does not include `read`.

        recsys keys create "web shop" --scope read --scope write
        KEY=$(recsys keys create reports --scope read --expires-days 90)
        curl -H "Authorization: Bearer $KEY" http://127.0.0.1:8000/v1/popular
    """
    from recsys.database.keys import Scope, create_key

    engine, _ = open_database()
    seconds = None if days is None else days * 86_400
    show_created(*create_key(engine, name, cast(list[Scope], scopes), actor=actor(), seconds=seconds), json)


def rotate_command(
    key: Annotated[
        str, typer.Argument(metavar="NUMBER_OR_NAME", help="Number or name, as `recsys keys list` shows it.")
    ],
    hours: Annotated[
        float, typer.Option("--overlap-hours", metavar="HOURS", help="How long the old key still works.")
    ] = 24.0,
    json: JsonOption = False,
) -> None:
    """Create a key in place of another one, and print it once. The old one works for some hours more.

    The new key has the name and the scopes of the old one. Give it to the client before the hours are over.

        recsys keys rotate "web shop"
        recsys keys rotate 3 --overlap-hours 0      # the old key has leaked
    """
    from recsys.database.keys import rotate_key

    engine, _ = open_database()
    show_created(*rotate_key(engine, key, actor=actor(), seconds=hours * 3600), json)


def token_command(
    key: Annotated[
        str, typer.Argument(metavar="NUMBER_OR_NAME", help="Number or name, as `recsys keys list` shows it.")
    ],
    user_id: Annotated[str, typer.Option("--user", metavar="USER_ID", help="The user it is for.")],
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="Minutes until it expires; at most a day.")] = 60.0,
    json: JsonOption = False,
) -> None:
    """Sign a token for one user, who reads only their lists and ratings and writes only their ratings.

    Applications sign tokens themselves: JWT with HS256, `kid` the key's number, `sub` the user's id, `exp` the end,
    and as the secret the SHA-256 of the key's text, in hex. The token has at most the scopes `lists:read`,
    `ratings:read` and `ratings:write` of the key, and ends with it.

        recsys keys token "web shop" --user 196
        curl -H "Authorization: Bearer TOKEN" http://127.0.0.1:8000/v1/users/196/recommendations
    """
    from jobs.cli.show import show
    from recsys.database.clock import now_ms
    from recsys.database.engine import reading
    from recsys.database.keys import chosen_key, read_keyring
    from recsys.database.tokens import sign
    from recsys.errors import InputError
    from recsys.results import SignedToken, as_time

    engine, _ = open_database()
    with reading(engine) as connection:
        found, ring = chosen_key(connection, key), read_keyring(connection)
    if not found.is_active(now_ms()):
        raise InputError(f"key {found.number} is revoked or has expired: create one with `recsys keys create`")
    token = sign(found.number, ring.hash_of_number[found.number], user_id, minutes * 60)
    if json:
        ends = as_time(now_ms() + round(minutes * 60_000))
        show(SignedToken(token=token, user_id=user_id, expires_at=ends), json)
    else:
        typer.echo(token)


def show_created(created: "ApiKey", key: str, json: bool) -> None:
    """Print a new key."""
    from jobs.cli.show import key_summary, show
    from recsys.results import CreatedKey

    if json:
        show(CreatedKey(**key_summary(created).model_dump(), key=key), json)
        return
    typer.echo(key)
    typer.echo(f"This is key {created.number} ({', '.join(created.scopes)}). Keep it: it is not shown again.", err=True)


def list_command(json: JsonOption = False) -> None:
    """List all keys, the newest first, revoked ones included.

    Shows names, scopes and times. A lost key cannot be shown again: revoke it and create another.

        recsys keys list
        recsys keys list --json
    """
    from jobs.cli.show import key_summary, show
    from recsys.database.engine import reading
    from recsys.database.keys import list_keys
    from recsys.results import KeySummaries

    engine, _ = open_database()
    with reading(engine) as connection:
        keys = list_keys(connection)
    if keys or json:
        show(KeySummaries(keys=[key_summary(key) for key in keys]), json)
    else:
        typer.echo("there are no keys: create one with `recsys keys create NAME --scope read`")


def revoke_command(
    key: Annotated[
        str, typer.Argument(metavar="NUMBER_OR_NAME", help="Number or name, as `recsys keys list` shows it.")
    ],
    json: JsonOption = False,
) -> None:
    """Revoke a key for good. Running servers refuse it within a second.

    Revoking a key again changes nothing. Revoking the last key does not open the service: every request is refused
    until there is another key.

        recsys keys revoke 3
        recsys keys revoke "web shop"
        curl -H "Authorization: Bearer recsys_…" http://127.0.0.1:8000/v1/popular    # now answers 401
    """
    from jobs.cli.show import key_summary, show
    from recsys.database.keys import revoke_key

    engine, _ = open_database()
    revoked = revoke_key(engine, key, actor=actor())
    if json:
        show(key_summary(revoked), json)
    else:
        typer.echo(f"key {revoked.number} ({revoked.name}) is revoked")


add_command(keys_app, "create", create_command)
add_command(keys_app, "rotate", rotate_command)
add_command(keys_app, "token", token_command)
add_command(keys_app, "list", list_command)
add_command(keys_app, "revoke", revoke_command)
