"""`recsys keys`: who may ask the HTTP service, and for what."""

from typing import Annotated, cast

import typer
from rich.table import Table
from rich.text import Text

from jobs.cli.options import Json, actor, open_database
from jobs.cli.show import show, stdout_console
from recsys.database.engine import reading
from recsys.database.keys import ApiKey, Scope, create_key, list_keys, revoke_key
from recsys.results import CreatedKey, KeySummaries, KeySummary, as_time

keys_app = typer.Typer(
    no_args_is_help=True,
    help="""Make, list and revoke the keys that the HTTP service asks for.

A first key for a web shop, which asks for lists and sends ratings:

    recsys keys create "web shop" --scope read --scope write
    curl -H "Authorization: Bearer recsys_…" http://127.0.0.1:8000/v1/users/196/recommendations

Until the first key is made the service asks for none, and `recsys serve` listens to this machine only.
""",
)


@keys_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who will use it: 1 to 80 characters, not all digits.")],
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="[read|write|admin]",
            help="What it may do; repeat it for several. `read`: lists, items, ratings of a user, models; `write`: "
            "post and delete ratings, change items; `admin`: erase users, publish, roll back, and everything else.",
        ),
    ],
    json: Json = False,
) -> None:
    """Make a key and print it, once: only its hash is stored.

    The key alone goes to standard output, so that a script can take it. Give each client a key of its own, with no
    more scopes than it needs; `write` does not imply `read`.

        recsys keys create "web shop" --scope read --scope write
        KEY=$(recsys keys create reports --scope read)
        curl -H "Authorization: Bearer $KEY" http://127.0.0.1:8000/v1/popular
    """
    engine, _ = open_database()
    made, key = create_key(engine, name, cast(list[Scope], scopes), actor=actor())
    if json:
        show(CreatedKey(**_summarised(made).model_dump(), key=key), json)
        return
    typer.echo(key)
    typer.echo(
        f"This is key {made.number} ({', '.join(made.scopes)}); it is not shown again, so keep it now.", err=True
    )


@keys_app.command("list")
def list_all(json: Json = False) -> None:
    """All keys, the newest first, revoked ones too.

    Shows names, scopes and times. The keys themselves are not stored: one that was lost is revoked, and another made
    in its place.

        recsys keys list
        recsys keys list --json
    """
    engine, _ = open_database()
    with reading(engine) as connection:
        keys = list_keys(connection)
    if json:
        show(KeySummaries(keys=[_summarised(key) for key in keys]), json)
    elif keys:
        _show_keys(keys)
    else:
        typer.echo("there are no keys: make one with `recsys keys create NAME --scope read`")


@keys_app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(metavar="NUMBER_OR_NAME", help="As `recsys keys list` shows it.")],
    json: Json = False,
) -> None:
    """Put a key out of force, for good; running servers refuse it within a second.

    Revoking a key again changes nothing. Revoking the last one does not open the service: nobody gets in until there
    is another.

        recsys keys revoke 3
        recsys keys revoke "web shop"
        curl -H "Authorization: Bearer recsys_…" http://127.0.0.1:8000/v1/popular    # is answered with 401 now
    """
    engine, _ = open_database()
    revoked = revoke_key(engine, key, actor=actor())
    if json:
        show(_summarised(revoked), json)
    else:
        typer.echo(f"key {revoked.number} ({revoked.name}) is revoked")


def _summarised(key: ApiKey) -> KeySummary:
    return KeySummary(
        number=key.number,
        name=key.name,
        scopes=list(key.scopes),
        created_at=as_time(key.created_at),
        revoked_at=None if key.revoked_at is None else as_time(key.revoked_at),
    )


def _show_keys(keys: list[ApiKey]) -> None:
    table = Table("key", "name", "scopes", "created", "revoked")
    for key in keys:
        summary = _summarised(key)
        table.add_row(
            str(key.number),
            Text(key.name),
            ", ".join(key.scopes),
            f"{summary.created_at:%Y-%m-%d %H:%M}",
            f"{summary.revoked_at:%Y-%m-%d %H:%M}" if summary.revoked_at else "",
        )
    stdout_console().print(table)
