"""What is stored of a version is checked: nothing damaged is served."""

import random

import numpy as np
import pytest
from sqlalchemy import Engine, delete, select, update

from recsys.database import schema
from recsys.database.engine import reading, writing
from recsys.database.models import load_factors, previously_published, prune, publish, version
from recsys.database.users import erase_user
from recsys.errors import DamagedVersionError, TrainingError
from recsys.factors import Factors
from recsys.serving.refresh import LiveRecommender
from tests.conftest import add_known_model, add_known_rows
from tests.serving.made import load, states

SEEDS = range(12)


@pytest.fixture
def rows(engine: Engine) -> Engine:
    add_known_rows(engine)
    return engine


def damage(engine: Engine, number: int, seed: int) -> str:
    """Damage what is stored of the item side in one random way; returns which."""
    rng = random.Random(seed)
    items = schema.item_factors
    with writing(engine) as connection:
        keys = connection.scalars(select(items.c.item_key).where(items.c.number == number)).all()
        row = (items.c.number == number) & (items.c.item_key == rng.choice(keys))
        vector = bytearray(connection.scalar(select(items.c.vector).where(row)) or b"")
        way = ["flipped bit", "short vector", "deleted row", "all rows deleted", "not a number", "bias"][seed % 6]
        if way == "flipped bit":
            vector[rng.randrange(len(vector))] ^= 1 << rng.randrange(8)
        elif way == "short vector":
            del vector[rng.randrange(len(vector)) :]
        elif way == "not a number":
            vector[:4] = np.float32("nan").tobytes()
        if way == "deleted row":
            connection.execute(delete(items).where(row))
        elif way == "all rows deleted":
            connection.execute(delete(items).where(items.c.number == number))
        elif way == "bias":
            connection.execute(update(items).where(row).values(bias=items.c.bias + 0.25))
        else:
            connection.execute(update(items).where(row).values(vector=bytes(vector)))
    return way


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_item_side_is_never_served(rows: Engine, seed: int) -> None:
    """The version before it is served instead, and readiness has a reason."""
    older, newer = add_known_model(rows, "ranking"), add_known_model(rows, "ranking", sign=-1.0)
    publish(rows, older, "first")
    publish(rows, newer, "second")
    damage(rows, newer, seed)
    with reading(rows) as connection, pytest.raises(DamagedVersionError, match=f"version {newer} is damaged"):
        load_factors(connection, newer, users=False)
    live = LiveRecommender(rows, refresh_seconds=3600)
    live.refresh()
    assert live.current.models["ranking"].number == older
    assert live.problem is not None
    assert f"version {newer} is damaged" in live.problem
    live.refresh()  # what is damaged is not tried again and again, and stays a problem
    assert live.current.models["ranking"].number == older
    assert live.problem is not None


def test_with_no_version_before_it_lists_come_from_popularity(rows: Engine) -> None:
    number = add_known_model(rows, "ranking")
    publish(rows, number, "first")
    damage(rows, number, 0)
    recommender = load(rows)
    assert recommender.models == {}
    assert recommender.list_model() is None


def test_a_version_that_is_damaged_while_it_is_served_goes_on_from_memory(rows: Engine) -> None:
    number = add_known_model(rows, "ranking")
    publish(rows, number, "first")
    live = LiveRecommender(rows, refresh_seconds=3600)
    live.refresh()
    damage(rows, number, 1)
    live.refresh()
    assert live.current.models["ranking"].number == number
    assert live.problem is None


def test_a_user_with_a_damaged_row_is_folded_in(rows: Engine) -> None:
    number = add_known_model(rows, "ranking")
    publish(rows, number, "first")
    recommender = load(rows)
    (before,) = states(rows, recommender, ["u2"])
    stored = schema.user_factors.c
    with writing(rows) as connection:
        connection.execute(
            update(schema.user_factors).where(stored.number == number).values(vector=np.array([9, 9], "<f4").tobytes())
        )
    (after,) = states(rows, recommender, ["u2"])
    assert (before.source, after.source) == ("model", "fold_in")
    with reading(rows) as connection, pytest.raises(DamagedVersionError, match="another checksum"):
        load_factors(connection, number)


