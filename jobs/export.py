"""Everything out of the database again, as Parquet or CSV."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import CSVWriter
from pyarrow.parquet import ParquetWriter
from sqlalchemy import Connection, Engine

import recsys
from jobs.progress import progress
from jobs.recommend import UserQuery, recommend_all
from recsys.data.dataset import NO_TIME
from recsys.data.whole_file import whole_file
from recsys.database.engine import reading
from recsys.database.items import read_items
from recsys.database.made_files import note_files
from recsys.database.models import live_numbers, load_factors
from recsys.database.ratings import count_kinds, stream_ratings
from recsys.database.users import read_user_ids, stream_users
from recsys.errors import InputError, NoModelError
from recsys.factors import Side
from recsys.files.exported import FORMAT, MANIFEST, ExportedFile, ExportManifest, checksum

Exported = Literal["ratings", "users", "items", "factors", "lists", "projector"]
"""What can be exported. A load reads ratings, users and items back."""
FileFormat = Literal["parquet", "csv"]

BATCH_ROWS = 100_000
OF_USERS = ("ratings", "events", "users", "user_factors", "lists")
"""Names of the files that have ids of users, without their endings."""


def export(
    engine: Engine, folder: Path, what: Sequence[Exported], format: FileFormat = "parquet", number: int | None = None
) -> list[Path]:
    """Write parts of the database to a folder; ratings, users and items are those of one moment.

    Args:
        number: of the version whose factors are written; by default the live ranking version, else the live rating one.

    Returns:
        The paths of the files.

    Raises:
        NoModelError: factors are wanted, no version is live, and none is named.
        NotFoundError: there is no such version.
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with reading(engine) as connection:
            written = export_data(connection, folder, what, format)
            if "factors" in what:
                written += export_factors(connection, folder, format, number)
        if "lists" in what:
            path = folder / f"lists.{format}"
            recommend_all(engine, path, UserQuery())
            written.append(path)
        if "projector" in what:
            written += export_projector(engine, folder / "projector", number)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}): name another folder with --out"
        ) from error
    note_files(engine, [path for path in written if path.stem in OF_USERS], "table")
    return written


