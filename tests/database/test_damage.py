"""What is stored of a version is checked: nothing damaged is served."""

import random
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, Table, delete, insert, select, update

from recsys.database import schema
from recsys.database.engine import reading, writing
from recsys.database.models import load_factors, publish, store, version
from recsys.database.publications import previously_published
from recsys.database.retention import prune
from recsys.database.users import erase_user
from recsys.errors import DamagedVersionError, TrainingError
from recsys.factors import Factors
from recsys.serving.refresh import LiveRecommender
from tests.conftest import add_known_model, add_known_rows
from tests.serving.made import load, states
from tests.serving.test_refresh import FEATURES


@pytest.fixture
def rows(engine: Engine) -> Engine:
    add_known_rows(engine)
    return engine


WAYS = [
    "flipped bit",
    "flipped bit of a bias",
    "short vector",
    "long vector",
    "not a number",
    "infinite",
    "another row's vector",
    "deleted row",
    "half of the rows deleted",
    "all rows deleted",
    "flipped bit of the weights",
    "weights deleted",
    "global bias",
    "counts",
]


def damage(engine: Engine, number: int, seed: int, table: Table) -> str:
    """Damage what is stored of a version in one random way, in the rows of a table where it is one of rows."""
    rng = random.Random(seed)
    way = WAYS[seed % len(WAYS)]
    key, stored, models = table.columns[1], table.c, schema.models.c
    of_version = stored.number == number
    weights = schema.model_weights
    with writing(engine) as connection:
        keys = connection.scalars(select(key).where(of_version).order_by(key)).all()
        one, other = rng.sample(list(keys), 2)
        row = of_version & (key == one)
        name = rng.choice([name for name in ("vector", "implicit") if name in stored])
        vector = bytearray(connection.scalar(select(stored[name]).where(row)) or b"")
        bias = np.array([connection.scalar(select(stored.bias).where(row))], np.float32)
        match way:
            case "flipped bit":
                vector[rng.randrange(len(vector))] ^= 1 << rng.randrange(8)
            case "short vector":
                del vector[rng.randrange(len(vector)) :]
            case "long vector":
                vector += b"\0" * rng.randrange(1, 9)
            case "not a number" | "infinite":
                value = np.float32("nan" if way == "not a number" else "inf")
                vector[4 * rng.randrange(len(vector) // 4) :][:4] = b""
                vector += value.tobytes()
            case "another row's vector":
                vector = bytearray(connection.scalar(select(stored[name]).where(of_version & (key == other))) or b"")
            case "flipped bit of a bias":
                bias.view(np.uint32)[0] ^= 1 << rng.randrange(23)  # it stays finite
        match way:
            case "deleted row":
                connection.execute(delete(table).where(row))
            case "half of the rows deleted":
                connection.execute(delete(table).where(of_version, key.in_(keys[::2])))
            case "all rows deleted":
                connection.execute(delete(table).where(of_version))
            case "flipped bit of a bias":
                connection.execute(update(table).where(row).values(bias=float(bias[0])))
            case "flipped bit of the weights":
                content = bytearray(
                    connection.scalar(select(weights.c.weights).where(weights.c.number == number)) or b""
                )
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
                connection.execute(update(weights).where(weights.c.number == number).values(weights=bytes(content)))
            case "weights deleted":
                connection.execute(delete(weights).where(weights.c.number == number))
            case "global bias":
                connection.execute(update(schema.models).where(models.number == number).values(global_bias=0.5))
            case "counts":
                column = rng.choice(["n_items", "n_users", "n_factors"])
                values = {column: models[column] + rng.choice([-1, 1])}
                connection.execute(update(schema.models).where(models.number == number).values(values))
            case _:
                connection.execute(update(table).where(row).values({name: bytes(vector)}))
    return f"{way} of {table.name}"


TABLES = (schema.models, schema.item_factors, schema.user_factors, schema.model_weights)


def keep_rows(engine: Engine, number: int) -> dict[str, list[dict[str, object]]]:
    """Return all rows of a version by table."""
    with reading(engine) as connection:
        return {
            table.name: [
                dict(row._mapping) for row in connection.execute(select(table).where(table.c.number == number))
            ]
            for table in TABLES
        }


def restore_rows(engine: Engine, number: int, kept: dict[str, list[dict[str, object]]]) -> None:
    with writing(engine) as connection:
        for table in TABLES[1:]:
            connection.execute(delete(table).where(table.c.number == number))
            connection.execute(insert(table), kept[table.name])
        connection.execute(update(schema.models).where(schema.models.c.number == number).values(kept["models"][0]))


def add_full_model(engine: Engine, sign: float) -> int:
    """Store a version that has everything: implicit vectors, features, a global bias."""
    factors = replace(known_factors(engine, sign), global_bias=0.25)
    items = replace(factors.items, implicit=factors.items.factors[::-1] / 8, features=FEATURES)
    with reading(engine) as connection:
        training = replace(version(connection, 1).training, gate_passed=True)
    return store(engine, replace(factors, items=items), training)


def known_factors(engine: Engine, sign: float) -> Factors:
    number = add_known_model(engine, "ranking", sign=sign)
    with reading(engine) as connection:
        return load_factors(connection, number)


@pytest.mark.parametrize(
    "seeds", [range(28), pytest.param(range(100, 212), marks=pytest.mark.long)], ids=["short", "long"]
)
def test_promise_1_a_damaged_version_is_never_served(rows: Engine, seeds: range) -> None:
    """The version before it is served instead, and readiness has a reason. A damaged user's row is folded in."""
    older, newer = add_full_model(rows, 1.0), add_full_model(rows, -1.0)
    publish(rows, older, "first")
    publish(rows, newer, "second")
    kept, wrong = keep_rows(rows, newer), []
    for seed in seeds:
        table = [schema.item_factors, schema.user_factors][seed // len(WAYS) % 2]
        way = damage(rows, newer, seed, table)
        live = LiveRecommender(rows, refresh_seconds=3600)
        live.refresh()
        for _ in range(2):  # what is damaged is not tried again and again, and stays a problem
            model = live.current.models["ranking"]
            if model.number == newer:
                # Single rows of users are checked when they are read.
                found = states(rows, live.current, ["u1", "u2", "s/1 ü"])
                n_damaged = sum(state.source != "model" for state in found)
                fine = table is schema.user_factors and n_damaged == 1 and live.problem is None
            else:
                fine = model.number == older and f"version {newer} is damaged" in (live.problem or "")
            if not fine:
                wrong.append((seed, way, model.number, live.problem))
            live.refresh()
        restore_rows(rows, newer, kept)
    assert wrong == []
    assert load(rows).models["ranking"].number == newer


def test_with_no_version_before_it_lists_come_from_popularity(rows: Engine) -> None:
    number = add_known_model(rows, "ranking")
    publish(rows, number, "first")
    damage(rows, number, 0, schema.item_factors)
    recommender = load(rows)
    assert recommender.models == {}
    assert recommender.list_model() is None


def test_a_version_that_is_damaged_while_it_is_served_goes_on_from_memory(rows: Engine) -> None:
    number = add_known_model(rows, "ranking")
    publish(rows, number, "first")
    live = LiveRecommender(rows, refresh_seconds=3600)
    live.refresh()
    damage(rows, number, 1, schema.item_factors)
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
