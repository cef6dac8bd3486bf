"""Events beside ratings, and what was taken back or erased: on both databases."""

import pytest
from sqlalchemy import Engine, func, select

from recsys.data.dataset import NO_TIME
from recsys.data.rows import UserRow
from recsys.database import schema
from recsys.database.counts import read_counts, recount
from recsys.database.engine import reading, writing
from recsys.database.feedback import NewRating
from recsys.database.posts import rate
from recsys.database.ratings import delete_rating, preview_upsert, read_ratings, upsert_ratings
from recsys.database.tombstones import raise_users, read_buried, without_erased
from recsys.database.users import erase_user
from recsys.results import RateReport
from tests.database.test_ratings import columns

Row = tuple[str, str, int, float, int | None]


def stored(engine: Engine) -> list[Row]:
    """(user, item, kind, rating or weight, time), ordered."""
    users, items, rated = schema.users.c, schema.items.c, schema.ratings.c
    joined = schema.ratings.join(schema.users, users.user_key == rated.user_key).join(
        schema.items, items.item_key == rated.item_key
    )
    statement = select(users.user_id, items.item_id, rated.kind, rated.rating, rated.rated_at).select_from(joined)
    with reading(engine) as connection:
        return sorted(tuple(row) for row in connection.execute(statement))  # type: ignore[misc]


def post(engine: Engine, *rows: NewRating) -> RateReport:
    return rate(engine, rows, None, lambda users, seq: None)


class TestEvents:
    def test_a_file_is_a_snapshot_whose_sum_replaces_the_weight_unless_it_is_older(self, engine: Engine) -> None:
        events = columns(("u", "a", 1.0, 10), ("u", "a", 3.0, 20), ("u", "b", 2.0, None))
        for expected in ((2, 0), (0, 0)):  # loading twice changes nothing
            done = upsert_ratings(engine, events, implicit=True)
            assert (done.inserted, done.updated) == expected
        assert stored(engine) == [("u", "a", 1, 4.0, 20), ("u", "b", 1, 2.0, None)]
        upsert_ratings(engine, columns(("u", "a", 9.0, 15), ("u", "b", 7.0, None)), implicit=True)
        assert stored(engine) == [("u", "a", 1, 4.0, 20), ("u", "b", 1, 7.0, None)]
        with reading(engine) as connection:
            foretold = preview_upsert(connection, columns(("u", "a", 9.0, 30)), implicit=True)
        assert (foretold.inserted, foretold.updated) == (0, 1)

    def test_a_pair_may_have_both_kinds_and_counts_tell_them_apart(self, engine: Engine) -> None:
        upsert_ratings(engine, columns(("u", "a", 4.0, 10)))
        upsert_ratings(engine, columns(("u", "a", 7.0, 10), ("v", "a", 1.0, 10)), implicit=True)
        assert [row[2:4] for row in stored(engine)] == [(0, 4.0), (1, 7.0), (1, 1.0)]
        with reading(engine) as connection:
            counts = read_counts(connection)
            ratings = read_ratings(connection)
        assert [each.tolist()[0] for each in counts[1:]] == [3, 4.0, 1]
        assert ratings.is_implicit is not None
        assert ratings.is_implicit.tolist() == [False, True, True]
        assert recount(engine) == 0
        delete_rating(engine, "u", "a")
        assert stored(engine) == [("v", "a", 1, 1.0, 10)]
        erase_user(engine, "v", actor="test")
        assert recount(engine) == 0

    def test_appending_counts_events_later_than_the_latest_counted_one_and_twice_changes_nothing(
        self, engine: Engine
    ) -> None:
        upsert_ratings(engine, columns(("u", "a", 1.0, 10), ("u", "a", 1.0, 20)), implicit=True)
        more = columns(("u", "a", 5.0, 20), ("u", "a", 1.0, 30), ("u", "a", 1.0, 40), ("v", "b", 2.0, 5))
        for expected in ((1, 1), (0, 0)):
            done = upsert_ratings(engine, more, implicit=True, append=True)
            assert (done.inserted, done.updated) == expected
        assert stored(engine) == [("u", "a", 1, 4.0, 40), ("v", "b", 1, 2.0, 5)]

    def test_an_event_over_http_counts_once_for_each_user_item_and_time_in_any_order(self, engine: Engine) -> None:
        upsert_ratings(engine, columns(("x", "a", 4.0, 10)))
        events = [NewRating("u", "a", None, at, weight) for at, weight in ((30, 1.0), (10, 3.0), (30, 1.0))]
        assert post(engine, *events).inserted == 2
        assert post(engine, *events).unchanged == 3
        assert post(engine, NewRating("u", "a", None, 20, 0.5)).inserted == 1
        assert ("u", "a", 1, 4.5, 30) in stored(engine)
        assert recount(engine) == 0
        erase_user(engine, "u", actor="test")
        with reading(engine) as connection:
            assert connection.scalar(select(func.count()).select_from(schema.events)) == 0


