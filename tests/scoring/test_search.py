"""The best items against brute force in float64: every score, then exclusions, then order, then the first n."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.factors import Head, ItemWeights
from recsys.scoring import score as scoring
from recsys.scoring.profile import Profile, added_scores
from recsys.scoring.search import DECIMALS, Excluded, Index, TopN

N_LISTED = (0, 1, 2, 3, 10, 40, 100_000)


def brute_force(users: NDArray[np.float32], among: Index, n: Sequence[int], excluded: Sequence[Excluded]) -> list[TopN]:
    items, bias = among.items.astype(float), among.bias.astype(float)
    n_dot = items.shape[1] if among.head is None else among.head.n_dot
    lists = []
    for user, count, without in zip(users.astype(float), n, excluded, strict=True):
        scores = items[:, :n_dot] @ user[:n_dot]
        if among.scale is not None:
            scores *= among.scale
        scores += bias
        if among.head is not None:
            x = items[:, n_dot:] + user[n_dot:]
            for weight, layer_bias in among.head.layers:
                x = np.maximum(x, 0) @ weight.T.astype(float) + layer_bias
            scores += x[:, 0]
        if without is not None:
            scores[without] = -np.inf
        told = np.round(scores, DECIMALS)
        order = sorted(np.flatnonzero(told > -np.inf).tolist(), key=lambda place: (-told[place], place))[:count]
        lists.append(TopN(np.array(order, np.int64), told[order]))
    return lists


def check(users: NDArray[np.float32], among: Index, n: Sequence[int], excluded: Sequence[Excluded]) -> None:
    """The lists of all at once, and of each alone, are those of brute force."""
    expected = brute_force(users, among, n, excluded)
    together = among.best(users, n, excluded)
    alone = [among.best(users[[u]], [n[u]], [excluded[u]])[0] for u in range(len(users))]
    for found in (together, alone):
        assert [best.item_idx.tolist() for best in found] == [best.item_idx.tolist() for best in expected]
        for best, known in zip(found, expected, strict=True):
            assert best.scores.dtype == np.float64
            np.testing.assert_allclose(best.scores, known.scores, rtol=0, atol=2e-6)


def made(n_users: int, n_items: int, width: int, seed: int = 0) -> tuple[NDArray[np.float32], Index]:
    random = np.random.default_rng(seed)
    users = random.normal(size=(n_users, width)).astype(np.float32)
    items = random.normal(size=(n_items, width)).astype(np.float32)
    return users, Index(items, random.normal(size=n_items).astype(np.float32))


@pytest.mark.parametrize("n", N_LISTED)
@pytest.mark.parametrize("n_items", [0, 1, 2, 63, 64, 65, 130, 1500, 10_007])
@pytest.mark.parametrize("width", [1, 16])
def test_many_shapes(n_items: int, width: int, n: int) -> None:
    users, among = made(5, n_items, width)
    check(users, among, [n] * 5, [None] * 5)


def test_nobody_asks() -> None:
    _, among = made(1, 100, 4)
    assert among.best(np.empty((0, 4), np.float32), [], []) == []


@pytest.mark.parametrize("n_items", [10, 300, 5000])
def test_each_has_an_n_and_exclusions_of_their_own(n_items: int) -> None:
    random = np.random.default_rng(n_items)
    users, among = made(len(N_LISTED) * 4, n_items, 8)
    n = list(N_LISTED) * 4
    some = random.random(n_items) < 0.5
    most = random.random(n_items) < 0.999
    excluded: list[Excluded] = []
    for without in (None, some, most, random.permutation(n_items)[: n_items // 3]):
        excluded += [without] * len(N_LISTED)
    check(users, among, n, excluded)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("n_items", [3, 700])
def test_exclusions_as_positions_and_as_a_mask_are_the_same(n_items: int, dtype: type[np.integer]) -> None:
    users, among = made(2, n_items, 4)
    places = np.array([2, 0], dtype)
    mask = np.isin(np.arange(n_items), places)
    check(users, among, [5, 5], [places, mask])
    first, second = among.best(users[[0, 0]], [5, 5], [places, mask])
    assert first.item_idx.tolist() == second.item_idx.tolist()
    nothing = np.empty(0, dtype)
    check(users, among, [5, 5], [nothing, np.zeros(n_items, bool)])


@pytest.mark.parametrize("n_items", [1, 50, 2000])
@pytest.mark.parametrize("n", [1, 10, 3000])
def test_all_excluded_is_an_empty_list(n_items: int, n: int) -> None:
    users, among = made(3, n_items, 4)
    everything = np.ones(n_items, bool)
    found = among.best(users, [n] * 3, [everything, np.arange(n_items), None])
    assert [len(best.item_idx) for best in found] == [0, 0, min(n, n_items)]
    all_but_one = everything.copy()
    all_but_one[n_items // 2] = False
    check(users, among, [n] * 3, [all_but_one, everything, None])


@pytest.mark.parametrize("n_items", [40, 3000])
def test_what_has_a_bias_of_minus_infinity_is_never_listed(n_items: int) -> None:
    users, among = made(4, n_items, 4)
    bias = among.bias.copy()
    bias[np.random.default_rng(1).random(n_items) < 0.9] = -np.inf
    check(users, Index(among.items, bias), [0, 5, 10, n_items], [None, np.array([1, 2, 3]), None, None])
    nothing = Index(among.items, np.full(n_items, -np.inf, np.float32))
    assert all(len(best.item_idx) == 0 for best in nothing.best(users, [10] * 4, [None] * 4))


@pytest.mark.parametrize("distinct", [1, 2, 7])
@pytest.mark.parametrize("n_items", [30, 64 * 40, 9001])
@pytest.mark.parametrize("n", [1, 10, 64, 9001])
def test_ties_everywhere_are_ordered_by_position(n_items: int, distinct: int, n: int) -> None:
    random = np.random.default_rng(distinct)
    kinds = random.normal(size=(distinct, 32)).astype(np.float32)
    items = kinds[random.integers(0, distinct, n_items)]
    users = random.normal(size=(6, 32)).astype(np.float32)
    among = Index(items, np.zeros(n_items, np.float32))
    excluded = [None, np.arange(5), random.random(n_items) < 0.3] * 2
    check(users, among, [n] * 6, excluded)
    for best in among.best(users, [n] * 6, excluded):
        for score in np.unique(best.scores):
            alike = best.item_idx[best.scores == score]
            assert (np.diff(alike) > 0).all()


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_scores_that_are_told_alike_are_ordered_by_position(size: float) -> None:
    """They differ by less than what is told: neither float32 nor how many are scored together decides."""
    random = np.random.default_rng(5)
    items = np.full((4000, 1), size, np.float32)
    bias = (random.integers(-8, 8, 4000) * 1e-7).astype(np.float32)
    among = Index(items, bias)
    users = np.array([[1.0], [1.0000001], [0.5], [2.0]], np.float32)
    for n in (1, 7, 500):
        check(users, among, [n] * 4, [None] * 4)


@pytest.mark.parametrize("far", [1e2, 1e4])
def test_large_biases_do_not_hide_small_products(far: float) -> None:
    """The product decides, though float32 rounds it off beside the bias."""
    random = np.random.default_rng(6)
    items = random.normal(size=(3000, 8)).astype(np.float32) * np.float32(far * 2e-7)
    among = Index(items, np.full(3000, far, np.float32))
    users = random.normal(size=(5, 8)).astype(np.float32)
    check(users, among, [1, 3, 10, 30, 200], [None] * 5)


def test_a_list_is_the_same_however_many_are_found_together() -> None:
    users, among = made(700, 3000, 24, seed=2)
    users[5::7] = users[5]  # the same user in many blocks
    excluded: list[Excluded] = [np.array([u % 50, 60 + u % 3]) for u in range(700)]
    lists = among.best(users, [10] * 700, excluded)
    for size in (1, 3, 64):
        for start in (0, 5, 350, 690):
            part = slice(start, min(start + size, 700))
            again = among.best(users[part], [10] * (part.stop - start), excluded[part])
            for best, known in zip(again, lists[part], strict=True):
                assert best.item_idx.tolist() == known.item_idx.tolist()
                assert best.scores.tolist() == known.scores.tolist()
    check(users[:20], among, [10] * 20, excluded[:20])


@pytest.mark.parametrize("is_busy", [False, True])
def test_a_helper_changes_nothing_and_is_not_waited_for_while_it_has_other_work(
    monkeypatch: pytest.MonkeyPatch, is_busy: bool
) -> None:
    monkeypatch.setattr(scoring, "_CHUNK_ITEMS", 100)
    monkeypatch.setattr(scoring, "SHARED_WORK", 0)
    users, among = made(40, 3000, 24, seed=2)
    excluded: list[Excluded] = [np.array([u % 50, 60 + u % 3]) for u in range(40)]
    alone = among.best(users, [10] * 40, excluded)
    done = threading.Event()
    with ThreadPoolExecutor(1) as helper:
        if is_busy:
            helper.submit(done.wait)
        for _ in range(1 if is_busy else 50):
            found = among.best(users, [10] * 40, excluded, helper=helper)
            for best, known in zip(found, alone, strict=True):
                assert best.item_idx.tolist() == known.item_idx.tolist()
                assert best.scores.tolist() == known.scores.tolist()
        done.set()


def test_an_error_of_a_helper_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes into a buffer that the next search takes, so it is waited for whatever happens."""
    monkeypatch.setattr(scoring, "_CHUNK_ITEMS", 100)
    monkeypatch.setattr(scoring, "SHARED_WORK", 0)
    users, among = made(4, 3000, 24)
    main, begun = threading.current_thread(), threading.Event()

    def multiply(*_: object, **__: object) -> None:
        if threading.current_thread() is not main:
            begun.set()
            raise MemoryError("in the helper")
        assert begun.wait(10)

    monkeypatch.setattr(np, "matmul", multiply)
    with ThreadPoolExecutor(1) as helper, pytest.raises(MemoryError, match="in the helper"):
        among.best(users, [10] * 4, helper=helper)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n_items", [50, 4000])
