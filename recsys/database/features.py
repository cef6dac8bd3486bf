"""Features of users and items, read from their stored metadata."""

from sqlalchemy import Connection, Table, select

from recsys.data.features import MIN_ROWS, Features, build_features
from recsys.database import schema


def read_item_features(connection: Connection, *, min_rows: int = MIN_ROWS) -> Features:
    """Features of all items in the database, rated or not."""
    return _read(connection, schema.items, min_rows)


def read_user_features(connection: Connection, *, min_rows: int = MIN_ROWS) -> Features:
    """Features of all users in the database, whether they rated anything or not."""
    return _read(connection, schema.users, min_rows)


def _read(connection: Connection, table: Table, min_rows: int) -> Features:
    rows = connection.execute(select(table.columns[0], table.c.categories, table.c.attributes)).all()
    return build_features(
        [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], min_rows=min_rows
    )
