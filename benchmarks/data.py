"""The splits of the benchmarks: real ratings from the folder beside the project, or generated ones."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

from benchmarks.case import Case
from recsys.data.sample import generate

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


class DataMissingError(Exception):
    """A file of real ratings is missing."""


def ml_100k(fold: int, folder: Path = SHARED_DATA) -> Case:
    """Return one of the five official folds of MovieLens 100K: u1 … u5.

    Raises:
        DataMissingError: the file is missing.
    """
    base, test = read_ml_100k(folder, f"u{fold}.base", f"u{fold}.test")
    rows = np.concatenate([base, test])
    return case_of_rows(rows, np.arange(len(rows)) >= len(base))


def ml_100k_random(seed: int, folder: Path = SHARED_DATA) -> Case:
    """Return MovieLens 100K with a random fifth of the ratings as test part.

    Raises:
        DataMissingError: the file is missing.
    """
    (rows,) = read_ml_100k(folder, "u.data")
    held_out = np.zeros(len(rows), bool)
    held_out[np.random.default_rng(seed).permutation(len(rows))[: len(rows) // 5]] = True
    return case_of_rows(rows, held_out)


def ml_1m(folder: Path = SHARED_DATA) -> Case:
    """Return MovieLens 1M: folds 2 to 5 for training, fold 1 as test part.

    Raises:
        DataMissingError: the file is missing.
    """
    rows = read_ml_1m(folder)
    return case_of_rows(rows, rows[:, 3] == 1)


def read_ml_1m(folder: Path = SHARED_DATA) -> NDArray[np.int64]:
    """Read MovieLens 1M: (n_ratings, 4) user id, item id, rating and fold of each.

    Raises:
        DataMissingError: the file is missing.
    """
    path = require_file(folder / "ml-1m" / "ratings.parquet")
    table = pyarrow.parquet.read_table(path, columns=["user_id", "item_id", "rating", "fold"])
    return np.column_stack([column.to_numpy().astype(np.int64) for column in table.columns])


def generated(n_ratings: int, seed: int = 0) -> Case:
    """Return a generated case of the shape of MovieLens 25M, without a test part.

    25 million ratings have 162,000 users and 62,000 items; both scale with the square root of `n_ratings`.
    """
    scale = (n_ratings / 25e6) ** 0.5
    n_users, n_items = max(8, round(162_000 * scale)), max(8, round(62_000 * scale))
    sample = generate(n_users, n_items, n_ratings, seed)
    no_index = np.empty(0, np.int32)
    return Case(
        user=sample.user_idx,
        item=sample.item_idx,
        rating=sample.rating,
        test_user=no_index,
        test_item=no_index,
        test_rating=np.empty(0, np.float32),
        n_users=n_users,
        n_items=n_items,
    )


def read_ml_100k(folder: Path, *names: str) -> list[NDArray[np.int64]]:
    """Read files of MovieLens 100K: (n_ratings, 4) user id, item id, rating and time of each."""
    with zipfile.ZipFile(require_file(folder / "ml-100k.zip")) as file:
        texts = [io.BytesIO(file.read(f"ml-100k/{name}")) for name in names]
    return [np.loadtxt(text, dtype=np.int64) for text in texts]


def require_file(path: Path) -> Path:
    """Return the path of an existing file.

    Raises:
        DataMissingError: the file is missing.
    """
    if not path.is_file():
        raise DataMissingError(
            f"{path} is missing: the comparison needs MovieLens 100K and 1M from GroupLens, which are not part of this "
            "repository; copy them there, or name their folder with --data"
        )
    return path


def case_of_rows(rows: NDArray[np.int64], held_out: NDArray[np.bool_]) -> Case:
    """Return the case of rows of user id, item id and rating; further columns are ignored.

    Args:
        rows: (n_ratings, ≥ 3).
        held_out: (n_ratings,) which rows are the test part.
    """
    users, user = np.unique(rows[:, 0], return_inverse=True)
    items, item = np.unique(rows[:, 1], return_inverse=True)
    user_idx, item_idx, rating = user.astype(np.int32), item.astype(np.int32), rows[:, 2].astype(np.float32)
    return Case(
        user=user_idx[~held_out],
        item=item_idx[~held_out],
        rating=rating[~held_out],
        test_user=user_idx[held_out],
        test_item=item_idx[held_out],
        test_rating=rating[held_out],
        n_users=len(users),
        n_items=len(items),
    )
