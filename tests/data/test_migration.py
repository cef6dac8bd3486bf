"""Migrations build the schema, take it down again, and do not drift from its definition."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from recsys.data import migration, schema
from recsys.data.database import connect, reading, writing
from recsys.errors import DatabaseError


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names()) - {"alembic_version", "sqlite_sequence"}


def test_up_builds_every_table_and_down_leaves_none(empty_engine: Engine) -> None:
    migration.upgrade(empty_engine)
    assert tables(empty_engine) == set(schema.metadata.tables)
    assert migration.current_revision(empty_engine) == migration.head_revision()
    migration.downgrade(empty_engine, "base")
    assert tables(empty_engine) == set()
    migration.upgrade(empty_engine)
    assert tables(empty_engine) == set(schema.metadata.tables)


def test_migrations_and_metadata_agree(engine: Engine) -> None:
    with reading(engine) as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": schema.metadata}
        )
        assert compare_metadata(context, schema.metadata) == []


def test_upgrading_twice_changes_nothing(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE change_counter SET seq = 7"))
    migration.upgrade(engine)
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT seq FROM change_counter")) == 7


def test_an_empty_sqlite_database_is_made_ready_and_an_empty_postgres_is_not(empty_engine: Engine) -> None:
    if empty_engine.dialect.name == "sqlite":
        migration.ready(empty_engine)
        assert tables(empty_engine) == set(schema.metadata.tables)
    else:
        with pytest.raises(DatabaseError, match="recsys init"):
            migration.ready(empty_engine)


def test_another_schema_is_refused(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match=r"schema 9999, this version needs .*: run `recsys init`"):
        migration.ready(engine)


def test_sqlite_never_gives_a_key_twice(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'keys.db'}")
    migration.upgrade(engine)
    with writing(engine) as connection:
        connection.execute(text("INSERT INTO users (user_id) VALUES ('a')"))
        connection.execute(text("DELETE FROM users"))
        connection.execute(text("INSERT INTO users (user_id) VALUES ('b')"))
        assert connection.scalar(text("SELECT user_key FROM users")) == 2
