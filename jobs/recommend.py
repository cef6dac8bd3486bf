"""Lists from the shell: for one user, or for all of them into a file."""

from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine

from jobs.progress import progress
from recsys.database.engine import reading
from recsys.database.user_chunks import UserChunk, count_users, read_chunks, read_rated_pairs, read_trained_rows
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
"""Users in one row group of the file, and in memory at once."""

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.dictionary(pa.int32(), pa.string())),
        ("score", pa.float64()),
        ("source", pa.dictionary(pa.int8(), pa.string())),
    ]
)
SOURCES = ["model", "fold_in", "popularity"]


def recommend(engine: Engine, user_id: str, query: ListQuery, *, explain: bool = False) -> ItemList:
    """Return the list of one user, as the API returns it."""
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
    """Write the lists of all users to a Parquet file: user_id, rank from 1, item_id, score, source.

    The file is written under another name and renamed at the end, so that a reader never sees half of it.

    Raises:
        InputError: the file cannot be written.
    """
    started = perf_counter()
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        model = recommender.list_model()
        n_users = count_users(connection)
        partial = out.with_name(f".{out.name}.part")
        n_rows = 0
        metadata = {"recsys.model_version": str(model.number) if model else "none"}
        try:
            with (
                pq.ParquetWriter(partial, SCHEMA.with_metadata(metadata)) as file,
                progress("recommending", n_users) as advance,
            ):
                for chunk in read_chunks(connection, CHUNK_USERS):
                    table = chunk_lists(connection, recommender, model, chunk, query)
                    file.write_table(table)
                    n_rows += len(table)
                    advance(len(chunk.user_ids))
            partial.replace(out)
        except OSError as error:
            raise InputError(f"cannot write {out} ({error.strerror}): choose another path with --out") from error
        finally:
            partial.unlink(missing_ok=True)
    seconds = perf_counter() - started
    return AllListsReport(
        model_version=model.number if model else None,
        users=n_users,
        rows=n_rows,
        file=str(out),
        seconds=round(seconds, 3),
    )


def chunk_lists(
    connection: Connection, recommender: Recommender, model: LiveModel | None, chunk: UserChunk, query: ListQuery
) -> pa.Table:
    """Return the lists of some users: trained rows are read in bulk, other users as the API reads them."""
    seen = read_seen(connection, recommender, chunk)
    states: dict[str, UserState] = {}
    if model is not None:
        trained_seq, width = model.version.training.trained_seq, model.factors.n_factors
        rows = read_trained_rows(connection, chunk, model.number, trained_seq, width)
        for position, vector, bias in zip(*rows, strict=True):
            states[chunk.user_ids[position]] = UserState(Embedding(vector, bias), "model", seen[position])
    others = [user_id for user_id in chunk.user_ids if user_id not in states]
    if others:
        states |= read_states(connection, others, recommender.catalogue, model)
    lists = rank_items(recommender, model, [states[user_id] for user_id in chunk.user_ids], query)
    return as_table(recommender, chunk, lists)


def read_seen(connection: Connection, recommender: Recommender, chunk: UserChunk) -> list[NDArray[np.int32]]:
    """Return the positions of the items that each user of a chunk rated."""
    user_key, item_key = read_rated_pairs(connection, chunk)
    found = recommender.catalogue.positions(item_key)
    user_key, item_idx = user_key[found >= 0], found[found >= 0].astype(np.int32)
    starts = np.searchsorted(user_key, chunk.keys).tolist()
    ends = np.searchsorted(user_key, chunk.keys, "right").tolist()
    return [item_idx[start:end] for start, end in zip(starts, ends, strict=True)]


def as_table(recommender: Recommender, chunk: UserChunk, lists: list[RankedItems]) -> pa.Table:
    """Return lists as rows of the file."""
    lengths = np.array([len(ranked.best.item_idx) for ranked in lists])
    user = np.repeat(np.arange(len(lists)), lengths)
    rank = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
    item_idx = np.concatenate([ranked.best.item_idx for ranked in lists]).astype(np.int32)
    used, code = np.unique(item_idx, return_inverse=True)
    item_ids = [recommender.catalogue.items[idx].item_id for idx in used]
    sources = np.repeat([SOURCES.index(ranked.source) for ranked in lists], lengths).astype(np.int8)
    return pa.table(
        [
            pa.array(chunk.user_ids, pa.string()).take(pa.array(user)),
            pa.array(rank, pa.int32()),
            pa.DictionaryArray.from_arrays(pa.array(code, pa.int32()), pa.array(item_ids, pa.string())),
            pa.array(np.concatenate([ranked.best.scores for ranked in lists])),
            pa.DictionaryArray.from_arrays(pa.array(sources), pa.array(SOURCES, pa.string())),
        ],
        schema=SCHEMA,
    )
