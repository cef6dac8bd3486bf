"""Lists from the shell: for one user, for items, or for all users into a file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.csv import CSVWriter
from pyarrow.parquet import ParquetWriter
from sqlalchemy import Connection, Engine

from jobs.progress import progress
from recsys.data.whole_file import whole_file
from recsys.database.engine import reading
from recsys.database.made_files import note_files
from recsys.database.user_chunks import UserChunk, count_users, read_chunks, read_rated_pairs, read_trained_rows
from recsys.errors import InputError
from recsys.results import AllListsReport, Ignored, ItemList, Order, PopularBy
from recsys.serving.catalogue import Catalogue
from recsys.serving.checks import ignored_diversity, ignored_parts
from recsys.serving.encode import ItemDetails, metadata_fields, to_item_list
from recsys.serving.explain import explain_items
from recsys.serving.filters import NO_FILTERS, Filters
from recsys.serving.lists import ListQuery
from recsys.serving.lists import recommend as rank_items
from recsys.serving.live_model import Embedding, LiveModel
from recsys.serving.pages import as_page, start_page
from recsys.serving.predictions import predicted_ratings
from recsys.serving.searches import RankedItems, run_searches
from recsys.serving.snapshot import Recommender, load_recommender
from recsys.serving.trending import HALF_LIFE_DAYS, read_trending
from recsys.serving.users import UNKNOWN_USER, UserState, read_rated_items_by_id, read_states

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
CSV_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float64()),
        ("source", pa.string()),
    ]
)
SOURCES = ["model", "fold_in", "popularity"]


@dataclass(frozen=True, slots=True)
class UserQuery:
    """What a list from the shell should contain: `ListQuery` with ids in place of positions.

    Attributes:
        model: `ranking`, `rating` or the number of a live version; `None`: the live ranking version.
        fields: what the items have beside their title.
        cursor: of the page before; `None`: the first page.
    """

    n: int = 10
    exclude_seen: bool = True
    filters: Filters = NO_FILTERS
    exclude: Sequence[str] = ()
    candidates: Sequence[str] | None = None
    model: str | None = None
    fields: Sequence[str] = ()
    cursor: str | None = None
    explain: bool = False
    diversity: float = 0.0

    def list_query(self, catalogue: Catalogue) -> ListQuery:
        """Return the query with the positions of items."""
        return ListQuery(
            n=self.n,
            exclude_seen=self.exclude_seen,
            filters=self.filters,
            exclude=catalogue.find(self.exclude),
            candidates=None if self.candidates is None else catalogue.find(self.candidates),
            diversity=self.diversity,
        )

    def ignored(self, catalogue: Catalogue) -> tuple[Ignored, ...]:
        """Return the parts of the query that have no effect."""
        ids = [("exclude", self.exclude), ("candidate", self.candidates or ())]
        return ignored_parts(catalogue, self.filters, ids)


def recommend(engine: Engine, user_id: str, query: UserQuery) -> ItemList:
    """Return the list of one user, as the API returns it."""
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        catalogue, model = recommender.catalogue, recommender.list_model(query.model)
        user = read_states(connection, [user_id], catalogue, model)[user_id]
        start = start_page(catalogue, "recommendations", query.cursor)
        plain = query.list_query(catalogue)
        exclude = np.concatenate([plain.exclude, start.shown])
        asked = replace(plain, n=query.n + 1, exclude=exclude, after=start.last)
        (ranked,) = rank_items(recommender, model, [user], asked)
        ignored = query.ignored(catalogue) + ignored_diversity(query.diversity, [ranked.source])
        ranked = as_page(catalogue, ranked, query.n, start)._replace(ignored=ignored)
        explanations, predictions = None, None
        if query.explain:
            rated = read_rated_items_by_id(connection, [user_id], catalogue)[user_id]
            explanations = explain_items(recommender, model, user, rated, ranked)
        rating_model = recommender.models.get("rating")
        if "prediction" in query.fields and rating_model is not None:
            rater = read_states(connection, [user_id], catalogue, rating_model)[user_id]
            predictions = predicted_ratings(rating_model, rater, ranked.best.item_idx)
    return to_item_list(catalogue, ranked, ItemDetails(metadata_fields(query.fields), predictions, explanations))


def similar(
    engine: Engine,
    item_ids: Sequence[str],
    n: int,
    filters: Filters = NO_FILTERS,
    exclude: Sequence[str] = (),
    exclude_seen_by: str | None = None,
    fields: Sequence[str] = (),
    cursor: str | None = None,
) -> ItemList:
    """Return the items that are similar to one item or to several, as the API returns them.

    Raises:
        NotFoundError: the version knows none of the items.
    """
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        catalogue = recommender.catalogue
        seen, ignored = np.empty(0, np.int64), ignored_parts(catalogue, filters, [("exclude", exclude)])
        if exclude_seen_by is not None:
            model = recommender.models.get("ranking")
            user = read_states(connection, [exclude_seen_by], catalogue, model)[exclude_seen_by]
            seen = user.seen.astype(np.int64)
            if user is UNKNOWN_USER:
                reason = "there is no such user, so nothing is excluded"
                ignored += (Ignored(where="exclude_seen_by", value=exclude_seen_by, reason=reason),)
    start = start_page(catalogue, "similar", cursor)
    left_out = np.concatenate([start.shown, seen, catalogue.find(exclude)])
    if len(item_ids) == 1:
        search = recommender.similar.search(item_ids[0], n + 1, filters, left_out, start.last)
    else:
        search, unknown = recommender.similar.search_many(item_ids, n + 1, filters, left_out, start.last)
        ignored += unknown
    ranked = recommender.similar.finish(search, run_searches([search])[0])
    ranked = as_page(catalogue, ranked, n, start)._replace(ignored=ignored)
    return to_item_list(catalogue, ranked, ItemDetails(metadata_fields(fields)))


def popular(
    engine: Engine,
    by: PopularBy,
    n: int,
    order: Order,
    min_ratings: int | None = None,
    filters: Filters = NO_FILTERS,
    half_life_days: float = HALF_LIFE_DAYS,
    fields: Sequence[str] = (),
    cursor: str | None = None,
) -> ItemList:
    """Return popular items, as the API returns them."""
    trending, fallback = None, None
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        if by == "trending":
            trending, fallback = read_trending(connection, recommender, half_life_days, order)
    catalogue = recommender.catalogue
    start = start_page(catalogue, "popular", cursor)
    ranked = recommender.popular(
        by, n + 1, order, min_ratings, filters, exclude=start.shown, after=start.last, trending=trending
    )
    ranked = as_page(catalogue, ranked, n, start)
    ranked = ranked._replace(ignored=ignored_parts(catalogue, filters), fallback=fallback or ranked.fallback)
    return to_item_list(catalogue, ranked, ItemDetails(metadata_fields(fields)))


def recommend_all(engine: Engine, out: Path, query: UserQuery) -> AllListsReport:
    """Write the lists of all users to a file: user_id, rank from 1, item_id, score, source.

    The file is Parquet, or CSV if its name ends with .csv. It is written under another name and renamed at the end, so
    that a reader never sees half of it.

    Raises:
        InputError: the file cannot be written.
    """
    started = perf_counter()
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        model = recommender.list_model(query.model)
        list_query = query.list_query(recommender.catalogue)
        n_users = count_users(connection)
        n_rows = 0
        metadata = {"recsys.model_version": str(model.number) if model else "none"}
        is_csv = out.suffix == ".csv"
        try:
            with whole_file(out) as partial:
                writer = (
                    CSVWriter(partial, CSV_SCHEMA) if is_csv else ParquetWriter(partial, SCHEMA.with_metadata(metadata))
                )
                with writer as file, progress("recommending", n_users) as advance:
                    for chunk in read_chunks(connection, CHUNK_USERS):
                        table = chunk_lists(connection, recommender, model, chunk, list_query)
                        file.write_table(table.cast(CSV_SCHEMA) if is_csv else table)
                        n_rows += len(table)
                        advance(len(chunk.user_ids))
        except OSError as error:
            raise InputError(
                f"cannot write {out} ({error.strerror or error}): choose another path with --out"
            ) from error
    note_files(engine, [out], "table")
    return AllListsReport(
        model_version=model.number if model else None,
        users=n_users,
        rows=n_rows,
        file=str(out),
        seconds=round(perf_counter() - started, 3),
        ignored=list(query.ignored(recommender.catalogue)) or None,
    )


def chunk_lists(
    connection: Connection, recommender: Recommender, model: LiveModel | None, chunk: UserChunk, query: ListQuery
) -> pa.Table:
    """Return the lists of some users: trained rows are read in bulk, other users as the API reads them.

    Weights between items need the ratings themselves, so that all users are read as the API reads them.
    """
    seen = read_seen(connection, recommender, chunk)
    states: dict[str, UserState] = {}
    if model is not None and model.factors.weights is None:
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