def export_data(connection: Connection, folder: Path, what: Sequence[Exported], format: FileFormat) -> list[Path]:
    """Write ratings, events, users and items, and a manifest that a load checks."""
    files: list[ExportedFile] = []

    def write(holds: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        path = folder / f"{holds}.{format}"
        n_rows = write_table(path, schema, batches)
        if n_rows:
            files.append(ExportedFile(name=path.name, holds=holds, n_rows=n_rows, sha256=checksum(path)))
        else:
            path.unlink()  # a file without rows is refused by every reader

    if not {"ratings", "users", "items"} & set(what):
        return []
    (folder / MANIFEST).unlink(missing_ok=True)
    if "ratings" in what:
        counts = count_kinds(connection)
        for holds, is_event in (("ratings", False), ("events", True)):
            with progress(f"exporting {holds}", counts[is_event]) as advance:
                columns = ["user_id", "item_id", "weight" if is_event else "rating", "rated_at"]
                types = [pa.string(), pa.string(), pa.float64(), pa.timestamp("ms", "UTC")]
                schema = pa.schema(list(zip(columns, types, strict=True)))
                write(holds, schema, rating_batches(connection, schema, is_event, advance))
    if "users" in what:
        schema = pa.schema([("user_id", pa.string()), ("categories", pa.string()), ("attributes", pa.string())])
        described = (
            (user_id, as_json(categories), as_json(attributes))
            for user_id, categories, attributes in stream_users(connection)
        )
        write("users", schema, batches_of(schema, described))
    if "items" in what:
        named = {"item_id": pa.string(), "title": pa.string(), "categories": pa.string(), "attributes": pa.string()}
        schema = pa.schema([*named.items(), ("hidden", pa.bool_())])
        items = (
            (item.item_id, item.title, as_json(item.categories), as_json(item.attributes), item.hidden)
            for item in read_items(connection)
        )
        write("items", schema, batches_of(schema, items))
    manifest = ExportManifest(format=FORMAT, made_by=recsys.__version__, files=files)
    with whole_file(folder / MANIFEST) as beside:
        beside.write_text(manifest.model_dump_json(indent=1) + "\n")
    return [*(folder / file.name for file in files), folder / MANIFEST]


def rating_batches(
    connection: Connection, schema: pa.Schema, is_event: bool, advance: Callable[[float], None]
) -> Iterator[pa.RecordBatch]:
    """Yield ratings, or sums of events, by external id."""
    users = ids_by_key(read_user_ids(connection))
    items = ids_by_key({item.item_key: item.item_id for item in read_items(connection)})
    for user_key, item_key, rating, rated_at in stream_ratings(connection, is_event=is_event, n_rows=BATCH_ROWS):
        times = pa.array(rated_at, pa.int64(), mask=rated_at == NO_TIME).cast(schema.field("rated_at").type)
        yield pa.RecordBatch.from_arrays(
            [users.take(pa.array(user_key)), items.take(pa.array(item_key)), pa.array(rating), times], schema=schema
        )
        advance(len(rating))


def ids_by_key(ids: dict[int, str]) -> pa.Array:
    """Return external ids at the positions of their keys."""
    by_key: list[str | None] = [None] * (max(ids, default=-1) + 1)
    for key, external_id in ids.items():
        by_key[key] = external_id
    return pa.array(by_key, pa.string())


def batches_of(schema: pa.Schema, rows: Iterable[Sequence[Any]]) -> Iterator[pa.RecordBatch]:
    """Yield rows as batches of columns."""
    rows = iter(rows)
    while chunk := list(islice(rows, BATCH_ROWS)):
        arrays = [pa.array(values, field.type) for values, field in zip(zip(*chunk, strict=True), schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def write_table(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write a table under another name, rename it when it is whole, and return its number of rows.

    In CSV times are ISO 8601 with milliseconds, and a vector has one column for each factor.
    """
    n_rows, is_csv = 0, path.suffix == ".csv"
    with whole_file(path) as part:
        written_as = as_text(pa.RecordBatch.from_pylist([], schema)).schema if is_csv else schema
        with CSVWriter(part, written_as) if is_csv else ParquetWriter(part, schema) as file:
            for batch in batches:
                file.write_batch(as_text(batch) if is_csv else batch)
                n_rows += len(batch)
    return n_rows


def as_text(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose columns CSV can hold."""
    columns: dict[str, pa.Array] = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_timestamp(field.type):
            columns[field.name] = pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
        elif pa.types.is_fixed_size_list(field.type):
            width = field.type.list_size
            values = column.flatten().to_numpy().reshape(len(batch), width)
            columns |= {f"f{factor}": pa.array(values[:, factor]) for factor in range(width)}
        else:
            columns[field.name] = column
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def as_json(value: object) -> str:
    """Return a value as JSON."""
    return json.dumps(value, ensure_ascii=False)


def export_factors(connection: Connection, folder: Path, format: FileFormat, number: int | None) -> list[Path]:
    """Write the vectors and biases of users and items of a version, and its weights between items.

    Raises:
        NoModelError: no version is live, and none is named.
        NotFoundError: there is no such version.
    """
    factors = load_factors(connection, chosen_version(connection, number))
    user_ids = ids_by_key(read_user_ids(connection))
    item_ids = ids_by_key({item.item_key: item.item_id for item in read_items(connection)})
    paths = []
    for side, ids, what in ((factors.users, user_ids, "user"), (factors.items, item_ids, "item")):
        paths.append(folder / f"{what}_factors.{format}")
        batch = side_batch(side, ids, f"{what}_id")
        write_table(paths[-1], batch.schema, [batch])
    if factors.weights is not None:
        named = item_ids.take(pa.array(factors.item_keys))
        columns = {
            "item_id": named.take(pa.array(factors.weights.rows())),
            "adds_to": named.take(pa.array(factors.weights.item_idx)),
            "weight": pa.array(factors.weights.values),
        }
        batch = pa.RecordBatch.from_pydict(columns)
        paths.append(folder / f"item_weights.{format}")
        write_table(paths[-1], batch.schema, [batch])
    return paths


def side_batch(side: Side, ids: pa.Array, name: str) -> pa.RecordBatch:
    """Return the users or the items of a model: id, bias, vector."""
    width = side.factors.shape[1]
    columns = {name: ids.take(pa.array(side.keys)), "bias": pa.array(side.bias)}
    if width:  # weights between items alone have no vectors
        flat = pa.array(np.ascontiguousarray(side.factors).ravel())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.RecordBatch.from_pydict(columns)


def chosen_version(connection: Connection, number: int | None) -> int:
    """Return the number of the named version, else of the live ranking version, else of the live rating version.

    Raises:
        NoModelError: no version is live, and none is named.
    """
    live = live_numbers(connection)
    number = number or live.get("ranking") or live.get("rating")
    if number is None:
        raise NoModelError("no model is live yet, so there is nothing to export: run `recsys nightly` first")
    return number


def export_projector(engine: Engine, folder: Path, number: int | None) -> list[Path]:
    """Write vectors, metadata and map of the items of a version, for Embedding Projector and Embedding Atlas."""
    from recsys.analysis.export import export_items
    from recsys.extras import require_extra
    from recsys.library.views import read_view
    from recsys.serving.catalogue import read_catalogue

    require_extra("report")
    with reading(engine) as connection:
        view = read_view(connection, chosen_version(connection, number), read_catalogue(connection))
    return export_items(view, folder)
