"""The generated sample has what it is said to have."""

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.keyed import hash_ids
from recsys.data.rows import Rejected
from recsys.data.sample import Sample, generate, write
from recsys.errors import InputError
from recsys.evaluation.splits import hold_out
from recsys.files.source import open_source


@pytest.fixture(scope="module")
def sample() -> Sample:
    return generate()


def as_ratings(sample: Sample) -> Ratings:
    return Ratings(
        user_idx=sample.user_idx,
        item_idx=sample.item_idx,
        rating=sample.rating,
        rated_at=sample.rated_at,
        user_keys=np.arange(len(sample.user_ids)),
        item_keys=np.arange(len(sample.items)),
        user_hash=hash_ids(sample.user_ids.to_pylist()),
        item_hash=hash_ids([item.item_id for item in sample.items]),
    )


class TestShape:
    def test_sizes_are_those_asked_for(self, sample: Sample) -> None:
        assert (len(sample.user_ids), len(sample.items), sample.n_ratings) == (2000, 1000, 120_000)

    def test_no_user_rates_an_item_twice(self, sample: Sample) -> None:
        pairs = sample.user_idx.astype(np.int64) * len(sample.items) + sample.item_idx
        assert len(np.unique(pairs)) == sample.n_ratings

    def test_ratings_are_whole_stars_and_all_five_are_given(self, sample: Sample) -> None:
        stars, counts = np.unique(sample.rating, return_counts=True)
        assert stars.tolist() == [1, 2, 3, 4, 5]
        assert counts.min() / sample.n_ratings > 0.01
        assert counts.argmax() == 3

    def test_ids_keep_their_leading_zeros(self, sample: Sample) -> None:
        assert sample.user_ids[0].as_py() == "u0001"
        assert sample.items[-1].item_id == "i1000"

    def test_titles_differ_and_carry_the_year(self, sample: Sample) -> None:
        assert len({item.title for item in sample.items}) == len(sample.items)
        assert all(re.fullmatch(rf"[A-Z].+ \({item.year}\)", item.title or "") for item in sample.items)
        assert all(1 <= len(item.categories) <= 3 for item in sample.items)
        assert len({item.categories[0] for item in sample.items}) >= 10

    def test_nothing_is_rated_before_its_year(self, sample: Sample) -> None:
        first_year = int(sample.rated_at.min().astype("datetime64[ms]").astype("datetime64[Y]").astype(int)) + 1970
        assert max(item.year or 0 for item in sample.items) < first_year

    @pytest.mark.parametrize("sizes", [(1, 2, 1), (2, 1, 1), (20, 10, 100), (3, 3, 4), (50, 7, 175), (100, 900, 30)])
    def test_other_sizes(self, sizes: tuple[int, int, int]) -> None:
        made = generate(*sizes)
        assert made.n_ratings == sizes[2]
        assert len(set(zip(made.user_idx.tolist(), made.item_idx.tolist(), strict=True))) == sizes[2]

    @pytest.mark.parametrize("sizes", [(0, 10, 1), (10, 0, 1), (10, 10, 0), (10, 10, 51)])
    def test_impossible_sizes_are_refused(self, sizes: tuple[int, int, int]) -> None:
        with pytest.raises(InputError, match=f"a sample of {sizes[2]} ratings by {sizes[0]} users"):
            generate(*sizes)


class TestLikeRealRatings:
    def test_few_items_hold_many_ratings(self, sample: Sample) -> None:
        counts = np.sort(np.bincount(sample.item_idx, minlength=1000))[::-1]
        assert 0.40 < counts[:100].sum() / sample.n_ratings < 0.60
        assert 0.40 < counts[0] / 2000 < 0.75
        assert np.median(counts) < 60
        assert (counts < 20).sum() > 200

    def test_few_users_rate_much(self, sample: Sample) -> None:
        counts = np.sort(np.bincount(sample.user_idx, minlength=2000))
        assert counts[0] >= 20
        assert np.median(counts) < 50
        assert counts[-1] > 400

    def test_times_span_three_years_in_sessions(self, sample: Sample) -> None:
        assert (np.diff(sample.rated_at) >= 0).all()
        assert 1000 < (sample.rated_at[-1] - sample.rated_at[0]) / 86_400_000 < 1100
        order = np.lexsort((sample.rated_at, sample.user_idx))
        gap = np.diff(sample.rated_at[order])[np.diff(sample.user_idx[order]) == 0]
        assert np.mean(gap < 600_000) > 0.85  # the next rating within ten minutes
        assert np.mean(gap > 86_400_000) > 0.02  # or on another day

    def test_a_dot_product_predicts_better_than_biases(self, sample: Sample) -> None:
        ratings = as_ratings(sample)
        held = hold_out(ratings)
        train, test = ratings.select(~held), ratings.select(held)
        mean, user_bias, item_bias = fit_biases(train)
        by_bias = mean + user_bias[test.user_idx] + item_bias[test.item_idx]
        residual = train.rating - mean - user_bias[train.user_idx] - item_bias[train.item_idx]
        users, items = factorise(train, residual, n_factors=8, ridge=6, n_rounds=6)
        by_dot = by_bias + (users[test.user_idx] * items[test.item_idx]).sum(axis=1)
        assert rmse(by_dot, test) < 0.95 * rmse(by_bias, test)

    def test_taste_ranks_better_than_popularity(self, sample: Sample) -> None:
        ratings = as_ratings(sample)
        held = hold_out(ratings)
        seen = np.zeros((2000, 1000))
        seen[ratings.user_idx[~held], ratings.item_idx[~held]] = 1
        liked = held & (ratings.rating >= 4)
        relevant = np.zeros(seen.shape, bool)
        relevant[ratings.user_idx[liked], ratings.item_idx[liked]] = True
        _, vectors = np.linalg.eigh(seen.T @ seen)
        tastes = vectors[:, -12:]
        popularity = np.broadcast_to(seen.sum(axis=0), seen.shape)
        assert ndcg_at_10(seen @ tastes @ tastes.T, seen, relevant) > 1.5 * ndcg_at_10(popularity, seen, relevant)


