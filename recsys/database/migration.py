"""Bringing a database to the schema that this version needs."""

from importlib.util import find_spec
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from recsys.database import schema
from recsys.database.engine import is_empty, is_sqlite, lock_schema, reading, writing
from recsys.errors import DatabaseError


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the migrations up to a revision; nothing happens when the database is there already.

    Raises:
        DatabaseError: a newer version of the package made the database.
    """
    with writing(engine) as connection:
        lock_schema(connection)
        config = _config()
        current = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current is not None and current not in known:
            where = engine.url.render_as_string(hide_password=True)
            raise DatabaseError(
                f"{where} has schema {current}, which this version does not know: a newer version of recsys made it; "
                "install that version, or restore an earlier copy of the database"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def is_compared(thing: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
    """Return whether Alembic compares a part of the schema: not the keys for which PostgreSQL has triggers."""
    table = getattr(thing, "table", None)
    return kind != "foreign_key_constraint" or table is None or table.name not in schema.FEEDBACK_TABLES


def downgrade(engine: Engine, revision: str) -> None:
    """Take migrations back down to a revision; `base` leaves no table."""
    with writing(engine) as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def current_revision(engine: Engine) -> str | None:
    with reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def ready(engine: Engine) -> None:
    """Make sure the schema is the one this version needs; an empty SQLite database is migrated on the spot.

    Raises:
        DatabaseError: the database has another schema, or none and is not SQLite.
    """
    if is_sqlite(engine) and is_empty(engine):
        upgrade(engine)
        return
    current, head = current_revision(engine), head_revision()
    if current != head:
        where = engine.url.render_as_string(hide_password=True)
        fix = "run `recsys init`"
        if current is not None and current > head:
            fix = "a newer version of recsys made it; install that version"
        raise DatabaseError(f"{where} has schema {current or 'none'}, this version needs {head}: {fix}")


def _config() -> Config:
    spec = find_spec("migrations")
    if spec is None or spec.origin is None:
        raise DatabaseError("the package `migrations` is not installed: install the project again")
    config = Config()
    config.set_main_option("script_location", str(Path(spec.origin).parent))
    return config
