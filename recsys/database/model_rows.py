"""The rows of a model version: stored, read, checked and deleted."""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sqlalchemy import Connection, Engine, Table, delete, func, insert, select

from recsys.data.keyed import evenly
from recsys.database import schema
from recsys.database.checksums import row_checksums
from recsys.database.engine import copy_in, fetch_columns, fetch_rows, reading
from recsys.database.work import Guard, Work, unit_of_work, write_in_pieces
from recsys.errors import DamagedVersionError
from recsys.factors import ItemWeights, Side

CHUNK_ENTRIES = 500_000
"""Most entries in one chunk of weights between items: 4 MB."""

BATCH_ROWS = 2_000
"""Rows that are read at a time: with their vectors they fit into the processor's cache."""


def halved(side: Side) -> Side:
    """Return a side whose vectors half precision (float16) holds exactly; one with numbers too large for it as it is.

    A vector is rounded by at most 1/2048 of each number: enough for a comparison, in half the space.
    """
    if np.abs(side.factors).max(initial=0.0) > np.finfo(np.float16).max:
        return side
    return replace(side, factors=side.factors.astype(np.float16).astype(np.float32))


def vector_type(number: int, matrix: NDArray[np.float32]) -> str:
    """Return the numpy type in which the vectors of a version are stored: twins in half precision where it is exact."""
    if number > 0:
        return "<f4"
    with np.errstate(over="ignore"):
        return "<f2" if np.array_equal(matrix.astype("<f2"), matrix) else "<f4"


def store_users(engine: Engine, number: int, side: Side, guard: Guard | None) -> None:
    """Store the rows of users that still exist, with their checksums."""
    stored_as = vector_type(number, side.factors)

    def write(work: Work, rows: slice) -> None:
        users = schema.users.c
        first, last = int(side.keys[rows][0]), int(side.keys[rows][-1])
        # Locked as a foreign key would lock them: an erasure waits, or has deleted the user already.
        existing = work.connection.scalars(
            select(users.user_key)
            .where(users.user_key.between(first, last))
            .order_by(users.user_key)
            .with_for_update(read=True, key_share=True)
        ).all()
        kept = np.flatnonzero(np.isin(side.keys[rows], np.array(existing, np.int64))) + rows.start
        part = Side(side.keys[kept], side.factors[kept], side.bias[kept])
        everyone = slice(0, len(part))
        vectors = [row.tobytes() for row in np.ascontiguousarray(part.factors, stored_as)]
        columns = ([number] * len(part), part.keys.tolist(), part.bias.tolist(), vectors)
        copy_in(work.connection, schema.user_factors, (*columns, row_checksums(part, everyone)))

    write_in_pieces(engine, len(side), write, guard=guard)


def store_items(engine: Engine, number: int, side: Side, guard: Guard | None) -> None:
    """Store the rows of all items."""
    stored_as = vector_type(number, side.factors)

    def write(work: Work, rows: slice) -> None:
        keys = side.keys[rows].tolist()
        vectors, implicit = (
            [None] * len(keys) if each is None else [row.tobytes() for row in np.ascontiguousarray(each[rows], dtype)]
            for each, dtype in ((side.factors, stored_as), (side.implicit, "<f4"))
        )
        copy_in(
            work.connection,
            schema.item_factors,
            ([number] * len(keys), keys, side.bias[rows].tolist(), vectors, implicit),
        )

    write_in_pieces(engine, len(side), write, guard=guard)


def count_user_rows(connection: Connection, number: int) -> int:
    """Return the number of users' rows of a version."""
    stored = schema.user_factors.c
    return connection.scalar(select(func.count()).where(stored.number == number)) or 0


def read_items_side(connection: Connection, number: int, n_factors: int) -> Side:
    """Read the items of a version.

    Raises:
        DamagedVersionError: a vector has another length, or a number is not finite.
    """
    names = ("vector", "implicit")
    keys, bias, vectors, implicit, _ = _read_rows(connection, schema.item_factors, names, number, n_factors)
    return Side(keys, vectors, bias, implicit)


def some_user_keys(connection: Connection, number: int, n: int) -> list[int]:
    """Return the keys of at most n users of a version, evenly spaced."""
    stored = schema.user_factors.c
    keys = connection.scalars(select(stored.user_key).where(stored.number == number).order_by(stored.user_key)).all()
    return [keys[at] for at in evenly(len(keys), n).tolist()]


def read_users_side(connection: Connection, number: int, n_factors: int, among: Sequence[int] | None = None) -> Side:
    """Read the users of a version.

    Args:
        among: keys of the users to read, at most some thousand; `None`: all.

    Raises:
        DamagedVersionError: a row has another checksum, a vector another length, or a number is not finite.
    """
    table = schema.user_factors
    keys, bias, vectors, checksums = _read_rows(connection, table, ("vector",), number, n_factors, among)
    side = Side(keys, vectors, bias)
    if any(stored is not None for stored in checksums):
        for key, stored, found in zip(keys.tolist(), checksums, row_checksums(side, slice(0, len(side))), strict=True):
            if stored is not None and stored != found:
                raise DamagedVersionError(
                    f"model version {number} is damaged: the row of user {key} has another checksum"
                )
    return side


