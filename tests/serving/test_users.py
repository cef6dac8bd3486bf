"""The cache of users: bounded, and never older than what was forgotten."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine

from recsys.database.engine import read_latest
from recsys.database.feedback import NewRating
from recsys.database.items import put_item
from recsys.database.posts import rate
from recsys.database.ratings import delete_rating
from recsys.serving.batching import read_users
from recsys.serving.live_model import Embedding
from recsys.serving.user_cache import UserCache
from recsys.serving.users import UNKNOWN_USER, UserState, read_states
from tests.serving.made import load


def state(user_key: int, seq: int = 0, n_seen: int = 0) -> UserState:
    row = Embedding(np.full(4, user_key, np.float32), 0.0)
    return UserState(row, "model", np.arange(n_seen, dtype=np.int32), user_key=user_key, seq=seq)


def room_for(n: int) -> UserCache:
    """A cache in which n small states have room, and n + 1 have not."""
    cache = UserCache(1 << 30)
    cache.put(1, "x", state(1))
    return UserCache(int(cache._n_bytes * (n + 0.5)))


def test_what_is_put_is_there_for_its_version_alone() -> None:
    cache = UserCache(1 << 20)
    cache.put(1, "a", state(7))
    assert cache.get(1, "a") is not None
    assert cache.get(2, "a") is None
    assert cache.get(1, "b") is None


def test_the_least_recently_used_goes_first() -> None:
    cache = room_for(3)
    for user_key, user_id in enumerate("abc", 1):
        cache.put(1, user_id, state(user_key))
    assert cache.get(1, "a") is not None
    cache.put(1, "d", state(4))
    assert [cache.get(1, user_id) is not None for user_id in "abcd"] == [True, False, True, True]
    assert len(cache) == 3


def test_the_bound_is_in_bytes() -> None:
    cache = UserCache(1 << 20)
    for user_key in range(1, 2000):
        cache.put(1, str(user_key), state(user_key, n_seen=user_key))
        assert cache._n_bytes <= 1 << 20
    few = len(cache)
    assert 1 < few < 400  # a thousand seen items are 4 KB
    cache.put(1, "much", state(5000, n_seen=1 << 20))  # larger than all
    assert cache._n_bytes <= 1 << 20
    assert UserCache(0).get(1, "a") is None
    nothing = UserCache(0)
    nothing.put(1, "a", state(1))
    assert len(nothing) == 0


def test_putting_again_replaces_and_counts_once() -> None:
    cache = UserCache(1 << 20)
    cache.put(1, "a", state(1, n_seen=1000))
    first = cache._n_bytes
    for _ in range(5):
        cache.put(1, "a", state(1, n_seen=1000))
    assert (len(cache), cache._n_bytes) == (1, first)
    cache.forget([1], 1)
    assert (len(cache), cache._n_bytes) == (0, 0)


def test_a_user_is_forgotten_in_every_version() -> None:
    cache = UserCache(1 << 20)
    for number in (1, 2):
        cache.put(number, "a", state(1))
        cache.put(number, "b", state(2))
    cache.forget([1, 99], 5)
    assert [cache.get(number, user_id) is not None for number in (1, 2) for user_id in "ab"] == [False, True] * 2


def test_a_state_read_before_something_was_forgotten_is_not_kept() -> None:
    cache = UserCache(1 << 20)
    cache.forget([1], 5)
    cache.put(1, "a", state(1, seq=4))
    assert cache.get(1, "a") is None
    cache.put(1, "a", state(1, seq=5))
    assert cache.get(1, "a") is not None
    cache.clear(9)
    assert cache.get(1, "a") is None
    cache.put(1, "a", state(1, seq=8))
    assert cache.get(1, "a") is None
    cache.forget([2], 3)  # told late: the floor stays
    cache.put(1, "a", state(1, seq=8))
    assert cache.get(1, "a") is None


def test_nobody_is_not_kept() -> None:
    cache = UserCache(1 << 20)
    cache.put(1, "a", UNKNOWN_USER)
    assert len(cache) == 0


def test_threads_that_read_and_forget_never_see_the_past() -> None:
    """What is got after a change was forgotten is never older than it."""
    cache, n_keys = room_for(20), 50
    seq, forgotten, lock = 0, dict.fromkeys(range(1, n_keys + 1), 0), threading.Lock()

    def change(random: np.random.Generator) -> None:
        nonlocal seq
        user_key = int(random.integers(1, n_keys + 1))
        with lock:
            seq += 1
            mine = seq
        cache.forget([user_key], mine)
        with lock:
            forgotten[user_key] = max(forgotten[user_key], mine)

    def read(random: np.random.Generator) -> None:
        user_key = int(random.integers(1, n_keys + 1))
        with lock:
            now, least = seq, forgotten[user_key]
        kept = cache.get(1, str(user_key))
        if kept is None:
            cache.put(1, str(user_key), state(user_key, seq=now))
        else:
            assert kept.seq >= least
            assert kept.user_key == user_key

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(1500):
            (change if random.random() < 0.3 else read)(random)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    cache.clear(seq)
    assert (len(cache), cache._n_bytes, dict(cache._keys)) == (0, 0, {})


class TestReadStates:
    def read(self, engine: Engine, *user_ids: str) -> list[UserState]:
        recommender = load(engine)
        with read_latest(engine) as connection:
            read = read_states(connection, user_ids, recommender.catalogue, recommender.list_model())
        assert list(read) == list(dict.fromkeys(user_ids))
        return [read[user_id] for user_id in user_ids]

    def test_of_each_kind(self, known_engine: Engine) -> None:
        known, folded, nobody, again = self.read(known_engine, "u1", "u3", "nobody\0", "u1")
        assert (known.source, folded.source, nobody) == ("model", "fold_in", UNKNOWN_USER)
        assert known.embedding is not None
        assert known.embedding.vector.tolist() == [1.0, 0.0]
        assert again.user_key == known.user_key
        assert sorted(folded.seen.tolist()) == [0, 2]

    def test_a_rating_after_the_training_makes_a_user_folded_in(self, known_engine: Engine) -> None:
        told: list[tuple[list[int], int]] = []
        (before,) = self.read(known_engine, "u1")
        rate(known_engine, [NewRating("u1", "b", 4.0, None)], None, lambda users, seq: told.append((list(users), seq)))
        (after,) = self.read(known_engine, "u1")
        assert told == [([before.user_key], after.seq)]
        assert after.source == "fold_in"
        assert after.seq == before.seq + 1
        assert sorted(after.seen.tolist()) == [0, 1]
        rate(known_engine, [NewRating("u1", "b", 4.0, None)], None, lambda users, seq: told.append((list(users), seq)))
        assert len(told) == 1  # nothing changed

    @pytest.mark.parametrize("user_id", ["u1", "fresh"])
    def test_a_rating_of_an_item_that_the_catalogue_has_not_yet_is_not_forgotten(
        self, known_engine: Engine, user_id: str
    ) -> None:
        """As where another worker has just made the item."""
        before, cache = load(known_engine), UserCache(1 << 20)
        model = before.list_model()
        put_item(known_engine, "just made", {}, actor="test")
        rate(known_engine, [NewRating(user_id, "just made", 4.0, None)], None, cache.forget)
        read = read_users(known_engine, cache, [user_id], before.catalogue, model)
        assert 7 not in read[user_id].seen.tolist()
        assert len(cache) == 0  # nothing would tell that the item is there now
        after = load(known_engine)
        read = read_users(known_engine, cache, [user_id], after.catalogue, after.list_model())
        assert after.catalogue.idx_of["just made"] in read[user_id].seen.tolist()
        assert len(cache) == 1

    def test_a_user_without_ratings_gets_the_reason(self, known_engine: Engine) -> None:
        delete_rating(known_engine, "u1", "a")
        (state_of_u1,) = self.read(known_engine, "u1")
        assert state_of_u1.embedding is None
        assert state_of_u1.source == "popularity"
        assert "has rated no item" in str(state_of_u1.fallback)

    @pytest.mark.parametrize("user_id", ["x" * 10_000, "😀", "a'); DROP TABLE users; --", "%"])
    def test_odd_ids_are_nobody(self, known_engine: Engine, user_id: str) -> None:
        assert self.read(known_engine, user_id) == [UNKNOWN_USER]
        assert replace(UNKNOWN_USER) == UNKNOWN_USER
