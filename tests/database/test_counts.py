"""Counts kept with the ratings: exact after every kind of writing, and with several writers at once."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from sqlalchemy import Engine, delete, insert, update

from recsys.database import engine as database
from recsys.database import schema, work
from recsys.database.counts import recount
from recsys.database.engine import writing
from recsys.database.ratings import delete_rating
from recsys.database.users import erase_user
from tests.database.made import Row, kept_counts, post, true_counts, write


def check(engine: Engine) -> None:
    assert kept_counts(engine) == true_counts(engine)


class TestOneWriter:
    def test_a_load(self, engine: Engine) -> None:
        write(engine, ("u", "a", 4.0), ("u", "b", 2.5), ("v", "a", 1.0))
        assert sorted(kept_counts(engine).values()) == [(1, 2.5), (2, 5.0)]
        check(engine)

    @pytest.mark.parametrize("bulk", [True, False])
    def test_inserts_updates_and_what_changes_nothing(self, engine: Engine, bulk: bool) -> None:
        write(engine, ("u", "a", 4.0, 1000), ("v", "a", 1.0, 1000), ("v", "b", 1.0, 1000))
        put = write if bulk else post
        put(engine, ("u", "a", 2.0, 2000), ("w", "a", 5.0, 2000), ("v", "b", 5.0, 500))
        assert sorted(kept_counts(engine).values()) == [(1, 1.0), (3, 8.0)]
        put(engine, ("u", "a", 2.0, 2000))
        put(engine, ("u", "a", 3.0, 1000))  # older
        check(engine)

    def test_two_of_one_pair_in_one_go(self, engine: Engine) -> None:
        write(engine, ("u", "a", 4.0), ("u", "a", 2.0), ("u", "a", 3.0))
        post(engine, ("u", "a", 1.0), ("u", "a", 5.0))
        assert list(kept_counts(engine).values()) == [(1, 5.0)]

    def test_ratings_of_zero_and_below(self, engine: Engine) -> None:
        post(engine, ("u", "a", 0.0), ("v", "a", -2.0), ("w", "b", 0.0))
        post(engine, ("u", "a", -1.0))
        check(engine)
        delete_rating(engine, "v", "a")
        check(engine)

    def test_deletions_and_erasure(self, engine: Engine) -> None:
        write(engine, ("u", "a", 4.0), ("u", "b", 2.0), ("v", "a", 1.0), ("v", "b", 1.5))
        delete_rating(engine, "v", "b")
        check(engine)
        assert delete_rating(engine, "v", "b") is None
        erase_user(engine, "u", actor="test")
        assert list(kept_counts(engine).values()) == [(1, 1.0)]
        erase_user(engine, "v", actor="test")
        assert kept_counts(engine) == true_counts(engine) == {}

    def test_many_pieces(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(database.PIECE_ROWS, engine.dialect.name, 7)
        monkeypatch.setattr(database, "BREATHER_SECONDS", 0.0)
        rows: list[Row] = [(f"u{i % 11}", f"i{i % 5}", float(i % 4)) for i in range(100)]
        write(engine, *rows)
        write(engine, *[(user, item, rating + 1) for user, item, rating, *_ in rows])
        check(engine)

    def test_whatever_comes_in_whatever_order(self, engine: Engine) -> None:
        random = np.random.default_rng(0)
        for _ in range(25):
            rows: list[Row] = [
                (f"u{random.integers(4)}", f"i{random.integers(5)}", float(random.integers(1, 6)))
                for _ in range(random.integers(1, 6))
            ]
            chosen = random.integers(4)
            if chosen < 2:
                (write if chosen else post)(engine, *rows)
            elif chosen == 2:
                delete_rating(engine, rows[0][0], rows[0][1])
            else:
                erase_user(engine, rows[0][0], actor="test")
            check(engine)


class TestRecount:
    def test_what_is_right_stays(self, engine: Engine) -> None:
        write(engine, ("u", "a", 4.0), ("v", "a", 1.1), ("v", "b", 0.1))
        assert recount(engine) == 0

    def test_what_is_wrong_is_mended(self, engine: Engine) -> None:
        write(engine, ("u", "a", 4.0), ("v", "a", 1.0), ("v", "b", 1.0), ("v", "c", 1.0), ("w", "d", 2.0))
        counted = schema.item_counts
        with writing(engine) as connection:
            keys = [row.item_key for row in connection.execute(counted.select().order_by(counted.c.item_key))]
            connection.execute(update(counted).where(counted.c.item_key == keys[0]).values(n_ratings=9))
            connection.execute(update(counted).where(counted.c.item_key == keys[1]).values(rating_sum=9.0))
            connection.execute(delete(counted).where(counted.c.item_key == keys[2]))
            connection.execute(insert(counted).values(item_key=12345, n_ratings=1, rating_sum=1.0))
        assert recount(engine) == 4
        check(engine)
        assert recount(engine) == 0


def at_once(*works: Callable[[], object]) -> list[float]:
    """Do these at the same time; they end without an error. Returns the seconds of each."""
    failed: list[BaseException] = []
    seconds = [0.0] * len(works)
    start = threading.Barrier(len(works))

    def run(at: int, work: Callable[[], object]) -> None:
        start.wait()
        begun = time.monotonic()
        try:
            work()
        except BaseException as error:
            failed.append(error)
        seconds[at] = time.monotonic() - begun

    threads = [threading.Thread(target=run, args=(at, work)) for at, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert not any(thread.is_alive() for thread in threads)
    return seconds


def posts(engine: Engine, rows: Sequence[Row], *, each: int = 3) -> Callable[[], None]:
    def post_all() -> None:
        for start in range(0, len(rows), each):
            post(engine, *rows[start : start + each])

    return post_all


class TestSeveralWriters:
    """On PostgreSQL they really write at the same time; on SQLite they take turns."""

    def rows(self, seed: int, n: int, n_users: int = 5, n_items: int = 6) -> list[Row]:
        random = np.random.default_rng(seed)
        return [
            (f"u{random.integers(n_users)}", f"i{random.integers(n_items)}", float(random.integers(1, 6)))
            for _ in range(n)
        ]

    def test_posts_against_posts(self, engine: Engine) -> None:
        at_once(*[posts(engine, self.rows(seed, 45)) for seed in range(4)])
        check(engine)

    def test_posts_and_deletions(self, engine: Engine) -> None:
        write(engine, *self.rows(0, 30))
        pairs = [(user, item) for user, item, *_ in self.rows(1, 30)]

        def take_back() -> None:
            for user, item in pairs:
                delete_rating(engine, user, item)

        at_once(take_back, take_back, posts(engine, self.rows(2, 30)), posts(engine, self.rows(3, 30)))
        check(engine)

    def test_posts_against_a_load(self, engine: Engine) -> None:
        """The load and the posts are of the same pairs; each new one is counted by the writer that inserted it."""
        write(engine, *self.rows(0, 20))

        def load() -> None:
            for seed in range(8):
                write(engine, *self.rows(seed, 200))

        at_once(load, posts(engine, self.rows(10, 60)), posts(engine, self.rows(11, 60)))
        check(engine)

    def test_posts_against_a_load_of_others(self, engine: Engine) -> None:
        """Where the pairs differ nothing is counted twice, though the items are the same."""
        rows: list[Row] = [(f"v{i}", f"i{i % 6}", 2.0) for i in range(400)]

        def load() -> None:
            for start in range(0, 400, 100):
                write(engine, *rows[start : start + 100])

        at_once(load, posts(engine, self.rows(1, 45)), posts(engine, self.rows(2, 45)))
        check(engine)

    def test_erasure_against_posts(self, engine: Engine) -> None:
        def erase() -> None:
            for turn in range(20):
                erase_user(engine, f"u{turn % 5}", actor="test")

        write(engine, *self.rows(0, 30))
        at_once(erase, *[posts(engine, self.rows(seed, 45)) for seed in range(1, 4)])
        check(engine)

    def test_erasure_against_deletions_and_a_load(self, engine: Engine) -> None:
        write(engine, *self.rows(0, 60))

        def erase() -> None:
            for turn in range(10):
                erase_user(engine, f"u{turn % 5}", actor="test")

        def take_back() -> None:
            for user, item, *_ in self.rows(1, 30):
                delete_rating(engine, user, item)

        def load() -> None:
            for seed in range(5):
                write(engine, *[(f"w{user}", item, rating) for user, item, rating, *_ in self.rows(seed, 100)])

        at_once(erase, take_back, load)
        check(engine)


@pytest.mark.postgres
class TestOrderOfLocks:
    """Each pair of writers meets where it hurts most: one has written, and not committed, when the other comes."""

    def meet(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch, slow: Callable[[], object], other: Callable[[], object]
    ) -> None:
        """Begin `other` while `slow` is about to take its number in the sequence of changes."""
        original, met, first = work.record_change, threading.Event(), threading.Event()

        def slowly(*arguments: object, **options: object) -> int:
            if not first.is_set():
                first.set()
                met.set()
                time.sleep(0.2)
            return original(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(work, "record_change", slowly)

        def then() -> None:
            assert met.wait(10)
            other()

        # Whoever waits in a circle is told after a second, deadlock_timeout.
        assert max(at_once(slow, then)) < 5
        check(engine)

    @pytest.fixture(autouse=True)
    def some(self, postgres_engine: Engine) -> None:
        write(postgres_engine, ("u", "a", 1.0), ("u", "b", 2.0), ("v", "a", 3.0))

    WRITERS: dict[str, Callable[[Engine], object]] = {  # noqa: RUF012
        "post": lambda engine: post(engine, ("u", "a", 4.0), ("u", "c", 4.0)),
        "load": lambda engine: write(engine, ("u", "a", 5.0), ("u", "c", 5.0)),
        "delete": lambda engine: delete_rating(engine, "u", "a"),
        "erase": lambda engine: erase_user(engine, "u", actor="test"),
    }

    @pytest.mark.parametrize("slow", WRITERS)
    @pytest.mark.parametrize("other", WRITERS)
    def test_none_waits_in_a_circle(
        self, postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch, slow: str, other: str
    ) -> None:
        self.meet(
            postgres_engine,
            monkeypatch,
            lambda: self.WRITERS[slow](postgres_engine),
            lambda: self.WRITERS[other](postgres_engine),
        )
