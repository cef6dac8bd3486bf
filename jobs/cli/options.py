"""Options that several commands share, and the database that the settings name.

Nothing here imports pydantic, SQLAlchemy or torch when it is loaded, so that `recsys --help` answers at once.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from recsys.files.options import ReadOptions
    from recsys.settings import Settings

# The choices of `recsys.results` and `recsys.evaluation.splits`, whose imports take longer than all of `--help`.
ObjectiveName = Literal["rating", "ranking"]
ArchitectureName = Literal["dot", "neural", "item", "blend"]
SplitName = Literal["last-tenth", "hash", "random", "time-cut", "leave-last-out"]
PopularByName = Literal["bias", "count", "mean", "trending"]
OrderName = Literal["desc", "asc"]

ObjectiveOption = Annotated[
    ObjectiveName,
    typer.Option(
        "--objective",
        help="What the model learns. `ranking`: to put the items a user will like first; lists come from it. "
        "`rating`: to predict ratings; predictions and item biases come from it.",
    ),
]
ArchitectureOption = Annotated[
    ArchitectureName,
    typer.Option(
        "--architecture",
        help="Kind of model. `dot`: a dot product of factors; `neural`: layers above embeddings; "
        "`item`: weights between items, for lists; `blend`: `dot` and `item` added.",
    ),
]
NightArchitectureOption = Annotated[
    ArchitectureName | None,
    typer.Option("--architecture", help="Kind of model of the lists. Default: the best of dot, item and blend."),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="Where to train. `auto` takes the GPU if there is one."),
]
FactorsOption = Annotated[
    int | None,
    typer.Option("--n-factors", min=1, help="Number of factors. Default: chosen from the number of ratings."),
]
EpochsOption = Annotated[
    int | None,
    typer.Option("--n-epochs", min=1, help="Passes over the ratings. Default: chosen from the number of ratings."),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Ratings per step. Default: chosen from the number of ratings."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", help="Seed of all random numbers: the same seed on the same machine repeats a result.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")]
CountOption = Annotated[int, typer.Option("--n", "-n", min=1, max=1000, help="Number of items to list.")]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="File format: ml-100k, ml-latest, dat (columns separated by ::), csv, tsv, jsonl or parquet. "
        "Default: recognised from the content.",
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FIELD=COLUMN",
        help="Column of a field: user_id, item_id, rating, rated_at, weight, event or deleted =NAME. For a file "
        "without a header give numbers, the first column being 1. Repeat the option, or separate pairs by commas.",
    ),
]


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Setting of the training, such as weight_decay=0.3; repeat it for several. [train] in recsys.toml holds "
        "them for every night.",
    ),
]
MapItemsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map-items",
        metavar="FIELD=COLUMN",
        help="Column of the file of items: item_id=NAME, title=NAME, categories=NAME or year=NAME.",
    ),
]
MapUsersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map-users", metavar="FIELD=COLUMN", help="Column of the file of users: user_id=NAME or categories=NAME."
    ),
]
ItemsOption = Annotated[Path | None, typer.Option("--items", help="File of items: ids, titles, years, genres.")]
UsersOption = Annotated[Path | None, typer.Option("--users", help="File of users: ids and any other columns.")]
AppendOption = Annotated[
    bool,
    typer.Option(
        "--append", help="Count only events later than the latest counted one of their user and item, and add them."
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Leave rows of an earlier time out: a date or time such as 2026-01-31, or so long ago: 36h, 7d. In the "
        "query of --from-query it is :since.",
    ),
]
FromQueryOption = Annotated[
    str | None,
    typer.Option(
        "--from-query",
        metavar="SQL",
        help="Query on the database RECSYS_SOURCE_URL whose rows are loaded. It may have :since (a time), "
        ":since_seconds or :since_ms, which are 1970 without --since.",
    ),
]
AllowErasedOption = Annotated[bool, typer.Option("--allow-erased", help="Load the rows of users who were erased, too.")]
ImplicitOption = Annotated[
    bool | None,
    typer.Option(
        "--implicit/--explicit",
        help="Whether the rows are events, counts, seconds or money, or ratings. Default: recognised from the file.",
    ),
]
EventWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--event-weights",
        metavar="NAME=NUMBER,…",
        help="How much each event counts, such as view=1,cart=3,purchase=5. 0 leaves such rows out.",
    ),
]
UnratedOption = Annotated[
    str | None, typer.Option("--unrated", metavar="VALUE", help="Rating that stands for none, such as 0 or NULL.")
]
TimeFormatOption = Annotated[
    str | None,
    typer.Option(
        "--time-format",
        help="Form of the times: s, ms, us, ns, days (of a spreadsheet), or one such as %d/%m/%Y %H:%M. "
        "Default: recognised.",
    ),
]


def read_options(
    implicit: bool | None = None,
    event_weights: str | None = None,
    unrated: str | None = None,
    time_format: str | None = None,
    map_items: list[str] | None = None,
    map_users: list[str] | None = None,
    since: str | None = None,
) -> ReadOptions:
    """Return how the options say that files are to be read.

    Raises:
        InputError: an option has a value that cannot be used.
    """
    from recsys.data.columns import ITEM_COLUMNS, USER_COLUMNS
    from recsys.data.times import TimeReader, parse_since
    from recsys.database.clock import now_ms
    from recsys.files.options import ReadOptions
    from recsys.settings import parse_event_weights

    TimeReader(time_format)  # refuses a form that is none, before any file is read
    return ReadOptions(
        implicit=implicit,
        event_weights=None if event_weights is None else parse_event_weights(event_weights),
        unrated=unrated,
        time_format=time_format,
        since_ms=None if since is None else parse_since(since, now_ms()),
        item_columns=pairs_of(map_items, "--map-items", tuple(ITEM_COLUMNS)),
        user_columns=pairs_of(map_users, "--map-users", tuple(USER_COLUMNS)),
    )


used_databases: list[str] = []
"""The databases that this process has opened, without passwords; `main` names the last one."""


def open_database(*, create: bool = False) -> tuple[Engine, Settings]:
    """Return the database that the settings name, with the tables of this version, and the settings.

    Args:
        create: whether to create a missing SQLite file, and the tables of an empty one.

    Raises:
        InputError: a setting has a value that cannot be used.
        DatabaseError: the database cannot be reached, is missing, or needs `recsys init`.
    """
    from recsys.database import migration
    from recsys.database.engine import connect
    from recsys.errors import DatabaseError
    from recsys.settings import load_settings

    settings = load_settings()
    engine = connect(settings.database_url)
    used_databases.append(engine.url.render_as_string(hide_password=True))
    if not create and is_new_file(engine):
        raise DatabaseError(
            f"{engine.url.render_as_string(hide_password=True)} holds no ratings yet: run `recsys load PATH` first, or "
            "`recsys init`; or name another database with RECSYS_DATABASE_URL"
        )
    migration.ready(engine)
    return engine, settings


def is_new_file(engine: Engine) -> bool:
    """Return whether the database is an SQLite file that is missing or empty. Creates nothing."""
    if engine.dialect.name != "sqlite":
        return False
    path = Path(engine.url.database or "")
    return not path.exists() or path.stat().st_size == 0


@contextmanager
def database_to_preview() -> Iterator[tuple[Engine, Settings]]:
    """Yield the database for a dry run: an empty temporary one in place of a missing or empty SQLite file.

    Raises:
        InputError: a setting has a value that cannot be used.
        DatabaseError: the database cannot be reached, or needs `recsys init`.
    """
    import tempfile

    from recsys.database import migration
    from recsys.database.engine import connect
    from recsys.settings import load_settings

    settings = load_settings()
    if not is_new_file(connect(settings.database_url)):
        yield open_database()
        return
    with tempfile.TemporaryDirectory() as folder:
        engine = connect(f"sqlite:///{folder}/preview.db")
        migration.upgrade(engine)
        yield engine, settings
        engine.dispose()


def reason_to_force(force: bool, reason: str | None) -> str | None:
    """Return the reason of a forced publication; `None` if it is not forced.

    Raises:
        UsageError: `--force` without `--reason`.
    """
    from recsys.errors import UsageError

    if not force:
        return None
    if reason is None or not reason.strip():
        raise UsageError('--force needs a reason, which is recorded: add --reason "…"')
    return reason


def columns_of(pairs: list[str] | None) -> dict[str, str] | None:
    """Return `user_id=customer,item_id=sku` as a mapping of field to column; `None` if nothing is given.

    Raises:
        UsageError: a pair is not FIELD=COLUMN, or the field does not exist.
    """
    return pairs_of(pairs, "--map", ("user_id", "item_id", "rating", "rated_at", "weight", "event", "deleted")) or None


def pairs_of(pairs: list[str] | None, option: str, fields: Sequence[str]) -> dict[str, str]:
    """Return `user_id=customer,item_id=sku` as a mapping of field to column.

    Raises:
        UsageError: a pair is not FIELD=COLUMN, or the field does not exist.
    """
    from recsys.errors import UsageError

    columns: dict[str, str] = {}
    for pair in ",".join(pairs).split(",") if pairs else ():
        name, equals, column = pair.partition("=")
        if not equals or not column or name not in fields:
            expected = " or ".join(f"{field}=COLUMN" for field in fields)
            raise UsageError(f"{option} {pair}: expected {expected}")
        columns[name] = column
    return columns


def actor() -> str:
    """Return the name of the person at the command line, for the audit log."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user often has no name
        login = ""
    # The name comes from the environment and may hold anything; the database takes printable characters only.
    login = "".join(character for character in login if character.isprintable())
    return f"command line ({login})" if login else "command line"
