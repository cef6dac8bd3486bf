"""Migrations build the schema, take it down again, and do not drift from its definition."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, insert, inspect, select, text

from recsys.database import migration, schema
from recsys.database.engine import connect, reading, writing
from recsys.errors import DatabaseError

FIRST_VERSION = {
    "objective": "ranking",
    "architecture": "dot",
    "status": "ready",
    "configuration": {"n_factors": 2},
    "metrics": {"ndcg": 0.5},
    "baselines": {},
    "history": [],
    "data_fingerprint": "known",
    "trained_seq": 0,
    "n_users": 1,
    "n_items": 1,
    "n_ratings": 1,
    "n_factors": 2,
    "global_bias": 0.0,
    "rating_min": 1.0,
    "rating_max": 5.0,
    "created_at": 0,
    "training_seconds": 0.1,
    "gate_passed": True,
    "gate_reason": "known",
}


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
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "include_object": migration.is_compared,
                "target_metadata": schema.metadata,
            },
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


def test_a_database_of_the_first_schema_keeps_its_rows(empty_engine: Engine) -> None:
    migration.upgrade(empty_engine, "0001")
    with writing(empty_engine) as connection:
        connection.execute(text("INSERT INTO users (user_id) VALUES ('a')"))
        connection.execute(text("INSERT INTO items (item_id, title) VALUES ('i', 'Alien (1979)')"))
        connection.execute(text("INSERT INTO ratings (user_key, item_key, rating) VALUES (1, 1, 4.5)"))
        number = connection.scalar(insert(schema.models).values(FIRST_VERSION).returning(schema.models.c.number))
        connection.execute(text("INSERT INTO live_models (objective, number) VALUES ('ranking', 1)"))
    with pytest.raises(DatabaseError, match=r"has schema 0001, this version needs .*: run `recsys init`"):
        migration.ready(empty_engine)
    migration.upgrade(empty_engine)
    migration.ready(empty_engine)
    with writing(empty_engine) as connection:
        assert connection.execute(text("SELECT user_id FROM users")).all() == [("a",)]
        assert connection.execute(text("SELECT item_key, rating FROM ratings")).all() == [(1, 4.5)]
        stored = connection.execute(select(schema.models)).one()._asdict()
        assert {name: stored[name] for name in FIRST_VERSION} == FIRST_VERSION
        connection.execute(insert(schema.model_weights).values(number=number, weights=b"w"))
        connection.execute(text("DELETE FROM live_models"))
        connection.execute(text("DELETE FROM models"))
        assert connection.execute(select(schema.model_weights)).all() == []
    migration.downgrade(empty_engine, "0001")
    with reading(empty_engine) as connection:
        assert connection.scalar(text("SELECT rating FROM ratings")) == 4.5


def test_another_schema_is_refused(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match=r"schema 9999, .*: a newer version of recsys made it; install"):
        migration.ready(engine)


def test_sqlite_never_gives_a_key_twice(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'keys.db'}")
    migration.upgrade(engine)
    with writing(engine) as connection:
        connection.execute(text("INSERT INTO users (user_id) VALUES ('a')"))
        connection.execute(text("DELETE FROM users"))
        connection.execute(text("INSERT INTO users (user_id) VALUES ('b')"))
        assert connection.scalar(text("SELECT user_key FROM users")) == 2
