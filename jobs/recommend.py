"""Lists from the shell: for one user, or for all of them into a file."""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, select

from jobs.progress import progress
from recsys.data.keyed import positions
from recsys.database import schema
from recsys.database.engine import fetch_columns, reading
from recsys.errors import InputError
from recsys.results import AllListsReport, ItemList
from recsys.serving.encode import to_item_list
from recsys.serving.explain import explain_list
from recsys.serving.lists import ListQuery
from recsys.serving.lists import recommend as rank_items
from recsys.serving.live_model import Embedding, LiveModel
from recsys.serving.searches import RankedItems
from recsys.serving.snapshot import Recommender, load_recommender
from recsys.serving.users import UserState, read_rated_items_by_id, read_states

CHUNK_USERS = 4096
"""Users of one row group of the file: so many are in memory at once."""

_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.dictionary(pa.int32(), pa.string())),
        ("score", pa.float64()),
        ("source", pa.dictionary(pa.int8(), pa.string())),
    ]
)
_SOURCES = ["model", "fold_in", "popularity"]


def recommend(engine: Engine, user_id: str, query: ListQuery, *, explain: bool = False) -> ItemList:
    """The list of one user, as the API gives it."""
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        model = recommender.list_model()
        user = read_states(connection, [user_id], recommender.catalogue, model)[user_id]
        (ranked,) = rank_items(recommender, model, [user], query)
        if not explain:
            return to_item_list(recommender.catalogue, ranked)
        rated = read_rated_items_by_id(connection, [user_id], recommender.catalogue)[user_id]
        return explain_list(recommender, model, user, rated, ranked)


def recommend_all(engine: Engine, out: Path, query: ListQuery) -> AllListsReport:
    """The lists of all users into a Parquet file: user_id, rank from 1, item_id, score, source.

    The file is written aside and renamed, so that whoever reads it never sees half of one.

    Raises:
        InputError: the file cannot be written.
    """
    started = perf_counter()
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        model = recommender.list_model()
        n_users = connection.scalar(select(func.count()).select_from(schema.users)) or 0
        aside = out.with_name(f".{out.name}.part")
        n_rows = 0
        metadata = {"recsys.model_version": str(model.number) if model else "none"}
        try:
            with (
                pq.ParquetWriter(aside, _SCHEMA.with_metadata(metadata)) as file,
                progress("recommending", n_users) as advance,
            ):
                for chunk in _chunks(connection):
                    table = _lists(connection, recommender, model, chunk, query)
                    file.write_table(table)
                    n_rows += len(table)
                    advance(len(chunk.user_ids))
            aside.replace(out)
        except OSError as error:
            raise InputError(f"cannot write {out} ({error.strerror}): give another --out") from error
        finally:
            aside.unlink(missing_ok=True)
    seconds = perf_counter() - started
    return AllListsReport(
        model_version=model.number if model else None,
        users=n_users,
        rows=n_rows,
        file=str(out),
        seconds=round(seconds, 3),
    )


class _Chunk(NamedTuple):
    keys: NDArray[np.int64]
    user_ids: list[str]


def _chunks(connection: Connection) -> Iterator[_Chunk]:
    """All users in the order of their keys."""
    users, last = schema.users.c, 0
    while True:
        statement = select(users.user_key, users.user_id).where(users.user_key > last)
        rows = connection.execute(statement.order_by(users.user_key).limit(CHUNK_USERS)).all()
        if not rows:
            return
        last = rows[-1].user_key
        yield _Chunk(np.array([row.user_key for row in rows], np.int64), [row.user_id for row in rows])


