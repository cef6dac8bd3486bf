"""Ratings and items in bulk: what is inserted, updated and left alone, on both databases."""

import threading
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Engine, select, text

from recsys.data.dataset import NO_TIME
from recsys.data.encoding import RatingColumns, as_ratings, collect
from recsys.data.rows import ItemRow, RatingBatch
from recsys.database import engine as database
from recsys.database import schema
from recsys.database.changes import current_seq, record_change
from recsys.database.engine import reading, writing
from recsys.database.items import known_items, upsert_items
from recsys.database.ratings import Upserted, preview_upsert, read_ratings, upsert_ratings
from tests.database.made import Posted, post

Row = tuple[str, str, float, int | None]


def columns(*rows: Row) -> RatingColumns:
    return collect([batch(rows)])


def batch(rows: Sequence[Row]) -> RatingBatch:
    return RatingBatch(
        user_ids=pa.array([row[0] for row in rows], pa.string()),
        item_ids=pa.array([row[1] for row in rows], pa.string()),
        rating=np.array([row[2] for row in rows], np.float64),
        rated_at=np.array([NO_TIME if row[3] is None else row[3] for row in rows], np.int64),
        line=np.arange(1, len(rows) + 1),
    )


def stored(engine: Engine) -> dict[tuple[str, str], tuple[float, int | None]]:
    users, items, ratings = schema.users.c, schema.items.c, schema.ratings.c
    joined = schema.ratings.join(schema.users).join(schema.items, items.item_key == ratings.item_key)
    with reading(engine) as connection:
        rows = connection.execute(
            select(users.user_id, items.item_id, ratings.rating, ratings.rated_at).select_from(joined)
        )
        return {(user, item): (rating, at) for user, item, rating, at in rows}


def seq(engine: Engine) -> int:
    with reading(engine) as connection:
        return current_seq(connection)


def test_promise_3_loading_twice_changes_nothing(engine: Engine) -> None:
    rows = columns(("007", "a", 4.0, 1000), ("7", "a", 2.5, None), ("7", "b", 1.0, 2000))
    assert upsert_ratings(engine, rows) == Upserted(3, 0, 0)
    before, after_first = stored(engine), seq(engine)
    assert before == {("007", "a"): (4.0, 1000), ("7", "a"): (2.5, None), ("7", "b"): (1.0, 2000)}
    assert upsert_ratings(engine, rows) == Upserted(0, 0, 3)
    assert stored(engine) == before
    assert seq(engine) == after_first  # no cache needs to forget anything


@pytest.mark.parametrize(
    ("first", "second", "kept", "counted"),
    [
        pytest.param((3.0, 1000), (4.0, 2000), (4.0, 2000), "updated", id="newer wins"),
        pytest.param((3.0, 2000), (4.0, 1000), (3.0, 2000), "unchanged", id="older never overwrites"),
        pytest.param((3.0, 1000), (4.0, 1000), (4.0, 1000), "updated", id="equal times: the last load wins"),
        pytest.param((3.0, 1000), (4.0, None), (3.0, 1000), "unchanged", id="no time never beats a known one"),
        pytest.param((3.0, None), (4.0, 1000), (4.0, 1000), "updated", id="no old time: the last load wins"),
        pytest.param((3.0, None), (4.0, None), (4.0, None), "updated", id="no times: the last load wins"),
        pytest.param((3.0, 1000), (3.0, None), (3.0, 1000), "unchanged", id="same value without a time"),
        pytest.param((3.0, 1000), (3.0, 1000), (3.0, 1000), "unchanged", id="the same"),
        pytest.param((3.0, 1000), (3.0, 2000), (3.0, 2000), "updated", id="same value, newer"),
        pytest.param((3.0, None), (3.0, 1000), (3.0, 1000), "updated", id="same value, time learnt"),
    ],
)
def test_which_of_two_loads_wins(
    engine: Engine, first: tuple[float, int], second: tuple[float, int], kept: tuple[float, int], counted: str
) -> None:
    upsert_ratings(engine, columns(("u", "i", *first)))
    expected = Upserted(0, int(counted == "updated"), int(counted == "unchanged"))
    with reading(engine) as connection:
        assert preview_upsert(connection, columns(("u", "i", *second))) == expected
    assert upsert_ratings(engine, columns(("u", "i", *second))) == expected
    assert stored(engine) == {("u", "i"): kept}


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        pytest.param([(3.0, 2000), (4.0, 1000)], (3.0, 2000), id="the later wins"),
        pytest.param([(3.0, 1000), (4.0, 1000)], (4.0, 1000), id="a tie keeps the last line"),
        pytest.param([(3.0, None), (4.0, None)], (4.0, None), id="without times the last line"),
        pytest.param([(3.0, 1000), (4.0, None)], (3.0, 1000), id="a known time is later than an unknown one"),
    ],
)
def test_two_ratings_of_one_item_in_one_file(
    engine: Engine, rows: list[tuple[float, int]], kept: tuple[float, int]
) -> None:
    given = columns(*(("u", "i", *row) for row in rows))
    with reading(engine) as connection:
        assert preview_upsert(connection, given) == Upserted(1, 0, 1)
    assert upsert_ratings(engine, given) == Upserted(1, 0, 1)
    assert stored(engine) == {("u", "i"): kept}
    assert as_ratings(given).rating.tolist() == [kept[0]]


