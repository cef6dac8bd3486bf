"""Weights between items in a database: in chunks, whole, and gone with their version."""

import numpy as np
import pytest
from sqlalchemy import Engine, delete, func, select, update

from recsys.database import model_rows, schema
from recsys.database.engine import reading, writing
from recsys.database.models import load_factors, load_judged, publish, store, version
from recsys.database.retention import prune
from recsys.errors import DamagedVersionError, TrainingError
from recsys.factors import Factors
from tests.conftest import add_known_item_model, add_known_model, add_known_rows


@pytest.fixture
def number(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(model_rows, "CHUNK_ENTRIES", 2)
    add_known_rows(engine)
    return add_known_item_model(engine)


def load(engine: Engine, number: int, *, users: bool = True) -> Factors:
    with reading(engine) as connection:
        return load_factors(connection, number, users=users)


def test_weights_come_back_from_their_chunks_and_go_with_the_version(engine: Engine, number: int) -> None:
    chunks = select(func.count()).select_from(schema.item_weights)
    with reading(engine) as connection:
        assert connection.scalar(chunks) == 3
    for factors in (load(engine, number), load(engine, number, users=False)):
        assert factors.weights is not None
        assert factors.n_factors == 0
        assert factors.weights.starts.tolist() == [0, 2, 3, 5, 5, 5, 5]
        assert factors.weights.values.tolist() == np.array([0.5, 0.2, 0.4, -0.1, 0.6], np.float32).tolist()
    assert load(engine, number).n_users == 3
    publish(engine, add_known_model(engine, "ranking"), "so that the other can go")
    assert number in prune(engine, 1)
    with reading(engine) as connection:
        assert connection.scalar(chunks) == 0


def test_a_twin_is_judged_with_its_weights(engine: Engine, number: int) -> None:
    factors = load(engine, number)
    with reading(engine) as connection:
        training = version(connection, number).training
    stored = store(engine, factors, training, twin=factors)
    with reading(engine) as connection:
        judged = load_judged(connection, stored)
    assert judged.weights is not None
    assert judged.constants == factors.constants
    assert judged.weights.values.tolist() == load(engine, stored).weights.values.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("way", ["flipped bit", "deleted chunk", "all deleted", "another order", "not safetensors"])
def test_damage_is_found(engine: Engine, number: int, way: str) -> None:
    table = schema.item_weights
    with writing(engine) as connection:
        mine = table.c.number == number
        content = bytearray(connection.scalar(select(table.c.weights).where(mine, table.c.chunk == 1)) or b"")
        match way:
            case "flipped bit":
                content[-1] ^= 1
                values = {"weights": bytes(content)}
                connection.execute(update(table).where(mine, table.c.chunk == 1).values(values))
            case "deleted chunk":
                connection.execute(delete(table).where(mine, table.c.chunk == 1))
            case "all deleted":
                connection.execute(delete(table).where(mine))
            case "another order":
                connection.execute(update(table).where(mine, table.c.chunk == 1).values(chunk=9))
            case "not safetensors":
                connection.execute(update(table).where(mine, table.c.chunk == 1).values(weights=b"x"))
    with pytest.raises(DamagedVersionError):
        load(engine, number)


def test_weights_that_are_not_finite_are_not_stored(engine: Engine, number: int) -> None:
    factors = load(engine, number)
    assert factors.weights is not None
    with reading(engine) as connection:
        training = version(connection, number).training
    factors.weights.values[0] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        store(engine, factors, training)