def _lists(
    connection: Connection, recommender: Recommender, model: LiveModel | None, chunk: _Chunk, query: ListQuery
) -> pa.Table:
    """The lists of some users: those whom the version knows as they are read in bulk, the others as the API does."""
    known, vectors, bias = _rows(connection, model, chunk)
    seen = _seen(connection, recommender, chunk)
    states: dict[str, UserState] = {}
    for at, vector, user_bias in zip(known, vectors, bias, strict=True):
        states[chunk.user_ids[at]] = UserState(Embedding(vector, user_bias), "model", seen[at])
    others = [user_id for user_id in chunk.user_ids if user_id not in states]
    if others:
        states |= read_states(connection, others, recommender.catalogue, model)
    lists = rank_items(recommender, model, [states[user_id] for user_id in chunk.user_ids], query)
    return _as_table(recommender, chunk, lists)


def _rows(
    connection: Connection, model: LiveModel | None, chunk: _Chunk
) -> tuple[list[int], NDArray[np.float32], list[float]]:
    """Of the users whom the version knows as they are: positions in the chunk, rows and biases."""
    if model is None:
        return [], np.empty((0, 0), np.float32), []
    first, last = int(chunk.keys[0]), int(chunk.keys[-1])
    changed, stored = schema.user_changes.c, schema.user_factors.c
    later = connection.scalars(
        select(changed.user_key).where(
            changed.user_key.between(first, last), changed.seq > model.version.training.trained_seq
        )
    )
    rows = connection.execute(
        select(stored.user_key, stored.bias, stored.vector)
        .where(stored.number == model.number, stored.user_key.between(first, last))
        .order_by(stored.user_key)
    ).all()
    place = positions(chunk.keys, np.array([row.user_key for row in rows], np.int64))
    is_changed = np.isin(place, positions(chunk.keys, np.array(later.all(), np.int64)))
    kept = [row for row, out in zip(rows, is_changed | (place < 0), strict=True) if not out]
    vectors = np.frombuffer(b"".join(row.vector for row in kept), "<f4")
    known = place[~is_changed & (place >= 0)].tolist()
    return known, vectors.reshape(len(kept), model.item_factors.shape[1]), [row.bias for row in kept]


def _seen(connection: Connection, recommender: Recommender, chunk: _Chunk) -> list[NDArray[np.int32]]:
    """Places of what each user of a chunk has rated."""
    rated = schema.ratings.c
    user_key, item_key = fetch_columns(
        connection,
        select(rated.user_key, rated.item_key)
        .where(rated.user_key.between(int(chunk.keys[0]), int(chunk.keys[-1])))
        .order_by(rated.user_key),
        (np.int64, np.int64),
    )
    place = recommender.catalogue.positions(item_key)
    user_key, places = user_key[place >= 0], place[place >= 0].astype(np.int32)
    starts = np.searchsorted(user_key, chunk.keys).tolist()
    ends = np.searchsorted(user_key, chunk.keys, "right").tolist()
    return [places[start:end] for start, end in zip(starts, ends, strict=True)]


def _as_table(recommender: Recommender, chunk: _Chunk, lists: list[RankedItems]) -> pa.Table:
    lengths = np.array([len(ranked.best.item_idx) for ranked in lists])
    user = np.repeat(np.arange(len(lists)), lengths)
    rank = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
    places = np.concatenate([ranked.best.item_idx for ranked in lists]).astype(np.int32)
    used, code = np.unique(places, return_inverse=True)
    item_ids = [recommender.catalogue.items[place].item_id for place in used]
    sources = np.repeat([_SOURCES.index(ranked.source) for ranked in lists], lengths).astype(np.int8)
    return pa.table(
        [
            pa.array(chunk.user_ids, pa.string()).take(pa.array(user)),
            pa.array(rank, pa.int32()),
            pa.DictionaryArray.from_arrays(pa.array(code, pa.int32()), pa.array(item_ids, pa.string())),
            pa.array(np.concatenate([ranked.best.scores for ranked in lists])),
            pa.DictionaryArray.from_arrays(pa.array(sources), pa.array(_SOURCES, pa.string())),
        ],
        schema=_SCHEMA,
    )