def _read_rows(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    number: int,
    n_factors: int,
    among: Sequence[int] | None = None,
) -> list[Any]:
    """Return keys, biases, a matrix for each named column (`None` if the column is null), and the checksums."""
    key = table.columns[1]
    checksum = [table.c.checksum] if "checksum" in table.c else []
    columns = [key, table.c.bias, *(table.c[name] for name in names), *checksum]
    keys, bias = array("q"), array("f")
    checksums: list[int | None] = []
    blobs: list[list[bytes]] = [[] for _ in names]
    lengths: list[set[int]] = [set() for _ in names]
    chosen = select(*columns).where(table.c.number == number).order_by(key)
    rows = fetch_rows(connection, chosen if among is None else chosen.where(key.in_(among)))
    while batch := list(islice(rows, BATCH_ROWS)):  # column by column is several times as fast as row by row
        batch_keys, batch_bias, *parts = zip(*batch, strict=True)
        keys.extend(batch_keys)
        bias.extend(batch_bias)
        if checksum:
            checksums += parts.pop()
        for blob, length, part in zip(blobs, lengths, parts, strict=True):
            present = [each for each in part if each is not None]
            length.update(map(len, present))
            if len(present) < len(part):
                length.add(-1)
            blob.append(b"".join(present))
    matrices: list[NDArray[np.float32] | None] = []
    for name, blob, length in zip(names, blobs, lengths, strict=True):
        if length == {-1} or (not length and name != "vector"):
            matrices.append(None)
            continue
        dtype = "<f2" if number < 0 and length == {2 * n_factors} else "<f4"
        if length - {np.dtype(dtype).itemsize * n_factors}:
            raise DamagedVersionError(f"model version {number} is damaged: a {name} of {table.name} has another length")
        matrix = np.frombuffer(b"".join(blob), dtype).reshape(len(keys), n_factors)
        matrices.append(matrix.astype(np.float32, copy=False))
    biases = np.frombuffer(bias, np.float32)
    for numbers in (biases, *matrices):
        if numbers is not None and not np.isfinite(numbers).all():
            raise DamagedVersionError(
                f"model version {number} is damaged: {table.name} has numbers that are not finite"
            )
    return [np.frombuffer(keys, np.int64), biases, *matrices, checksums]


def store_weights(engine: Engine, number: int, weights: ItemWeights | None, guard: Guard | None) -> None:
    """Store weights between items in chunks of at most `CHUNK_ENTRIES` entries, but whole rows."""
    if weights is None:
        return
    first = 0
    for chunk in count():
        last = int(np.searchsorted(weights.starts, weights.starts[first] + CHUNK_ENTRIES, "right")) - 1
        last = min(max(last, first + 1), weights.n_items)
        entries = slice(int(weights.starts[first]), int(weights.starts[last]))
        arrays = {
            "lengths": np.diff(weights.starts[first : last + 1]),
            "item_idx": weights.item_idx[entries],
            "values": weights.values[entries],
        }
        packed = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        with unit_of_work(engine, guard) as work:
            work.connection.execute(insert(schema.item_weights).values(number=number, chunk=chunk, weights=packed))
        first = last
        if first >= weights.n_items:
            return


def read_weights(connection: Connection, number: int, n_items: int) -> ItemWeights | None:
    """Read the weights between the items of a version; `None` if it has none.

    Raises:
        DamagedVersionError: they are not those of `n_items` items, cannot be read, or are not finite.
    """
    stored = schema.item_weights.c
    statement = select(stored.weights).where(stored.number == number).order_by(stored.chunk)
    chunks: list[dict[str, NDArray[Any]]] = []
    try:
        for (packed,) in connection.execute(statement):
            chunks.append(load(packed))
        if not chunks:
            return None
        lengths, item_idx, values = (
            np.concatenate([chunk[name] for chunk in chunks]) for name in ("lengths", "item_idx", "values")
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedVersionError(
            f"model version {number} is damaged: its weights between items cannot be read ({error})"
        ) from error
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    whole = len(lengths) == n_items and len(item_idx) == len(values) == starts[-1] and not (lengths < 0).any()
    inside = len(item_idx) == 0 or (item_idx.min() >= 0 and item_idx.max() < n_items)
    if not (whole and inside and np.isfinite(values).all()):
        raise DamagedVersionError(f"model version {number} is damaged: its weights between items are not whole")
    return ItemWeights(starts, item_idx.astype(np.int32), values.astype(np.float32))


def delete_rows(engine: Engine, table: Table, number: int, guard: Guard | None) -> None:
    """Delete the rows of a version from one table, in pieces."""
    key = table.columns[1]
    with reading(engine) as connection:
        (keys,) = fetch_columns(connection, select(key).where(table.c.number == number).order_by(key), (np.int64,))

    def write(work: Work, rows: slice) -> None:
        first, last = int(keys[rows][0]), int(keys[rows][-1])
        work.connection.execute(delete(table).where(table.c.number == number, key.between(first, last)))

    write_in_pieces(engine, len(keys), write, guard=guard)


def delete_version(engine: Engine, number: int, guard: Guard | None = None) -> None:
    """Delete a version that is not listed any more, factors first, in pieces, so that other writers need not wait."""
    for table in (schema.user_factors, schema.item_factors, schema.item_weights):
        delete_rows(engine, table, number, guard)
    with unit_of_work(engine, guard) as work:
        work.connection.execute(delete(schema.model_weights).where(schema.model_weights.c.number == number))
        work.connection.execute(delete(schema.models).where(schema.models.c.number == number))
