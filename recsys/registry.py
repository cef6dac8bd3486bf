"""Model versions in the database: store, load, publish, roll back, prune.

A version is written as `storing`, in pieces, and becomes `ready` in one last statement; publishing is one
row. So a reader sees the whole of a version or nothing of it. A version is never overwritten.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save
from sqlalchemy import Connection, Engine, Row, Table, delete, insert, select, update

from recsys.data import schema
from recsys.data.database import copy_in, fetch_columns, insert_or_update, reading, write_in_pieces, writing
from recsys.errors import InputError, NotFoundError
from recsys.factors import Architecture, Factors, Head, Objective, embeddings, score_rows

Guard = Callable[[Connection], None]
"""Called inside the transaction that publishes; raises when this process may no longer publish."""


@dataclass(frozen=True, slots=True)
class Training:
    """What is known of a finished training beside its factors; the fields of the `models` table."""

    architecture: Architecture
    configuration: Mapping[str, object]
    metrics: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    history: Sequence[Mapping[str, object]]
    data_fingerprint: str
    trained_seq: int
    n_ratings: int
    rating_scale: tuple[float, float]
    training_seconds: float
    gate_passed: bool
    gate_reason: str


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One stored version, without its factors."""

    number: int
    objective: Objective
    training: Training
    n_users: int
    n_items: int
    n_factors: int
    global_bias: float
    rating_range: tuple[float, float] | None
    created_at: int
    live: bool


@dataclass(frozen=True, slots=True)
class ItemSide:
    """The part of a version that serving keeps in memory.

    Attributes:
        item_keys: (n_items,) int64, ascending.
        item_factors: (n_items, n_factors) float32.
        item_bias: (n_items,) float32.
        head: the layers of a neural version; None for the dot product.
    """

    version: ModelVersion
    item_keys: NDArray[np.int64]
    item_factors: NDArray[np.float32]
    item_bias: NDArray[np.float32]
    head: Head | None = None

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """Where the items lie: (n_items, width), the part of their rows that is multiplied."""
        return embeddings(self.item_factors, self.head)

    def scores(self, vector: NDArray[np.float32], user_bias: float) -> NDArray[np.float32]:
        """Scores of all items for the user of this row and bias, as `score_rows` has them: (n_items,)."""
        scores: NDArray[np.float32] = score_rows(vector[None], self.item_factors, self.item_bias, self.head)[0]
        return scores + np.float32(user_bias + self.version.global_bias)


def store(engine: Engine, factors: Factors, training: Training) -> int:
    """Store a finished training as a new version that is not live; returns its number.

    The caller holds the lease of training: versions left half stored by a run that died are removed.
    """
    with reading(engine) as connection:
        left = connection.scalars(select(schema.models.c.number).where(schema.models.c.status == "storing")).all()
    for number in left:
        _delete(engine, number)
    with writing(engine) as connection:
        row = {
            "objective": factors.objective,
            "architecture": training.architecture,
            "status": "storing",
            "configuration": dict(training.configuration),
            "metrics": dict(training.metrics),
            "baselines": {name: dict(values) for name, values in training.baselines.items()},
            "history": [dict(epoch) for epoch in training.history],
            "data_fingerprint": training.data_fingerprint,
            "trained_seq": training.trained_seq,
            "n_users": factors.n_users,
            "n_items": factors.n_items,
            "n_ratings": training.n_ratings,
            "n_factors": factors.n_factors,
            "global_bias": factors.global_bias,
            "rating_min": training.rating_scale[0],
            "rating_max": training.rating_scale[1],
            "range_low": factors.rating_range[0] if factors.rating_range else None,
            "range_high": factors.rating_range[1] if factors.rating_range else None,
            "created_at": now_ms(),
            "training_seconds": training.training_seconds,
            "gate_passed": training.gate_passed,
            "gate_reason": training.gate_reason,
        }
        number = int(
            connection.execute(insert(schema.models).values(row).returning(schema.models.c.number)).scalar_one()
        )
    sides = (
        (schema.user_factors, factors.user_keys, factors.user_bias, factors.user_factors),
        (schema.item_factors, factors.item_keys, factors.item_bias, factors.item_factors),
    )
    for table, keys, bias, vectors in sides:
        _store_rows(engine, table, number, keys, bias, vectors)
    with writing(engine) as connection:
        if factors.head is not None:
            weights = _as_safetensors(factors.head)
            connection.execute(insert(schema.model_weights).values(number=number, weights=weights))
        connection.execute(update(schema.models).where(schema.models.c.number == number).values(status="ready"))
    return number