def test_preview_writes_nothing_and_foretells_a_mixed_load(engine: Engine) -> None:
    upsert_ratings(engine, columns(("u", "a", 3.0, 10), ("u", "b", 3.0, 10), ("v", "a", 1.0, None)))
    rows = columns(
        ("u", "a", 4.0, 20), ("u", "b", 4.0, 5), ("v", "c", 2.0, 1), ("w", "a", 2.0, 1), ("v", "a", 1.0, None)
    )
    with reading(engine) as connection:
        foretold = preview_upsert(connection, rows)
    assert seq(engine) == 1
    assert len(stored(engine)) == 3
    assert foretold == Upserted(2, 1, 2) == upsert_ratings(engine, rows)


def test_many_pieces_give_the_same_as_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database.PIECE_ROWS, engine.dialect.name, 7)
    rng = np.random.default_rng(0)
    rows: list[Row] = [
        (f"u{rng.integers(9)}", f"i{rng.integers(9)}", float(rng.integers(1, 6)), int(rng.integers(50)))
        for _ in range(200)
    ]
    latest: dict[tuple[str, str], tuple[float, int | None]] = {}
    for user, item, rating, at in rows:
        if (user, item) not in latest or (at or 0) >= (latest[user, item][1] or 0):
            latest[user, item] = (rating, at)
    done = upsert_ratings(engine, collect([batch(rows[:120]), batch(rows[120:])]))
    assert stored(engine) == latest
    assert done == Upserted(len(latest), 0, 200 - len(latest))


def test_reading_back_gives_dense_arrays(engine: Engine) -> None:
    upsert_ratings(engine, columns(("u", "b", 3.0, 10), ("v", "a", 1.5, None), ("u", "a", 5.0, 20)))
    with reading(engine) as connection:
        ratings = read_ratings(connection)
    assert (ratings.n_users, ratings.n_items, ratings.n_ratings) == (2, 2, 3)
    by_pair = {
        (int(u), int(i)): (float(r), int(at))
        for u, i, r, at in zip(ratings.user_idx, ratings.item_idx, ratings.rating, ratings.rated_at, strict=True)
    }
    assert by_pair == {(0, 1): (3.0, 10), (0, 0): (5.0, 20), (1, 0): (1.5, NO_TIME)}


def test_the_fingerprint_depends_on_what_was_rated_and_not_on_the_order(engine: Engine) -> None:
    rows: list[Row] = [("u", "a", 3.0, 10), ("v", "b", 1.5, None), ("u", "b", 5.0, 20)]
    upsert_ratings(engine, columns(*reversed(rows)))
    with reading(engine) as connection:
        before = read_ratings(connection).fingerprint()
    assert before == as_ratings(columns(*rows)).fingerprint()
    upsert_ratings(engine, columns(("u", "a", 3.5, 10)))
    with reading(engine) as connection:
        assert read_ratings(connection).fingerprint() != before


def test_a_row_without_time_is_given_the_time_of_receipt_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.database.posts.now_ms", lambda: 100)
    post(engine, ("u", "i", 3.0))
    assert stored(engine) == {("u", "i"): (3.0, 100)}
    monkeypatch.setattr("recsys.database.posts.now_ms", lambda: 200)
    assert post(engine, ("u", "i", 3.0)) == Posted(0, 0, 1)
    assert stored(engine) == {("u", "i"): (3.0, 100)}
    monkeypatch.setattr("recsys.database.posts.now_ms", lambda: 300)
    post(engine, ("u", "i", 4.0))
    assert stored(engine) == {("u", "i"): (4.0, 300)}


