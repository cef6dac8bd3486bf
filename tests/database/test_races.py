"""Where two writers meet: no version is harmed, nothing is lost, and what lost its lease writes nothing."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from jobs.load import load
from recsys.database import engine as database
from recsys.database import rating_writes, schema
from recsys.database.engine import reading, writing
from recsys.database.ids import user_keys
from recsys.database.items import put_item
from recsys.database.leases import LOADING, TRAINING, Lease, lease
from recsys.database.models import Training, live_numbers, load_factors, publish, store, version
from recsys.database.retention import prune
from recsys.database.users import erase_user
from recsys.errors import LockedError, NotFoundError
from recsys.factors import Factors, Side
from recsys.serving.refresh import LiveRecommender
from recsys.settings import Settings
from tests.conftest import add_known_model, add_known_rows, expire_leases
from tests.database.made import kept_counts, post, true_counts, write
from tests.serving.made import states

N_USERS = 300


def trained(engine: Engine, n_users: int = 3) -> tuple[Factors, Training]:
    """What a training of the known rows leaves, with more users if wanted."""
    number = add_known_model(engine, "ranking")
    with reading(engine) as connection:
        factors, training = load_factors(connection, number), version(connection, number).training
    if n_users > 3:
        keys = np.sort(user_keys(engine, [f"u{at}" for at in range(n_users)]))
        vectors = np.ones((n_users, 2), np.float32)
        factors = replace(factors, users=Side(keys, vectors, np.zeros(n_users, np.float32)))
    return factors, training


def together(*actions: Callable[[], Any]) -> list[BaseException]:
    """Run actions at the same time; return what they raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(actions))

    def run(action: Callable[[], Any]) -> None:
        start.wait()
        try:
            action()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def count(engine: Engine, table: str) -> int:
    with reading(engine) as connection:
        return int(connection.scalar(select(func.count()).select_from(schema.metadata.tables[table])) or 0)


def test_promise_8_a_user_erased_during_a_training_is_left_out(engine: Engine) -> None:
    add_known_rows(engine)
    factors, training = trained(engine)
    change = erase_user(engine, "u1", actor="test")
    assert change is not None
    number = store(engine, factors, training)
    with reading(engine) as connection:
        stored = load_factors(connection, number)
    assert stored.user_keys.tolist() == [key for key in factors.user_keys.tolist() if key != change.user_key]