def _store_rows(
    engine: Engine,
    table: Table,
    number: int,
    keys: NDArray[np.int64],
    bias: NDArray[np.float32],
    vectors: NDArray[np.float32],
) -> None:
    little_endian = np.ascontiguousarray(vectors, "<f4")

    def write(connection: Connection, rows: slice) -> None:
        blobs = [vector.tobytes() for vector in little_endian[rows]]
        copy_in(connection, table, ([number] * len(blobs), keys[rows].tolist(), bias[rows].tolist(), blobs))

    write_in_pieces(engine, len(keys), write)


def publish(engine: Engine, number: int, reason: str, guard: Guard | None = None) -> ModelVersion:
    """Make a version the live one of its objective, and record why. Publishing the live one changes nothing.

    Raises:
        NotFoundError: there is no such version.
        RecsysError: whatever `guard` raises.
    """
    with writing(engine) as connection:
        chosen = version(connection, number)
        if guard is not None:
            guard(connection)
        if not chosen.live:
            _make_live(connection, chosen, "publish", reason)
    return chosen


def roll_back(engine: Engine, objective: Objective, reason: str) -> ModelVersion:
    """Make the version live again that was published before the live one. Again: the one before that.

    Raises:
        NotFoundError: nothing was published before, or it was pruned.
    """
    with writing(engine) as connection:
        published = schema.publications.c
        history = connection.execute(
            select(published.number, published.action)
            .where(published.objective == objective)
            .order_by(published.publication_key)
        )
        stack: list[int] = []  # what would be live after one rollback, two, …; the live version last
        for number, action in history:
            if action == "publish":
                stack.append(number)
            else:
                while stack and stack[-1] != number:
                    stack.pop()
        stored = {known.number for known in versions(connection)}
        earlier = [number for number in stack[:-1] if number in stored and number != stack[-1]]
        if not earlier:
            raise NotFoundError(
                f"there is no earlier live version of the {objective} model to roll back to: "
                "see `recsys models list`, and publish one by its number"
            )
        chosen = version(connection, earlier[-1])
        _make_live(connection, chosen, "rollback", reason)
    return chosen


def _make_live(connection: Connection, chosen: ModelVersion, action: str, reason: str) -> None:
    replaced = live_numbers(connection).get(chosen.objective)
    statement = insert_or_update(connection, schema.live_models).values(
        objective=chosen.objective, number=chosen.number
    )
    connection.execute(
        statement.on_conflict_do_update(index_elements=["objective"], set_={"number": statement.excluded.number})
    )
    connection.execute(
        insert(schema.publications).values(
            objective=chosen.objective,
            number=chosen.number,
            replaced_number=replaced,
            action=action,
            reason=reason,
            published_at=now_ms(),
        )
    )


def was_published(connection: Connection, number: int) -> bool:
    """Whether a version has ever been live."""
    published = schema.publications.c.number
    return connection.scalar(select(published).where(published == number).limit(1)) is not None


def prune(engine: Engine, keep: int) -> list[int]:
    """Delete old versions: of each objective all but the newest `keep` and the live one.

    Returns:
        The numbers of the versions that are gone.

    Raises:
        InputError: `keep` is below one.
    """
    if keep < 1:
        raise InputError(f"keep is {keep}: at least one version of each objective is kept")
    with writing(engine) as connection:
        versions_by_objective: dict[str, list[ModelVersion]] = {}
        for stored in versions(connection):
            versions_by_objective.setdefault(stored.objective, []).append(stored)
        numbers = [old.number for group in versions_by_objective.values() for old in group[keep:] if not old.live]
        # From here on nobody sees them, nor can they go live.
        connection.execute(update(schema.models).where(schema.models.c.number.in_(numbers)).values(status="storing"))
    for number in numbers:
        _delete(engine, number)
    return numbers


def _delete(engine: Engine, number: int) -> None:
    """Delete a version that nobody sees, factors first, in pieces that keep no other writer waiting."""
    for table in (schema.user_factors, schema.item_factors):
        key = table.columns[1]
        of_version = table.c.number == number
        with reading(engine) as connection:
            (keys,) = fetch_columns(connection, select(key).where(of_version).order_by(key), (np.int64,))

        def write(connection: Connection, rows: slice, keys: NDArray[np.int64] = keys, table: Table = table) -> None:
            first, last = int(keys[rows][0]), int(keys[rows][-1])
            key = table.columns[1]
            connection.execute(delete(table).where(table.c.number == number, key.between(first, last)))

        write_in_pieces(engine, len(keys), write)
    with writing(engine) as connection:
        connection.execute(delete(schema.model_weights).where(schema.model_weights.c.number == number))
        connection.execute(delete(schema.models).where(schema.models.c.number == number))


def versions(connection: Connection) -> list[ModelVersion]:
    """All finished versions, the newest first."""
    rows = connection.execute(_select_versions().order_by(schema.models.c.number.desc()))
    return [_as_version(row) for row in rows]


