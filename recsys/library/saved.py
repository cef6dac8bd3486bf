"""A `Learner` as files, and as a version in a database."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as pack_tensors

from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.encoding import RatingColumns
from recsys.data.keyed import hash_ids
from recsys.data.rows import ItemRow
from recsys.database import ids
from recsys.database import models as versions
from recsys.database.changes import current_seq
from recsys.database.engine import connect, reading
from recsys.database.items import StoredItem, upsert_items
from recsys.database.leases import LOADING, TRAINING, lease
from recsys.database.models import Training
from recsys.database.ratings import upsert_ratings
from recsys.database.weights import pack_weights, unpack_weights
from recsys.errors import InputError
from recsys.factors import Factors, ItemWeights, Side
from recsys.library.loading import RatingData

FORMAT = 1
"""Version of the folder's layout."""
_MODEL, _WEIGHTS, _RATINGS, _ABOUT = "factors.safetensors", "weights.safetensors", "ratings.parquet", "learner.json"


@dataclass(frozen=True, slots=True)
class SavedModel:
    """The parts of a `Learner` that are written to files; see there."""

    data: RatingData
    factors: Factors
    config: Mapping[str, Any]
    rating_scale: tuple[float, float]
    history: Sequence[Mapping[str, object]]
    seconds: float


def write_model(folder: Path, model: SavedModel) -> None:
    """Write a model to a folder.

    Raises:
        InputError: the folder cannot be written.
    """
    factors, ratings = model.factors, model.data.ratings
    arrays = {"global_bias": np.array([factors.global_bias])}
    for name, side in (("users", factors.users), ("items", factors.items)):
        arrays |= {f"{name}.keys": side.keys, f"{name}.factors": side.factors, f"{name}.bias": side.bias}
        if side.implicit is not None:
            arrays[f"{name}.implicit"] = side.implicit
    if (between := factors.weights) is not None:
        arrays |= {
            "weights.starts": between.starts,
            "weights.item_idx": between.item_idx,
            "weights.values": between.values,
        }
    table = pa.table(
        {
            "user_key": ratings.user_keys[ratings.user_idx],
            "item_key": ratings.item_keys[ratings.item_idx],
            "rating": ratings.rating,
            "rated_at": pa.array(ratings.rated_at, mask=ratings.rated_at == NO_TIME),
        }
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MODEL).write_bytes(pack_tensors({name: np.ascontiguousarray(a) for name, a in arrays.items()}))
        (folder / _WEIGHTS).write_bytes(pack_weights(factors) or b"")
        pq.write_table(table, folder / _RATINGS)
        about = {
            "format": FORMAT,
            "objective": factors.objective,
            "rating_range": factors.rating_range,
            "rating_scale": model.rating_scale,
            "config": model.config,
            "history": model.history,
            "seconds": model.seconds,
            "users": {str(key): user_id for key, user_id in model.data.user_ids.items()},
            "items": [list(item) for item in model.data.items.values()],
            "sha256": {name: _digest(folder / name) for name in (_MODEL, _WEIGHTS, _RATINGS)},
        }
        (folder / _ABOUT).write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the model to {folder} ({error.strerror}): name another folder") from error


def read_model(folder: Path) -> SavedModel:
    """Read what `write_model` wrote.

    Raises:
        InputError: the folder holds no model, or a file is damaged or of a later version.
    """
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise InputError(
                f"{folder} has format {about['format']}, this version reads {FORMAT}: save the model again"
            )
        for name, digest in about["sha256"].items():
            if name not in (_MODEL, _WEIGHTS, _RATINGS) or _digest(folder / name) != digest:
                raise InputError(f"{folder / name} is damaged: save the model again")
        arrays = load_tensors((folder / _MODEL).read_bytes())
        weights = unpack_weights((folder / _WEIGHTS).read_bytes() or None, about["objective"], about["config"])
        table = pq.read_table(folder / _RATINGS)
    except OSError as error:
        raise InputError(f"{folder} holds no saved model ({error.strerror}: {error.filename})") from error
    except (KeyError, TypeError, ValueError, SafetensorError, pa.ArrowException) as error:
        raise InputError(f"{folder} is damaged ({error}): save the model again") from error
    sides = {
        name: Side(
            arrays[f"{name}.keys"],
            arrays[f"{name}.factors"],
            arrays[f"{name}.bias"],
            arrays.get(f"{name}.implicit"),
            features,
        )
        for name, features in (("users", weights.user_features), ("items", weights.item_features))
    }
    factors = Factors(
        objective=about["objective"],
        users=sides["users"],
        items=sides["items"],
        global_bias=float(arrays["global_bias"][0]),
        rating_range=None if about["rating_range"] is None else tuple(about["rating_range"]),
        head=weights.head,
        constants=weights.constants,
        weights=None
        if "weights.starts" not in arrays
        else ItemWeights(*(arrays[f"weights.{name}"] for name in ("starts", "item_idx", "values"))),
    )
    user_ids = {int(key): user_id for key, user_id in about["users"].items()}
    items = {row[0]: StoredItem(*row) for row in about["items"]}
    data = RatingData(_ratings(table, user_ids, items), user_ids, items)
    low, high = about["rating_scale"]
    return SavedModel(data, factors, about["config"], (low, high), about["history"], about["seconds"])


