"""`recsys export`, `backup`, `restore` and `erase-user`: data out of the database, and back."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import JsonOption, actor, open_database, used_databases
from jobs.cli.stopping import stoppable

WHAT = ("ratings", "users", "items", "factors", "lists", "projector")


@stoppable("files that were written whole are kept")
def export_command(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WHAT]...", help=f"Any of {', '.join(WHAT)}. Default: ratings, users and items."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write the files to.")] = Path("export"),
    format: Annotated[str, typer.Option("--format", help="parquet or csv.")] = "parquet",
    version: Annotated[
        int | None, typer.Option(help="Number of the version of factors and projector. Default: the live one.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write what the database holds as Parquet or CSV.

    `recsys load FOLDER` reads ratings, users and items back, with events, all attributes and hidden items, into SQLite
    or PostgreSQL; other tools read the files as they are. `factors` are vectors and biases by id, and weights between
    items; `lists` the lists of all users; `projector` the pair of files of the Embedding Projector, and a Parquet file
    that Embedding Atlas opens. Versions, keys and withdrawals go with `recsys backup`.

        recsys export
        recsys export ratings items --format csv --out shop
        recsys export factors lists --version 7
        recsys export projector --out vectors
    """
    from jobs.cli.show import show
    from jobs.export import export
    from recsys.results import FilesReport

    if format not in ("parquet", "csv"):
        raise typer.BadParameter(f"--format {format}: expected parquet or csv")
    chosen = what or ["ratings", "users", "items"]
    for each in chosen:
        if each not in WHAT:
            raise typer.BadParameter(f"{each}: expected any of {', '.join(WHAT)}")
    engine, _ = open_database()
    files = export(engine, out, chosen, format, version)  # type: ignore[arg-type]
    show(FilesReport(files=[str(path) for path in files]), json)


@stoppable("there is no backup; an earlier one of that name is as it was")
def backup_command(
    file: Annotated[Path, typer.Argument(help="The file to write. A backup of that name is replaced.")],
    json: JsonOption = False,
) -> None:
    """Write everything that the database holds to one file, while the service goes on.

    The file holds one moment: ratings, users, items, all model versions, tuned settings, API keys (hashed) and the
    records of what ran. It ends with a checksum of all of it. Only this user can read it. SQLite and PostgreSQL
    write the same file: a backup of one is restored into the other.

        recsys backup /backup/recsys-monday.zip
    """
    from jobs.backup import backup
    from jobs.cli.show import show

    engine, _ = open_database()
    show(backup(engine, file), json)


@stoppable("the database is as it was")
def restore_command(
    file: Annotated[Path, typer.Argument(help="A file that `recsys backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what the database holds. Without it, it must be empty.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read everything back and compare it with the backup before it is visible."),
    ] = False,
    erasures: Annotated[
        list[Path] | None,
        typer.Option("--erasures", help="A journal of erasures from elsewhere; repeated for several."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Restore a backup into the database that RECSYS_DATABASE_URL names.

    The whole file is checked first. The restore is one transaction: servers answer from the old content until they
    answer from the restored one, and after an error nothing has changed. Users who were erased since the backup are
    erased again, as the database and its journal of erasures remember them. The exit code is 3 while a load or a
    training runs.

        recsys restore /backup/recsys-monday.zip
        recsys restore /backup/recsys-monday.zip --replace --verify
        RECSYS_DATABASE_URL=postgresql://recsys@db.example/recsys recsys restore move.zip
        recsys restore recsys-monday.zip --erasures /srv/old/recsys.db.erasures
    """
    from jobs.backup import restore
    from jobs.cli.show import show
    from recsys.database.engine import connect
    from recsys.settings import load_settings

    settings = load_settings()
    engine = connect(settings.database_url)
    used_databases.append(engine.url.render_as_string(hide_password=True))
    show(restore(engine, file, settings, replace=replace, verify=verify, journals=erasures or []), json)


def erase_user_command(
    user_id: Annotated[str, typer.Argument(metavar="USER_ID", help="Id of the user, as loaded.")],
    rewrite: Annotated[
        bool,
        typer.Option(
            "--rewrite",
            help="Write PostgreSQL's tables anew, so that no freed space has the user. Readers and writers wait.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Erase a user everywhere, and print a receipt: what was removed where, and what is out of reach.

    Ratings, events, metadata, their rows in every stored version, checkpoints of trainings, and the lists, exports and
    reports of rejected rows that were made on this machine. No later load of an old file brings the user back, and no
    restore of an older backup: the erasure is noted, hashed, in the journal beside an SQLite file, or in the file that
    RECSYS_ERASURE_JOURNAL names. An id that begins with a dash goes after two dashes.

        recsys erase-user 196
        recsys erase-user 196 --json > receipt.json
        recsys erase-user -- -7
    """
    from jobs.cli.show import show
    from recsys.library.erasing import erase_person

    engine, settings = open_database()
    show(erase_person(engine, user_id, settings, actor=actor(), rewrite=rewrite), json)
