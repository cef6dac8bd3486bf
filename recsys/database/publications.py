"""Publications of versions, the newest first."""

from typing import NamedTuple

from sqlalchemy import Connection, select

from recsys.database import schema


class Publication(NamedTuple):
    """A version went live.

    Attributes:
        action: `publish` or `rollback`.
        published_at: Unix milliseconds in UTC.
    """

    objective: str
    number: int
    replaced_number: int | None
    action: str
    reason: str
    published_at: int


def read_publications(connection: Connection, limit: int = 50) -> list[Publication]:
    """Return the latest publications."""
    table = schema.publications
    columns = [table.c[name] for name in Publication._fields]
    rows = connection.execute(select(*columns).order_by(table.c.publication_key.desc()).limit(limit))
    return [Publication(*row) for row in rows]