def test_promise_8_erasures_while_a_version_is_stored(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    add_known_rows(engine)
    factors, training = trained(engine, N_USERS)
    monkeypatch.setattr(database, "PIECE_ROWS", {"sqlite": 20, "postgresql": 20})
    numbers: list[int] = []
    erased = [f"u{at}" for at in range(5, N_USERS, 11)]
    raised = together(
        lambda: numbers.append(store(engine, factors, training)),
        lambda: [erase_user(engine, user_id, actor="test") for user_id in erased],
    )
    assert raised == []
    with reading(engine) as connection:
        stored = load_factors(connection, numbers[0])
    assert stored.n_users == N_USERS - len(erased)


def test_prune_against_publish_leaves_a_whole_live_version(engine: Engine) -> None:
    add_known_rows(engine)
    for _ in range(6):
        old = add_known_model(engine, "ranking")
        for _ in range(2):
            publish(engine, add_known_model(engine, "ranking"), "test")
        raised = together(lambda: prune(engine, 1), lambda old=old: publish(engine, old, "test"))  # type: ignore[misc]
        assert all(isinstance(error, NotFoundError) for error in raised), raised
        with reading(engine) as connection:
            number = live_numbers(connection)["ranking"]
            assert load_factors(connection, number).n_items == 6
        assert (number == old) == (raised == [])


@pytest.fixture
def stale(engine: Engine) -> Lease:
    """The lease of a training that was suspended, and whose place another one has taken and left."""
    with lease(engine, TRAINING) as held:
        expire_leases(engine)
        with lease(engine, TRAINING):
            pass
    return held


def test_promise_3_a_training_that_lost_its_lease_stores_deletes_and_publishes_nothing(
    engine: Engine, stale: Lease
) -> None:
    add_known_rows(engine)
    factors, training = trained(engine)
    for _ in range(2):
        publish(engine, add_known_model(engine, "ranking"), "test")
    with writing(engine) as connection:  # the successor stores its version at this moment
        connection.execute(schema.models.update().where(schema.models.c.number == 1).values(status="storing"))
    for action in (
        lambda: store(engine, factors, training, stale.guard),
        lambda: publish(engine, 2, "test", stale.guard),
        lambda: prune(engine, 1, guard=stale.guard),
    ):
        before = [count(engine, name) for name in ("models", "user_factors", "item_factors", "publications")]
        with pytest.raises(LockedError):
            action()
        after = [count(engine, name) for name in ("models", "user_factors", "item_factors", "publications")]
        assert after == before


def test_promise_3_a_load_that_lost_its_lease_overwrites_nothing(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("user_id,item_id,rating,rated_at\n" + "".join(f"u{at},a,1,{9 * 10**9}\n" for at in range(50)))
    with lease(engine, LOADING) as held:
        expire_leases(engine)
        with lease(engine, LOADING):
            post(engine, *[(f"u{at}", "a", 5.0) for at in range(50)])
        with pytest.raises(LockedError, match="another run has taken the lease"):
            load(engine, path, Settings(), guard=held.guard)
    with reading(engine) as connection:
        assert set(connection.scalars(select(schema.ratings.c.rating))) == {5.0}


@pytest.mark.postgres
def test_an_item_with_a_smaller_key_that_is_committed_later_is_found(postgres_engine: Engine) -> None:
    add_known_rows(postgres_engine)
    publish(postgres_engine, add_known_model(postgres_engine, "ranking"), "test")
    live = LiveRecommender(postgres_engine, refresh_seconds=3600)
    live.refresh()
    with writing(postgres_engine) as connection:  # takes its key now, and commits later
        late = connection.scalar(insert(schema.items).values(item_id="late").returning(schema.items.c.item_key))
        soon, _ = put_item(postgres_engine, "soon", {}, actor="test")
        assert live.refresh_items([soon.item_key]).catalogue.n_items == 8
    assert late < soon.item_key
    live.refresh_items([late])
    post(postgres_engine, ("reader", "late", 5.0), ("reader", "soon", 4.0))
    live.refresh()
    catalogue = live.current.catalogue
    [state] = states(postgres_engine, live.current, ["reader"])
    assert sorted(catalogue.items[at].item_id for at in state.seen.tolist()) == ["late", "soon"]


@pytest.mark.parametrize("table", ["ratings", "events"])
def test_feedback_belongs_to_a_user_who_is_there(engine: Engine, table: str) -> None:
    row = {"item_key": 1} | ({"rating": 1.0} if table == "ratings" else {"at": 1})
    add = insert(schema.metadata.tables[table])
    write(engine, ("z", "i", 1.0))  # a bulk load, which looks users up itself
    with writing(engine) as connection:
        keys = [
            connection.scalar(insert(schema.users).values(user_id=each).returning(schema.users.c.user_key))
            for each in ("a", "b", "c")
        ]
        connection.execute(add, [{"user_key": key, **row} for key in keys])
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(add, [{"user_key": keys[0], **row, "item_key": 2}, {"user_key": 99, **row}])
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(update(schema.metadata.tables[table]).values(user_key=99))
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(update(schema.users).where(schema.users.c.user_key == keys[0]).values(user_key=99))
    with writing(engine) as connection:
        connection.execute(delete(schema.users).where(schema.users.c.user_key.in_(keys[:2])))
        of_user = schema.metadata.tables[table].c.user_key
        assert set(connection.scalars(select(of_user).where(of_user.in_(keys)))) == {keys[2]}


@pytest.mark.postgres
@pytest.mark.parametrize("is_first", [True, False])
def test_an_erasure_and_an_insert_of_the_same_user_wait_for_each_other(postgres_engine: Engine, is_first: bool) -> None:
    post_item = insert(schema.ratings).values(item_key=1, rating=1.0)
    with writing(postgres_engine) as connection:
        key = connection.scalar(insert(schema.users).values(user_id="a").returning(schema.users.c.user_key))

    def add() -> None:
        with writing(postgres_engine) as connection:
            connection.execute(post_item.values(user_key=key))

    def erase() -> None:
        erase_user(postgres_engine, "a", actor="test")

    raised: list[list[BaseException]] = []
    with writing(postgres_engine) as connection:
        if is_first:
            connection.execute(post_item.values(user_key=key))
        else:
            connection.execute(delete(schema.users).where(schema.users.c.user_key == key))
        other = threading.Thread(target=lambda: raised.append(together(erase if is_first else add)))
        other.start()
        other.join(0.3)
        assert other.is_alive()  # it waits
    other.join(10)
    assert [type(error) for error in raised[0]] == ([] if is_first else [IntegrityError])
    assert count(postgres_engine, "ratings") == 0


@pytest.mark.postgres
def test_a_rating_that_another_writer_stored_after_it_was_read_is_updated(
    postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer inserts one of three new pairs, and erases a user, after the load has read what is stored."""
    post(postgres_engine, ("u", "a", 1.0), ("v", "a", 1.0))
    read = rating_writes.read_stored
    others: list[Callable[[], object]] = [
        lambda: post(postgres_engine, ("u", "b", 2.0, 5)),
        lambda: erase_user(postgres_engine, "v", actor="test"),
    ]

    def read_first(*arguments: Any) -> Any:
        found = read(*arguments)
        while others:
            others.pop()()
        return found

    monkeypatch.setattr(rating_writes, "read_stored", read_first)
    rows = (("u", "b", 3.0, 10), ("u", "c", 3.0, 10), ("v", "b", 4.0, 10), ("w", "c", 5.0, 10))
    done = write(postgres_engine, *rows)
    assert (done.inserted, done.updated, done.unchanged, done.withdrawn) == (2, 1, 0, 1)
    items, users, rated = schema.items.c, schema.users.c, schema.ratings
    with reading(postgres_engine) as connection:
        pairs = select(users.user_id, items.item_id, rated.c.rating).select_from(
            rated.join(schema.users).join(schema.items, items.item_key == rated.c.item_key)
        )
        stored = {(row[0], row[1]): row[2] for row in connection.execute(pairs)}
    assert stored == {("u", "a"): 1.0, ("u", "b"): 3.0, ("u", "c"): 3.0, ("w", "c"): 5.0}
    assert kept_counts(postgres_engine) == true_counts(postgres_engine)
