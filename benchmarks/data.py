"""The splits that are measured on, read from the real ratings beside the project, or generated."""

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
    """The real ratings are not where they should be."""


def ml_100k(fold: int, folder: Path = SHARED_DATA) -> Case:
    """MovieLens 100K, one of its official five folds: u1 … u5.

    Raises:
        DataMissingError: the file is not there.
    """
    base, test = _tables(folder, f"u{fold}.base", f"u{fold}.test")
    rows = np.concatenate([base, test])
    return _case(rows, np.arange(len(rows)) >= len(base))


def ml_100k_random(seed: int, folder: Path = SHARED_DATA) -> Case:
    """MovieLens 100K, a random fifth of the ratings to measure on.

    Raises:
        DataMissingError: the file is not there.
    """
    (rows,) = _tables(folder, "u.data")
    held_out = np.zeros(len(rows), bool)
    held_out[np.random.default_rng(seed).permutation(len(rows))[: len(rows) // 5]] = True
    return _case(rows, held_out)


def ml_1m(folder: Path = SHARED_DATA) -> Case:
    """MovieLens 1M: folds 2 to 5 to train on, fold 1 to measure on.

    Raises:
        DataMissingError: the file is not there.
    """
    path = _present(folder / "ml-1m" / "ratings.parquet")
    table = pyarrow.parquet.read_table(path, columns=["user_id", "item_id", "rating", "fold"])
    rows = np.column_stack([column.to_numpy().astype(np.int64) for column in table.columns])
    return _case(rows, rows[:, 3] == 1)


def generated(n_ratings: int, seed: int = 0) -> Case:
    """A generated case of the shape of MovieLens 25M, smaller where fewer ratings are wanted; nothing held out.

    162,000 users and 62,000 items for 25 million ratings; both in proportion to its root below that.
    """
    scale = (n_ratings / 25e6) ** 0.5
    n_users, n_items = max(8, round(162_000 * scale)), max(8, round(62_000 * scale))
    sample = generate(n_users, n_items, n_ratings, seed)
    nobody = np.empty(0, np.int32)
    return Case(
        user=sample.user_idx,
        item=sample.item_idx,
        rating=sample.rating,
        test_user=nobody,
        test_item=nobody,
        test_rating=np.empty(0, np.float32),
        n_users=n_users,
        n_items=n_items,
    )


def _tables(folder: Path, *names: str) -> list[NDArray[np.int64]]:
    with zipfile.ZipFile(_present(folder / "ml-100k.zip")) as file:
        texts = [io.BytesIO(file.read(f"ml-100k/{name}")) for name in names]
    return [np.loadtxt(text, dtype=np.int64) for text in texts]


def _present(path: Path) -> Path:
    if not path.is_file():
        raise DataMissingError(
            f"{path} is not there: the comparison needs MovieLens 100K and 1M, which are GroupLens's and not part of "
            "this repository; put them there, or name their folder with --data"
        )
    return path


def _case(rows: NDArray[np.int64], held_out: NDArray[np.bool_]) -> Case:
    """A case of rows of user id, item id and rating; further columns are left alone."""
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