class TestSeed:
    def test_the_same_seed_writes_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write(tmp_path / name, generate(200, 100, 3000, seed=7))
        for name in ("ratings.csv", "items.csv"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_another_seed_is_another_sample(self) -> None:
        assert generate(200, 100, 3000, seed=1).items != generate(200, 100, 3000, seed=2).items

    def test_more_ratings_leave_the_catalogue_as_it_is(self) -> None:
        assert generate(200, 100, 3000).items == generate(300, 100, 5000).items


class TestWrite:
    def test_the_generic_reader_reads_back_what_was_written(self, sample: Sample, tmp_path: Path) -> None:
        source = open_source(write(tmp_path / "new" / "folder", sample))
        rejected: list[Rejected] = []
        batches = list(source.ratings(rejected.append))
        assert source.items(rejected.append) == sample.items
        assert rejected == []
        expected = sample.ratings
        assert [id_ for batch in batches for id_ in batch.user_ids.to_pylist()] == expected.user_ids.to_pylist()
        assert [id_ for batch in batches for id_ in batch.item_ids.to_pylist()] == expected.item_ids.to_pylist()
        for column in ("rating", "rated_at", "line"):
            read = np.concatenate([getattr(batch, column) for batch in batches])
            np.testing.assert_array_equal(read, getattr(expected, column))

    def test_headers(self, tmp_path: Path) -> None:
        folder = write(tmp_path, generate(20, 10, 50))
        assert (folder / "ratings.csv").read_text().splitlines()[0] == "user_id,item_id,rating,rated_at"
        assert (folder / "items.csv").read_text().splitlines()[0] == "item_id,title,genres,year"


def fit_biases(train: Ratings) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Means of users and items, drawn to the mean of all by five ratings' worth, in turn."""
    mean = float(train.rating.mean())
    user_bias, item_bias = np.zeros(train.n_users), np.zeros(train.n_items)
    for _ in range(5):
        left = train.rating - mean - user_bias[train.user_idx]
        item_bias = np.bincount(train.item_idx, left, train.n_items) / (train.item_counts() + 5)
        left = train.rating - mean - item_bias[train.item_idx]
        n_rated = np.bincount(train.user_idx, minlength=train.n_users)
        user_bias = np.bincount(train.user_idx, left, train.n_users) / (n_rated + 5)
    return mean, user_bias, item_bias


def factorise(
    train: Ratings, residual: NDArray[np.float64], n_factors: int, ridge: float, n_rounds: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Alternating least squares: each side's vectors in turn, the other side's held fixed."""
    # As a dense matrix and its mask, 2 000 × 1 000, one batched solve does a whole side.
    target, mask = np.zeros((train.n_users, train.n_items)), np.zeros((train.n_users, train.n_items))
    target[train.user_idx, train.item_idx] = residual
    mask[train.user_idx, train.item_idx] = 1

    def solve(
        target: NDArray[np.float64], mask: NDArray[np.float64], fixed: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        outer = (fixed[:, :, None] * fixed[:, None, :]).reshape(len(fixed), -1)
        gram = (mask @ outer).reshape(-1, n_factors, n_factors) + ridge * np.eye(n_factors)
        return np.linalg.solve(gram, (target @ fixed)[..., None])[..., 0]

    items = np.random.default_rng(0).normal(0, 0.1, (train.n_items, n_factors))
    users = np.zeros((train.n_users, n_factors))
    for _ in range(n_rounds):
        users = solve(target, mask, items)
        items = solve(target.T, mask.T, users)
    return users, items


def rmse(predicted: NDArray[np.float64], test: Ratings) -> float:
    return float(np.sqrt(np.mean((predicted - test.rating) ** 2)))


def ndcg_at_10(score: NDArray[np.float64], seen: NDArray[np.float64], relevant: NDArray[np.bool_]) -> float:
    order = np.argsort(np.where(seen > 0, np.inf, -score), axis=1, kind="stable")[:, :10]
    gain = 1 / np.log2(np.arange(2, 12))
    n_relevant = relevant.sum(axis=1)
    found = (np.take_along_axis(relevant, order, axis=1) * gain).sum(axis=1)
    best = np.cumsum(gain)[np.clip(n_relevant, 1, 10) - 1]
    return float((found / best)[n_relevant > 0].mean())