class TestTombstones:
    def test_a_rating_taken_back_does_not_return_with_a_row_that_is_not_newer(self, engine: Engine) -> None:
        rows = columns(("u", "a", 4.0, 10), ("u", "b", 3.0, None), ("v", "a", 5.0, 10))
        upsert_ratings(engine, rows)
        delete_rating(engine, "u", "a")
        delete_rating(engine, "u", "b")
        with reading(engine) as connection:
            foretold = preview_upsert(connection, rows)
        done = upsert_ratings(engine, rows)
        assert done == foretold
        assert (done.withdrawn, done.unchanged) == (2, 1)
        assert stored(engine) == [("v", "a", 0, 5.0, 10)]
        upsert_ratings(engine, columns(("u", "a", 2.0, 4_102_444_800_000)))
        assert stored(engine)[0] == ("u", "a", 0, 2.0, 4_102_444_800_000)

    def test_an_erased_user_does_not_return_with_any_file(self, engine: Engine) -> None:
        rows = columns(("u", "a", 4.0, 4_102_444_800_000), ("v", "a", 5.0, 10))
        upsert_ratings(engine, rows)
        erase_user(engine, "u", actor="test")
        assert upsert_ratings(engine, rows).withdrawn == 1
        with reading(engine) as connection:
            assert "u" not in connection.scalars(select(schema.users.c.user_id)).all()
            buried = read_buried(connection)
            hashes = connection.execute(select(schema.tombstones)).all()
        assert without_erased([UserRow("u", (), {}), UserRow("v", (), {})], buried) == [UserRow("v", (), {})]
        assert len(hashes) == 1
        assert "u" not in (hashes[0].user_hash, hashes[0].pair_hash)
        assert len(hashes[0].user_hash) == 32

    def test_a_person_who_rates_again_over_http_is_back(self, engine: Engine) -> None:
        rows = columns(("u", "a", 4.0, 10), ("v", "b", 5.0, 10))
        upsert_ratings(engine, rows)
        erase_user(engine, "u", actor="test")
        assert post(engine, NewRating("u", "b", 1.0, 10)).unchanged == 1  # sent before the erasure
        assert post(engine, NewRating("u", "b", 1.0, None)).inserted == 1
        assert upsert_ratings(engine, rows).withdrawn == 0
        assert [row[:2] for row in stored(engine)] == [("u", "a"), ("u", "b"), ("v", "b")]

    def test_a_rating_posted_again_stays_with_the_next_file(self, engine: Engine) -> None:
        rows = columns(("u", "a", 4.0, None))
        upsert_ratings(engine, rows)
        delete_rating(engine, "u", "a")
        assert post(engine, NewRating("u", "a", 2.0, None)).inserted == 1
        assert upsert_ratings(engine, rows).unchanged == 1
        assert stored(engine)[0][3] == 2.0

    def test_a_load_may_say_that_erased_users_return(self, engine: Engine) -> None:
        rows = columns(("u", "a", 4.0, 10))
        upsert_ratings(engine, rows)
        erase_user(engine, "u", actor="test")
        assert upsert_ratings(engine, rows, allow_erased=True).inserted == 1
        with reading(engine) as connection:
            assert read_buried(connection) is None
        with writing(engine) as connection:
            raise_users(connection, ["u"])  # nothing is left to forget


def test_a_file_without_times_does_not_undo_a_post(engine: Engine) -> None:
    upsert_ratings(engine, columns(("u", "a", 5.0, None)))
    post(engine, NewRating("u", "a", 1.0, None))
    assert upsert_ratings(engine, columns(("u", "a", 5.0, None))).unchanged == 1
    assert stored(engine)[0][3] == 1.0


@pytest.mark.parametrize("at", [None, 5, int(NO_TIME) + 1])
def test_a_new_item_of_a_post_is_named_with_the_way_to_make_it(engine: Engine, at: int | None) -> None:
    report = post(engine, NewRating("u", "no/such", 5.0, at if at == 5 else None))
    assert "PUT /v1/items/no%2Fsuch" in report.errors[0].message
