"""Ratings with the ids and the metadata of their users and items, from a data frame, a file or a database."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.encoding import as_ratings, collect, split_deleted
from recsys.data.features import build_features_of_rows
from recsys.data.frames import ratings_from_frame
from recsys.data.rows import ItemRow, RatingBatch, Rejected, UserRow
from recsys.database.engine import connect, reading
from recsys.database.features import read_item_features, read_user_features
from recsys.database.items import StoredItem, read_items
from recsys.database.ratings import read_ratings
from recsys.database.users import read_user_ids
from recsys.errors import InputError, MostlyBadError
from recsys.files.source import open_source

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RatingData:
    """Ratings, and what their keys mean.

    >>> data.select(data.ratings.rating >= 4)                           # doctest: +SKIP

    Attributes:
        ratings: as arrays, with the features of users and items if there is metadata.
        user_ids: user key → external id.
        items: item key → external id, title, categories and attributes.
    """

    ratings: Ratings
    user_ids: Mapping[int, str]
    items: Mapping[int, StoredItem]

    def __repr__(self) -> str:
        ratings = self.ratings
        return f"RatingData({ratings.n_ratings:,} ratings, {ratings.n_users:,} users, {ratings.n_items:,} items)"

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "RatingData":
        """Return the data with some of the ratings: a mask or positions of rows."""
        return RatingData(self.ratings.select(rows).compact(), self.user_ids, self.items)


def load_ratings(
    source: object,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    time: str | None = None,
    items: str | Path | None = None,
    users: str | Path | None = None,
) -> RatingData:
    """Read ratings from a pandas or polars data frame, a file, or a database.

    >>> load_ratings("ml-100k.zip")                                   # doctest: +SKIP
    RatingData(100,000 ratings, 943 users, 1,682 items)

    Args:
        source: a `DataFrame`; a path of a file, folder or zip that `recsys load` accepts; or a database URL
            (`sqlite:///FILE`, `postgresql://…`).
        user, item, rating, time: names of the columns; `None` recognises a column by its name.
        items, users: files of metadata, for a source that is a file.

    Raises:
        InputError: the source cannot be read, or holds no ratings. The message names the column or the row, and the
            fix.
        MostlyBadError: more rows of a file were rejected than kept.
        DatabaseError: the database cannot be reached.
    """
    if isinstance(source, str) and "://" in source:
        return _from_database(source)
    if isinstance(source, str | Path):
        names = {"user_id": user, "item_id": item, "rating": rating, "rated_at": time}
        return _from_file(source, {role: name for role, name in names.items() if name is not None}, items, users)
    frame = ratings_from_frame(source, user=user, item=item, rating=rating, time=time)
    return _identified(frame.ratings, frame.user_ids, frame.item_ids)


def align_ratings(data: RatingData, to: RatingData) -> Ratings:
    """Return the ratings of `data` under the keys of `to`; unknown users and items get keys above all others."""
    if data.user_ids is to.user_ids and data.items is to.items:
        return data.ratings
    ratings = data.ratings
    user_key_of = {user_id: key for key, user_id in to.user_ids.items()}
    item_key_of = {item.item_id: key for key, item in to.items.items()}
    user_keys = _keys_for([data.user_ids[key] for key in ratings.user_keys.tolist()], user_key_of)
    item_keys = _keys_for([data.items[key].item_id for key in ratings.item_keys.tolist()], item_key_of)
    by_user, by_item = np.argsort(user_keys, kind="stable"), np.argsort(item_keys, kind="stable")
    new_user, new_item = np.argsort(by_user).astype(np.int32), np.argsort(by_item).astype(np.int32)
    return replace(
        ratings,
        user_idx=new_user[ratings.user_idx],
        item_idx=new_item[ratings.item_idx],
        user_keys=user_keys[by_user],
        item_keys=item_keys[by_item],
        user_hash=ratings.user_hash[by_user],
        item_hash=ratings.item_hash[by_item],
    )


def _keys_for(ids: Sequence[str], known: Mapping[str, int]) -> NDArray[np.int64]:
    first = max(known.values(), default=-1) + 1
    return np.array([known.get(each, first + position) for position, each in enumerate(ids)], np.int64)


def _from_database(url: str) -> RatingData:
    engine = connect(url, create=False)
    try:
        with reading(engine) as connection:
            ratings = read_ratings(connection)
            if ratings.n_ratings == 0:
                raise InputError(f"{engine.url.render_as_string()} has no ratings: run `recsys load PATH` first")
            ratings = ratings.with_features(read_user_features(connection), read_item_features(connection))
            items = {stored.item_key: stored for stored in read_items(connection)}
            return RatingData(ratings, read_user_ids(connection), items)
    finally:
        engine.dispose()


def _from_file(
    path: str | Path, columns: Mapping[str, str], items: str | Path | None, users: str | Path | None
) -> RatingData:
    source = open_source(path, items=items, users=users, columns=columns)
    rejects: list[Rejected] = []
    n_kept = 0

    def counted(batches: Iterable[RatingBatch]) -> Iterator[RatingBatch]:
        nonlocal n_kept
        for batch in batches:
            n_kept += len(batch.rating)
            yield batch

    encoded = collect(counted(source.ratings(rejects.append)), take=partial(source.budget.take, name=source.name))
    encoded, _ = split_deleted(encoded)
    if len(rejects) > n_kept:
        raise MostlyBadError(
            f"{source.name}: {len(rejects):,} of {n_kept + len(rejects):,} rows were rejected; the first: {rejects[0]}"
        )
    item_rows, user_rows = source.items(rejects.append), source.users(rejects.append)
    if rejects:
        _log.warning("rows were rejected", extra={"rejected": len(rejects), "first": str(rejects[0])})
    return _identified(as_ratings(encoded), encoded.user_ids, encoded.item_ids, user_rows, item_rows)


def _identified(
    ratings: Ratings,
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    user_rows: Sequence[UserRow] = (),
    item_rows: Sequence[ItemRow] = (),
) -> RatingData:
    """Return ratings whose keys are positions in the lists of ids; described but unrated ids get the next keys."""
    user_keys = {
        user_id: key for key, user_id in enumerate(dict.fromkeys([*user_ids, *(r.user_id for r in user_rows)]))
    }
    item_keys = {
        item_id: key for key, item_id in enumerate(dict.fromkeys([*item_ids, *(r.item_id for r in item_rows)]))
    }
    described = {row.item_id: row for row in item_rows}
    items = {}
    for item_id, key in item_keys.items():
        row = described.get(item_id)
        title, categories, attributes = (None, (), {}) if row is None else (row.title, row.categories, row.attributes)
        items[key] = StoredItem(key, item_id, title, list(categories), attributes, False)
    if user_rows or item_rows:
        ratings = ratings.with_features(
            build_features_of_rows(user_rows, user_keys), build_features_of_rows(item_rows, item_keys)
        )
    return RatingData(ratings, {key: user_id for user_id, key in user_keys.items()}, items)
