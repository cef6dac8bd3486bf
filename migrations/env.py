"""What Alembic runs: the project's engine, or the one that `recsys.database.migration` hands over."""

from alembic import context
from sqlalchemy import Connection

from recsys.database.engine import connect, writing
from recsys.database.migration import is_compared
from recsys.database.schema import metadata
from recsys.settings import load_settings


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        compare_server_default=True,
        include_object=is_compared,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with writing(connect(load_settings().database_url)) as connection:
        migrate(connection)