def test_a_row_without_time_counts_though_the_stored_one_lies_in_the_future(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.database.posts.now_ms", lambda: 1000)
    upsert_ratings(engine, columns(("u", "i", 2.0, 4_102_444_800_000)))
    assert post(engine, ("u", "i", 5.0)).updated == 1
    assert stored(engine) == {("u", "i"): (5.0, 1000)}


def test_two_writers_of_the_same_new_users_do_not_wait_for_each_other_for_ever(engine: Engine) -> None:
    ids = [f"u{number:05}" for number in range(3000)]
    given = [columns(*((user, "i", 3.0, 1) for user in order)) for order in (ids, ids[::-1])]
    failed: list[BaseException] = []

    def load(rows: RatingColumns) -> None:
        try:
            upsert_ratings(engine, rows)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=load, args=(rows,)) for rows in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(stored(engine)) == 3000


def test_old_changes_are_dropped(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.database.changes.KEPT", 3)
    for rating in range(6):
        post(engine, ("u", "i", float(rating)))
    assert [seq for seq, _, _ in changes(engine)] == [4, 5, 6]


def changes(engine: Engine) -> list[tuple[int, str, int]]:
    table = schema.changes.c
    with reading(engine) as connection:
        rows = connection.execute(select(table.seq, table.kind, table.key).order_by(table.seq, table.key))
        return [tuple(row) for row in rows]


def test_changes_name_users_one_by_one_and_a_bulk_load_once(engine: Engine) -> None:
    post(engine, ("u", "i", 3.0, 1), ("v", "i", 3.0, 1))
    assert changes(engine) == [(1, "user", 1), (1, "user", 2)]
    post(engine, ("u", "i", 4.0, 2))
    assert changes(engine)[-1] == (2, "user", 1)
    upsert_ratings(engine, columns(("u", "i", 5.0, 3)))
    assert changes(engine) == [(3, "all", 0)]  # whoever forgets everything needs no earlier change


def test_the_order_of_seq_is_the_order_of_commits(engine: Engine) -> None:
    """A writer that took its seq first commits first: the next one waits for it."""
    committed: list[int] = []
    taken = threading.Event()

    def slow() -> None:
        with writing(engine) as connection:
            first = record_change(connection, users=[1])
            taken.set()
            time.sleep(0.3)
            committed.append(first)

    thread = threading.Thread(target=slow)
    thread.start()
    taken.wait()
    with writing(engine) as connection:
        committed.append(record_change(connection, users=[2]))
    thread.join()
    assert committed == [1, 2]


def item(item_id: str, title: str | None, categories: tuple[str, ...] = (), year: int | None = None) -> ItemRow:
    return ItemRow(item_id, title, categories, year)


def test_items_are_described_and_not_undescribed(engine: Engine) -> None:
    assert upsert_items(engine, [item("0104257", "Amélie (2001)", ("Comedy", "Romance"), 2001), item("x", None)]) == 2
    assert upsert_items(engine, [item("0104257", None), item("x", "X")]) == 1
    assert upsert_items(engine, [item("0104257", "Amélie (2001)", ("Comedy", "Romance"), 2001)]) == 0
    table = schema.items.c
    with reading(engine) as connection:
        rows = connection.execute(
            select(table.item_id, table.title, table.categories, table.attributes).order_by(table.item_key)
        ).all()
        assert known_items(connection, {"x", "y", "0104257", "104257"}) == {"x", "0104257"}
    assert [tuple(row) for row in rows] == [
        ("0104257", "Amélie (2001)", ["Comedy", "Romance"], {"year": 2001}),
        ("x", "X", [], {}),
    ]
    assert seq(engine) == 2  # the third call changed nothing


def test_ratings_of_a_user_go_with_the_user(engine: Engine) -> None:
    upsert_ratings(engine, columns(("u", "i", 3.0, 1), ("v", "i", 3.0, 1)))
    with writing(engine) as connection:
        connection.execute(text("DELETE FROM users WHERE user_id = 'u'"))
    assert set(stored(engine)) == {("v", "i")}
