"""A generated, seeded catalogue with ratings for the demo, the tests and the benchmarks.

Films and people are invented. The sample has three properties of real ratings that make a model worthwhile: a few
popular items beside a long tail, crowds of users with similar tastes, and items of different quality.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from recsys.data.rows import ItemRow, RatingBatch
from recsys.data.sample.behaviour import crowd_tastes, draw_activity, draw_pairs, draw_ratings, draw_times
from recsys.data.sample.catalogue import draw_catalogue, make_ids
from recsys.data.sample.words import CROWDS
from recsys.errors import InputError


@dataclass(frozen=True, slots=True)
class Sample:
    """A generated rating log, oldest first.

    Attributes:
        user_ids: (n_users,) external ids, "u0001" and on.
        items: (n_items,) the catalogue, ids "i0001" and on.
        user_idx, item_idx: (n_ratings,) int32, positions in `user_ids` and `items`; no pair twice.
        rating: (n_ratings,) float32, whole stars from 1 to 5.
        rated_at: (n_ratings,) int64, Unix milliseconds in UTC, whole seconds, ascending.
    """

    user_ids: pa.StringArray
    items: list[ItemRow]
    user_idx: NDArray[np.int32]
    item_idx: NDArray[np.int32]
    rating: NDArray[np.float32]
    rated_at: NDArray[np.int64]

    @property
    def n_ratings(self) -> int:
        return len(self.rating)

    @property
    def ratings(self) -> RatingBatch:
        """Return the ratings as the reader of `ratings.csv` returns them. Each access builds them anew."""
        return RatingBatch(
            user_ids=self.user_ids.take(pa.array(self.user_idx)),
            item_ids=pa.array([item.item_id for item in self.items]).take(pa.array(self.item_idx)),
            rating=self.rating.astype(np.float64),
            rated_at=self.rated_at,
            line=np.arange(2, self.n_ratings + 2),
        )


def generate(n_users: int = 2000, n_items: int = 1000, n_ratings: int = 120_000, seed: int = 0) -> Sample:
    """Draw a catalogue, users and their ratings.

    With tastes p_u and loadings q_i over the genres and the age of an item, user u of crowd c rates items
    without replacement with chances proportional to weight_i · exp(pull · p_c · q_i), and gives

        r_ui = round(2.95 + bias_u + quality_i + liking · p_u · q_i + noise), cut to 1…5.

    Args:
        n_users, n_items, n_ratings: exact sizes.
        seed: equal seeds and sizes give equal samples.

    Raises:
        InputError: a size below 1, or more ratings than half of all pairs.
    """
    if min(n_users, n_items) < 1 or not 1 <= n_ratings <= n_users * n_items // 2:
        raise InputError(
            f"a sample of {n_ratings} ratings by {n_users} users of {n_items} items: expected at least one of "
            f"each, and at most {n_users * n_items // 2} ratings, half of all pairs; change the sizes"
        )
    # One stream of random numbers for each part: more users or ratings do not change the catalogue.
    for_items, for_users, for_pairs, for_stars, for_times = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)
    )
    catalogue = draw_catalogue(for_items, n_items)
    crowd_taste = crowd_tastes()  # (n_crowds, n_tastes)
    crowds = for_users.choice(len(CROWDS), size=(n_users, 2), p=[crowd[0] for crowd in CROWDS])
    taste = 0.75 * crowd_taste[crowds[:, 0]] + 0.25 * crowd_taste[crowds[:, 1]]
    taste += 0.22 * for_users.standard_normal(taste.shape, np.float32)  # (n_users, n_tastes)
    n_rated = draw_activity(for_users, n_users, n_items, n_ratings)

    affinity = crowd_taste @ catalogue.loading.T  # (n_crowds, n_items)
    user_idx, item_idx = draw_pairs(for_pairs, n_rated, crowds, catalogue.log_weight, affinity)
    rating = draw_ratings(for_stars, user_idx, item_idx, taste, catalogue)
    rated_at = draw_times(for_times, user_idx, n_rated)
    order = np.argsort(rated_at, kind="stable")
    return Sample(
        user_ids=pa.array(make_ids("u", n_users)),
        items=catalogue.items,
        user_idx=user_idx[order],
        item_idx=item_idx[order],
        rating=rating[order],
        rated_at=rated_at[order],
    )


def write(folder: Path, sample: Sample) -> Path:
    """Write `ratings.csv` and `items.csv` into a folder, create it if it is missing, and return it.

    Equal samples give equal bytes. Times are Unix seconds, genres are joined by `|`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ratings = sample.ratings
    table = pa.table(
        {
            "user_id": ratings.user_ids,
            "item_id": ratings.item_ids,
            "rating": ratings.rating.astype(np.int8),
            "rated_at": ratings.rated_at // 1000,
        }
    )
    with (folder / "ratings.csv").open("wb") as file:
        # Arrow would quote the names of the columns.
        file.write(",".join(table.column_names).encode() + b"\n")
        pa.csv.write_csv(table, file, pa.csv.WriteOptions(include_header=False, quoting_style="none"))
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["item_id", "title", "genres", "year"])
        writer.writerows([item.item_id, item.title, "|".join(item.categories), item.year] for item in sample.items)
    return folder