def version(connection: Connection, number: int) -> ModelVersion:
    """One version.

    Raises:
        NotFoundError: there is no finished version of that number.
    """
    row = connection.execute(_select_versions().where(schema.models.c.number == number)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no model version {number}: see `recsys models list`")
    return _as_version(row)


def live_numbers(connection: Connection) -> dict[Objective, int]:
    """The number of the live version of each objective that has one."""
    rows = connection.execute(select(schema.live_models.c.objective, schema.live_models.c.number))
    return {cast(Objective, objective): number for objective, number in rows}


def load_items(connection: Connection, number: int) -> ItemSide:
    """The item side of a version.

    Raises:
        NotFoundError: there is no such version.
    """
    chosen = version(connection, number)
    keys, bias, vectors = _load_rows(connection, schema.item_factors, chosen)
    return ItemSide(chosen, keys, vectors, bias, _load_head(connection, number))


def load_factors(connection: Connection, number: int) -> Factors:
    """All factors of a version.

    Raises:
        NotFoundError: there is no such version.
    """
    chosen = version(connection, number)
    user_keys, user_bias, user_factors = _load_rows(connection, schema.user_factors, chosen)
    item_keys, item_bias, item_factors = _load_rows(connection, schema.item_factors, chosen)
    return Factors(
        objective=chosen.objective,
        user_keys=user_keys,
        item_keys=item_keys,
        user_factors=user_factors,
        item_factors=item_factors,
        user_bias=user_bias,
        item_bias=item_bias,
        global_bias=chosen.global_bias,
        rating_range=chosen.rating_range,
        head=_load_head(connection, number),
    )


def load_user(connection: Connection, number: int, user_key: int) -> tuple[float, NDArray[np.float32]] | None:
    """Bias and vector (n_factors,) of one user; None where the version does not know them."""
    stored = schema.user_factors.c
    row = connection.execute(
        select(stored.bias, stored.vector).where(stored.number == number, stored.user_key == user_key)
    ).one_or_none()
    return None if row is None else (row.bias, np.frombuffer(row.vector, "<f4"))


def _as_safetensors(head: Head) -> bytes:
    """A head as bytes that cannot run code."""
    arrays: dict[str, NDArray[Any]] = {}
    for place, (weight, bias) in enumerate(head.layers):
        arrays |= {f"{place}.weight": np.ascontiguousarray(weight), f"{place}.bias": np.ascontiguousarray(bias)}
    arrays["n_dot"] = np.array([head.n_dot], np.int64)
    return save(arrays)


def _load_head(connection: Connection, number: int) -> Head | None:
    weights = schema.model_weights.c
    stored = connection.scalar(select(weights.weights).where(weights.number == number))
    if stored is None:
        return None
    arrays = load(stored)
    n_layers = (len(arrays) - 1) // 2
    layers = tuple((arrays[f"{place}.weight"], arrays[f"{place}.bias"]) for place in range(n_layers))
    return Head(int(arrays["n_dot"][0]), layers)


def _load_rows(
    connection: Connection, table: Table, chosen: ModelVersion
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    key = table.columns[1]
    rows = connection.execute(
        select(key, table.c.bias, table.c.vector).where(table.c.number == chosen.number).order_by(key)
    ).all()
    keys = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    bias = np.fromiter((row[1] for row in rows), np.float32, len(rows))
    vectors = np.frombuffer(b"".join(row[2] for row in rows), "<f4").astype(np.float32)
    return keys, bias, vectors.reshape(len(rows), chosen.n_factors)


def _select_versions() -> Any:
    is_live = schema.live_models.c.number.is_not(None).label("live")
    joined = schema.models.outerjoin(schema.live_models, schema.live_models.c.number == schema.models.c.number)
    return select(schema.models, is_live).select_from(joined).where(schema.models.c.status == "ready")


def _as_version(row: Row[Any]) -> ModelVersion:
    training = Training(
        architecture=row.architecture,
        configuration=row.configuration,
        metrics=row.metrics,
        baselines=row.baselines,
        history=row.history,
        data_fingerprint=row.data_fingerprint,
        trained_seq=row.trained_seq,
        n_ratings=row.n_ratings,
        rating_scale=(row.rating_min, row.rating_max),
        training_seconds=row.training_seconds,
        gate_passed=row.gate_passed,
        gate_reason=row.gate_reason,
    )
    return ModelVersion(
        number=row.number,
        objective=row.objective,
        training=training,
        n_users=row.n_users,
        n_items=row.n_items,
        n_factors=row.n_factors,
        global_bias=row.global_bias,
        rating_range=None if row.range_low is None else (row.range_low, row.range_high),
        created_at=row.created_at,
        live=bool(row.live),
    )


def now_ms() -> int:
    """Now, in Unix milliseconds."""
    return time.time_ns() // 1_000_000