def publish_model(model: SavedModel, training: Training, database_url: str, reason: str) -> int:
    """Store ratings and a model in a database, and publish the model; returns its number.

    Raises:
        DatabaseError: the database cannot be reached, or needs `recsys init`.
        LockedError: a training or a load is running.
    """
    engine = connect(database_url)
    data = model.data
    try:
        from recsys.database.migration import ready  # Alembic takes a while to import

        ready(engine)
        items = [data.items[key] for key in sorted(data.items)]
        with lease(engine, TRAINING) as held:
            with lease(engine, LOADING) as loading:
                # All items first, in the learner's order: equal scores are ordered by key.
                upsert_items(engine, [_item_row(item) for item in items], loading.guard)
                upsert_ratings(engine, _columns(data), guard=loading.guard)
            user_id = [data.user_ids[key] for key in model.factors.user_keys.tolist()]
            item_id = [data.items[key].item_id for key in model.factors.item_keys.tolist()]
            item_keys, weights = ids.item_keys(engine, item_id), model.factors.weights
            factors = replace(
                model.factors,
                users=_with_keys(model.factors.users, ids.user_keys(engine, user_id)),
                items=_with_keys(model.factors.items, item_keys),
                weights=None if weights is None else weights.moved(item_keys.argsort().argsort(), len(item_keys)),
                neighbours=None,  # the items may have another order
            )
            with reading(engine) as connection:
                seq = current_seq(connection)
            number = versions.store(engine, factors, replace(training, trained_seq=seq), held.guard)
            versions.publish(engine, number, reason, held.guard)
        return number
    finally:
        engine.dispose()


def _with_keys(side: Side, keys: NDArray[np.int64]) -> Side:
    """Return a side under other keys, ascending."""
    order = np.argsort(keys, kind="stable")
    implicit = None if side.implicit is None else side.implicit[order]
    return Side(keys[order], side.factors[order], side.bias[order], implicit, side.features)


def _item_row(item: StoredItem) -> ItemRow:
    year = item.attributes.get("year")
    return ItemRow(item.item_id, item.title, tuple(item.categories), year if isinstance(year, int) else None)


def _columns(data: RatingData) -> RatingColumns:
    ratings = data.ratings
    return RatingColumns(
        user_code=ratings.user_idx,
        item_code=ratings.item_idx,
        rating=ratings.rating.astype(np.float64),
        rated_at=ratings.rated_at,
        user_ids=[data.user_ids[key] for key in ratings.user_keys.tolist()],
        item_ids=[data.items[key].item_id for key in ratings.item_keys.tolist()],
    )


def _ratings(table: pa.Table, user_ids: dict[int, str], items: dict[int, StoredItem]) -> Ratings:
    columns: dict[str, Any] = {name: table[name].to_numpy() for name in ("user_key", "item_key", "rating")}
    user_keys, user_idx = np.unique(columns["user_key"], return_inverse=True)
    item_keys, item_idx = np.unique(columns["item_key"], return_inverse=True)
    return Ratings(
        user_idx=user_idx.astype(np.int32),
        item_idx=item_idx.astype(np.int32),
        rating=columns["rating"].astype(np.float32),
        rated_at=table["rated_at"].fill_null(int(NO_TIME)).to_numpy().astype(np.int64),
        user_keys=user_keys,
        item_keys=item_keys,
        user_hash=hash_ids([user_ids[key] for key in user_keys.tolist()]),
        item_hash=hash_ids([items[key].item_id for key in item_keys.tolist()]),
    )


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
