"""Model versions in the database: store, load, publish, roll back, prune.

A version is written as `storing`, in pieces, and becomes `ready` in one last statement; publishing is one
row. So a reader sees the whole of a version or nothing of it. A version is never overwritten.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Row, Table, delete, insert, select, update

from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.engine import (
    copy_in,
    fetch_columns,
    fetch_rows,
    reading,
    upsert,
    writing,
)
from recsys.database.weights import pack_weights, unpack_weights
from recsys.database.work import Guard, Work, write_in_pieces
from recsys.errors import GateRefusedError, InputError, NotFoundError
from recsys.factors import Factors, Side
from recsys.results import Architecture, Objective


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
    _store_side(engine, schema.user_factors, number, factors.users, (factors.users.factors,))
    _store_side(engine, schema.item_factors, number, factors.items, (factors.items.factors, factors.items.implicit))
    with writing(engine) as connection:
        weights = pack_weights(factors)
        if weights:
            connection.execute(insert(schema.model_weights).values(number=number, weights=weights))
        connection.execute(update(schema.models).where(schema.models.c.number == number).values(status="ready"))
    return number


def _store_side(
    engine: Engine, table: Table, number: int, side: Side, matrices: Sequence[NDArray[np.float32] | None]
) -> None:
    def write(work: Work, rows: slice) -> None:
        keys = side.keys[rows].tolist()
        blobs = [
            [None] * len(keys) if each is None else [row.tobytes() for row in np.ascontiguousarray(each[rows], "<f4")]
            for each in matrices
        ]
        copy_in(work.connection, table, ([number] * len(keys), keys, side.bias[rows].tolist(), *blobs))

    write_in_pieces(engine, len(side), write)


def publish(
    engine: Engine, number: int, reason: str, guard: Guard | None = None, *, force: bool = False
) -> ModelVersion:
    """Make a version the live one of its objective, and record why. Publishing the live one changes nothing.

    Args:
        force: publish it even if the gate refused it. The record then holds the verdict of the gate beside the reason.

    Raises:
        NotFoundError: there is no such version.
        GateRefusedError: the gate refused the version, and `force` is not given.
        InputError: `force` is given without a reason.
        RecsysError: whatever `guard` raises.
    """
    if force and not reason.strip():
        raise InputError("a forced publication needs a reason, which is recorded: give one")
    with writing(engine) as connection:
        chosen = version(connection, number)
        if not (chosen.training.gate_passed or chosen.live):
            if not force:
                raise GateRefusedError(
                    f"the gate refused version {number} ({chosen.training.gate_reason}): publish it with force and a "
                    "reason, or publish another version"
                )
            reason = f"forced: {reason}; gate: {chosen.training.gate_reason}"
        if guard is not None:
            guard(connection)
        if not chosen.live:
            _make_live(connection, chosen, "publish", reason)
    return chosen


def roll_back(engine: Engine, objective: Objective, reason: str, guard: Guard | None = None) -> ModelVersion:
    """Make the version live again that was published before the live one. Again: the one before that.

    Raises:
        NotFoundError: nothing was published before, or it was pruned.
        RecsysError: whatever `guard` raises.
    """
    with writing(engine) as connection:
        if guard is not None:
            guard(connection)
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
    row = {"objective": chosen.objective, "number": chosen.number}
    upsert(connection, schema.live_models, [row], key=["objective"], set_=["number"])
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


def prune(engine: Engine, keep: int, audit: Callable[[Connection, list[int]], None] | None = None) -> list[int]:
    """Delete old versions: of each objective all but the newest `keep` and the live one.

    Args:
        audit: called with the numbers of the versions, inside the transaction from which on they are out of reach.

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
        # From here on they are not listed and cannot go live.
        connection.execute(update(schema.models).where(schema.models.c.number.in_(numbers)).values(status="storing"))
        if audit is not None:
            audit(connection, numbers)
    for number in numbers:
        _delete(engine, number)
    return numbers


def _delete(engine: Engine, number: int) -> None:
    """Delete a version that is not listed any more, factors first, in pieces, so that other writers need not wait."""
    for table in (schema.user_factors, schema.item_factors):
        key = table.columns[1]
        of_version = table.c.number == number
        with reading(engine) as connection:
            (keys,) = fetch_columns(connection, select(key).where(of_version).order_by(key), (np.int64,))

        def write(work: Work, rows: slice, keys: NDArray[np.int64] = keys, table: Table = table) -> None:
            first, last = int(keys[rows][0]), int(keys[rows][-1])
            key = table.columns[1]
            work.connection.execute(delete(table).where(table.c.number == number, key.between(first, last)))

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


def load_factors(connection: Connection, number: int, *, users: bool = True) -> Factors:
    """Return the factors of a version.

    Args:
        users: whether to load the users' rows; a server loads them one by one.

    Raises:
        NotFoundError: there is no such version.
    """
    chosen = version(connection, number)
    stored = connection.scalar(select(schema.model_weights.c.weights).where(schema.model_weights.c.number == number))
    weights = unpack_weights(stored, chosen.objective, chosen.training.configuration)
    keys, bias, vectors, implicit = _load_rows(connection, schema.item_factors, ("vector", "implicit"), chosen)
    items = Side(keys, vectors, bias, implicit, weights.item_features)
    user_side = Side.empty(chosen.n_factors, weights.user_features)
    if users:
        keys, bias, vectors = _load_rows(connection, schema.user_factors, ("vector",), chosen)
        user_side = Side(keys, vectors, bias, None, weights.user_features)
    return Factors(
        objective=chosen.objective,
        items=items,
        users=user_side,
        global_bias=chosen.global_bias,
        rating_range=chosen.rating_range,
        head=weights.head,
        constants=weights.constants,
    )


def _load_rows(connection: Connection, table: Table, names: Sequence[str], chosen: ModelVersion) -> list[Any]:
    """Keys and biases of a version's rows as arrays, in the order of the keys, and a matrix for each column named.

    A matrix is None where the column is null.
    """
    key = table.columns[1]
    columns = [key, table.c.bias, *(table.c[name] for name in names)]
    rows = fetch_rows(connection, select(*columns).where(table.c.number == chosen.number).order_by(key))
    keys, bias, width = array("q"), array("f"), 4 * chosen.n_factors
    blobs = [bytearray() for _ in names]
    nothing = b""
    for row_key, row_bias, *parts in rows:
        keys.append(row_key)
        bias.append(row_bias)
        for blob, part in zip(blobs, parts, strict=True):
            blob += part or nothing
    matrices = [
        np.frombuffer(blob, "<f4").reshape(len(keys), chosen.n_factors) if len(blob) == width * len(keys) else None
        for blob in blobs
    ]
    return [np.frombuffer(keys, np.int64), np.frombuffer(bias, np.float32), *matrices]


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