def test_scale(n_items: int, order: str) -> None:
    users, among = made(6, n_items, 8, seed=3)
    scale = np.abs(np.random.default_rng(4).normal(size=n_items)).astype(np.float32)
    scale[::5] = 0
    scaled = Index(np.array(among.items, order=order), among.bias, scale=scale)  # type: ignore[call-overload]
    check(users, scaled, [1, 5, 10, 20, 0, n_items], [None, np.array([7]), scale > 0.5, None, None, None])


@pytest.mark.parametrize("n_items", [0, 1, 80, 2000])
def test_a_neural_head(n_items: int) -> None:
    random = np.random.default_rng(8)

    def normal(*shape: int) -> NDArray[np.float32]:
        return random.normal(size=shape).astype(np.float32)

    head = Head(3, ((normal(6, 5), normal(6)), (normal(1, 6), normal(1))))
    items, bias = normal(n_items, 8), normal(n_items)
    bias[: n_items // 4] = -np.inf
    among = Index(items, bias, head)
    check(normal(7, 8), among, [0, 1, 5, 10, 50, 100, 5000], [None, np.arange(n_items // 2), *[None] * 5])


def test_pairs_are_scored_in_float64() -> None:
    users, among = made(3, 4, 5)
    place = np.array([3, 0, 2])
    expected = [
        float(users[u].astype(float) @ among.items[i].astype(float) + among.bias[i]) for u, i in enumerate(place)
    ]
    np.testing.assert_allclose(among.pair_scores(users, place), expected, rtol=1e-14)


@pytest.mark.parametrize("width", [0, 8])
@pytest.mark.parametrize("n_items", [1, 65, 3000])
def test_what_profiles_add_is_part_of_the_exact_score(n_items: int, width: int) -> None:
    users, plain = made(5, n_items, width)
    random = np.random.default_rng(1)
    B = np.where(random.random((n_items, n_items)) < 0.05, random.normal(size=(n_items, n_items)), 0)
    B = np.round(B, 1).astype(np.float32)  # with many ties
    row, column = np.nonzero(B)
    weights = ItemWeights.from_entries(row[::-1], column[::-1], B[row, column][::-1], n_items)
    index = Index(plain.items, np.round(plain.bias), weights=weights)
    profiles = [
        Profile(np.flatnonzero(random.random(n_items) < 0.02).astype(np.int32), np.empty(0, np.float32)) for _ in users
    ]
    profiles = [
        p._replace(x=random.choice([0.5, 1.0, 1.5, -1.0], len(p.item_idx)).astype(np.float32)) for p in profiles
    ]
    seen: list[Excluded] = [p.item_idx for p in profiles]
    n = [3, 10, n_items, 1, 7]
    together = index.best(users, n, seen, profiles)
    for at, profile in enumerate(profiles):
        (alone,) = index.best(users[[at]], [n[at]], [seen[at]], [profile])
        added = profile.x.astype(float) @ B[profile.item_idx].astype(float)
        scores = index.items.astype(float) @ users[at].astype(float) + index.bias + added
        scores[profile.item_idx] = -np.inf
        told = np.round(scores, DECIMALS)
        order = np.lexsort((np.arange(n_items), -told))[: min(n[at], n_items - len(profile.item_idx))]
        for best in (together[at], alone):
            assert best.item_idx.tolist() == order.tolist()
            np.testing.assert_allclose(best.scores, told[order], rtol=0, atol=2e-6)
        if len(order) > 1:
            after = index.best_after(users[at], 5, seen[at], int(order[0]), profile)
            assert after.item_idx.tolist() == order[1:6].tolist() or n[at] < 6


@pytest.mark.parametrize("n_items", [5, 300])
def test_sums_of_many_users_at_once_are_those_of_single_users(n_items: int) -> None:
    random = np.random.default_rng(2)
    row, column = np.nonzero(random.random((n_items - 2, n_items - 2)) < 0.3)
    weights = ItemWeights.from_entries(row, column, random.normal(size=len(row)).astype(np.float32), n_items - 2)
    profiles = [None, Profile(np.zeros(0, np.int32), np.zeros(0, np.float32))]
    for _ in range(40):
        item_idx = np.flatnonzero(random.random(n_items) < 0.2).astype(np.int32)
        profiles.append(Profile(item_idx, random.normal(size=len(item_idx)).astype(np.float32)))
    together = added_scores(weights, profiles, n_items)
    assert together is not None
    for profile, mine in zip(profiles, together, strict=True):
        alone = added_scores(weights, [profile], n_items)
        assert np.array_equal(mine, np.zeros(n_items) if alone is None else alone[0])
    assert np.abs(together).max() > 0
    assert added_scores(weights, profiles[:2], n_items) is None


def test_items_that_came_later_are_in_no_weights() -> None:
    weights = ItemWeights.from_entries(np.array([0]), np.array([1]), np.ones(1, np.float32), 2)
    index = Index(np.zeros((3, 0), np.float32), np.zeros(3, np.float32), weights=weights)
    profile = Profile(np.array([0, 2], np.int32), np.ones(2, np.float32))
    (best,) = index.best(np.zeros((1, 0), np.float32), [3], None, [profile])
    assert best.item_idx.tolist() == [1, 0, 2]
    assert best.scores.tolist() == [1.0, 0.0, 0.0]