def test_missing_user_rows_are_noticed(rows: Engine) -> None:
    number = add_known_model(rows, "ranking")
    with writing(rows) as connection:
        connection.execute(delete(schema.user_factors).where(schema.user_factors.c.number == number))
    with reading(rows) as connection, pytest.raises(DamagedVersionError, match="3 users were stored and 0 are there"):
        load_factors(connection, number, users=False)


def test_an_erased_user_is_no_damage(rows: Engine) -> None:
    first, second = add_known_model(rows, "ranking"), add_known_model(rows, "rating")
    assert erase_user(rows, "u1", actor="test") is not None
    with reading(rows) as connection:
        for number in (first, second):
            assert load_factors(connection, number).n_users == version(connection, number).n_users == 2


def test_damaged_weights_are_noticed(rows: Engine) -> None:
    from tests.database.test_models import HEAD

    number = add_known_model(rows, "ranking", head=HEAD)
    weights = schema.model_weights
    with writing(rows) as connection:
        content = bytearray(connection.scalar(select(weights.c.weights)) or b"")
        content[-2] ^= 16
        connection.execute(update(weights).values(weights=bytes(content)))
    with reading(rows) as connection, pytest.raises(DamagedVersionError):
        load_factors(connection, number)
    with writing(rows) as connection:
        connection.execute(update(weights).values(weights=b"nothing"))
    with reading(rows) as connection, pytest.raises(DamagedVersionError, match="weights cannot be read"):
        load_factors(connection, number)


def test_a_version_stored_before_checksums_is_served_unverified(rows: Engine) -> None:
    number = add_known_model(rows, "ranking")
    with writing(rows) as connection:
        connection.execute(update(schema.models).values(checksum=None))
        connection.execute(update(schema.user_factors).values(checksum=None))
    erase_user(rows, "u1", actor="test")
    with writing(rows) as connection:  # as an erasure before checksums left it
        connection.execute(update(schema.models).values(n_users=3))
    with reading(rows) as connection:
        assert load_factors(connection, number).n_users == 2
        assert version(connection, number).checksum is None


def test_numbers_that_are_not_finite_are_not_stored(rows: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("tests.conftest", fromlist=["x"]).KNOWN_FACTORS, "a", (float("nan"), 0.0, 0.1))
    with pytest.raises(TrainingError, match="not finite"):
        add_known_model(rows, "ranking")


def test_prune_keeps_the_rollback_target_and_deletes_refused_versions(rows: Engine) -> None:
    numbers = [add_known_model(rows, "ranking") for _ in range(6)]
    for number in numbers[:3]:
        publish(rows, number, "in order")
    with writing(rows) as connection:
        connection.execute(
            update(schema.models).where(schema.models.c.number.in_(numbers[3:5])).values(gate_passed=False)
        )
    with reading(rows) as connection:
        assert previously_published(connection, "ranking") == [2, 1]
    # 3 is live, 2 the rollback target, 6 the newest; 4 and 5 were refused, 1 is beyond them.
    assert prune(rows, 1) == [5, 4, 1]
    with reading(rows) as connection:
        assert isinstance(load_factors(connection, 2), Factors)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_prune_gives_the_disk_back(engine: Engine) -> None:
    add_known_rows(engine)
    number = add_known_model(engine, "ranking")
    publish(engine, number, "live")
    with reading(engine) as connection:
        before = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    doomed = add_known_model(engine, "ranking")
    add_known_model(engine, "ranking")
    with writing(engine) as connection:  # make the version large
        connection.execute(
            update(schema.item_factors).where(schema.item_factors.c.number == doomed).values(implicit=b"x" * 200_000)
        )
    with reading(engine) as connection:
        large = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    assert prune(engine, 1) == [doomed]
    with reading(engine) as connection:
        after = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    assert large > before + 200
    assert after < before + 20
