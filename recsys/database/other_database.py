"""Rows of a query on another database, for a load: read only, and never all of them in memory."""

import csv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import BigInteger, BindParameter, DateTime, NullPool, bindparam, create_engine, exc, text
from sqlalchemy.engine import URL, make_url

from recsys.data.messages import printable
from recsys.errors import InputError

ROWS_AT_ONCE = 10_000
EXAMPLE = "postgresql://USER:PASSWORD@HOST/NAME or sqlite:///FILE"


def write_query(url: str, sql: str, since_ms: int, out: TextIO, on_rows: Callable[[int], None] | None = None) -> None:
    """Write the result of a query as CSV with a header.

    The cursor is the server's, where the driver has such; what the query writes is rolled back.

    Args:
        url: of any database that SQLAlchemy has a driver for. No message shows its password.
        sql: may have `:since` (a time), `:since_seconds` and `:since_ms` (Unix time).
        since_ms: Unix milliseconds; 0 where no time was said.
        on_rows: called with the number of rows just written.

    Raises:
        InputError: the database cannot be reached, the query cannot be run, or its result cannot be rows of ratings.
    """
    parsed = source_url(url)
    since = datetime.fromtimestamp(since_ms / 1000, UTC)
    parameters: dict[str, BindParameter[Any]] = {
        "since": bindparam("since", since, DateTime(timezone=True)),
        "since_seconds": bindparam("since_seconds", since_ms // 1000, BigInteger()),
        "since_ms": bindparam("since_ms", since_ms, BigInteger()),
    }
    with translate_source_errors(parsed):
        engine = create_engine(parsed, poolclass=NullPool)
        options: Mapping[str, object] = {"stream_results": True, "max_row_buffer": ROWS_AT_ONCE}
        if parsed.get_backend_name() == "postgresql":
            options = {**options, "postgresql_readonly": True}
        statement = text(sql)
        named = [parameter for name, parameter in parameters.items() if name in statement.compile().params]
        with engine.connect().execution_options(**options) as connection:
            result = connection.execute(statement.bindparams(*named))
            if not result.returns_rows:
                raise InputError("--from-query: the query returns no rows: expected a SELECT of user, item and rating")
            names = list(result.keys())
            writer = csv.writer(out)
            writer.writerow(names)
            for rows in result.partitions(ROWS_AT_ONCE):
                for name, column in zip(names, zip(*rows, strict=True), strict=True):
                    if not {bytes, memoryview, bytearray}.isdisjoint(map(type, column)):
                        raise InputError(
                            f"--from-query: column {printable(name)} holds bytes: cast it to text in the query"
                        )
                writer.writerows(rows)
                if on_rows is not None:
                    on_rows(len(rows))


def source_url(url: str) -> URL:
    """Return the address of a database to read from, with the driver of this package where there are several.

    Raises:
        InputError: it is no address, or of an SQLite file that does not exist.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise InputError(f"RECSYS_SOURCE_URL is not a database URL: expected {EXAMPLE}; correct it") from None
    if parsed.drivername in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        if not path.is_file():  # SQLite would create it
            raise InputError(f"RECSYS_SOURCE_URL: there is no file {printable(str(path))}: correct the path")
        return parsed.set(database=f"file:{path.resolve()}", query={"mode": "ro", "uri": "true"})
    return parsed


@contextmanager
def translate_source_errors(url: URL) -> Iterator[None]:
    """Turn errors of a database that is read from into an `InputError` without the password.

    Raises:
        InputError: one was raised in the block.
    """
    name = printable(url.set(query={}).render_as_string(hide_password=True))
    try:
        yield
    except (exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise InputError(
            f"RECSYS_SOURCE_URL: no driver for {url.drivername} is installed ({error}): install it with pip, and name "
            "it in the address, such as mysql+pymysql://…"
        ) from None
    except exc.OperationalError as error:
        raise InputError(
            f"{name} cannot be read ({reason_of(error, url)}): check RECSYS_SOURCE_URL, the network and --from-query"
        ) from None
    except (exc.SQLAlchemyError, UnicodeError) as error:
        raise InputError(f"{name}: the query cannot be run ({reason_of(error, url)}): correct --from-query") from None


def reason_of(error: Exception, url: URL) -> str:
    """Return the first line of an error, without the password of an address."""
    said = str(getattr(error, "orig", None) or error).strip()
    first = printable(said.splitlines()[0])[:200] if said else type(error).__name__
    return first.replace(url.password, "***") if url.password else first
