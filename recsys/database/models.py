"""Model versions in the database: store, load, publish, roll back, prune.

A version is written as `storing`, in pieces, and becomes `ready` in one last statement; publishing is one
row. So a reader sees the whole of a version or nothing of it. A version is never overwritten.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from sqlalchemy import Connection, Engine, Row, false, insert, select, update

from recsys.database import schema
from recsys.database.checksums import version_checksum
from recsys.database.clock import now_ms
from recsys.database.engine import reading, writing
from recsys.database.model_rows import (
    count_user_rows,
    delete_version,
    halved,
    read_items_side,
    read_users_side,
    read_weights,
    store_items,
    store_users,
    store_weights,
)
from recsys.database.publications import previously_published
from recsys.database.statements import upsert
from recsys.database.weights import pack_weights, unpack_weights
from recsys.database.work import Guard, unit_of_work
from recsys.errors import DamagedVersionError, GateRefusedError, InputError, NotFoundError, TrainingError
from recsys.factors import Factors, Side
from recsys.results import Architecture, Objective

NOT_REFITTED = "trained without each user's newest tenth of ratings"
"""What a version lacks that the gate refused: only what it passes is trained again on all ratings."""


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
    gate: Mapping[str, object] = field(default_factory=dict)
    """The comparison with the live version, as JSON holds it; empty: it was not compared."""
    refit: Mapping[str, object] | None = None
    """Figures of the refit on all ratings; `None`: the version has not seen the held-out ratings."""
    newest_rating_at: int | None = None
    """Unix milliseconds of the newest rating that was there; `None`: the ratings have no times."""
    weight_top: float | None = None


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
    checksum: str | None = None


def store(
    engine: Engine,
    factors: Factors,
    training: Training,
    guard: Guard | None = None,
    *,
    twin: Factors | None = None,
    more_users: Iterable[Side] = (),
) -> int:
    """Store a finished training as a new version that is not live; returns its number.

    Users that were erased since the training began are left out. The caller holds the lease of training: versions that
    a killed run left half stored are deleted.

    Args:
        guard: called in every transaction before it commits.
        twin: the same training without the held-out ratings, which `load_judged` returns for later comparisons.
        more_users: users beside those of `factors`, in pieces: of a model whose users do not fit into memory.

    Raises:
        TrainingError: a number is not finite.
        RecsysError: whatever `guard` or `more_users` raises.
    """
    check_finite(factors)
    with reading(engine) as connection:
        left = connection.scalars(select(schema.models.c.number).where(schema.models.c.status == "storing")).all()
    for unfinished in left:
        delete_version(engine, unfinished, guard)
    number = _store_rows(engine, factors, training, guard)
    for part in more_users:
        check_finite_rows(part.factors, part.bias)
        store_users(engine, number, part, guard)
    numbers = [number]
    if twin is not None:
        # A comparison needs neither what fold-in needs, nor the embeddings of metadata, nor full precision. Profiles
        # need the constants.
        judged = replace(
            twin,
            users=halved(replace(twin.users, features=None)),
            items=halved(replace(twin.items, implicit=None, features=None)),
            constants=None if twin.weights is None else twin.constants,
            neighbours=None,
        )
        check_finite(judged)
        numbers.append(_store_rows(engine, judged, training, guard, number=-number))
    models = schema.models.c
    with unit_of_work(engine, guard) as work:
        connection = work.connection
        # Locks the versions first: an erasure that is under way has then counted its user already.
        connection.execute(update(schema.models).where(models.number.in_(numbers)).values(status="storing"))
        for each in numbers:
            n_users = count_user_rows(connection, each)
            connection.execute(
                update(schema.models).where(models.number == each).values(status="ready", n_users=n_users)
            )
    return number


def check_finite(factors: Factors) -> None:
    """Check that a model can be stored.

    Raises:
        TrainingError: a number is not finite.
    """
    arrays = [factors.user_factors, factors.user_bias, factors.item_factors, factors.item_bias]
    check_finite_rows(*arrays, *([] if factors.weights is None else [factors.weights.values]))


def check_finite_rows(*arrays: NDArray[np.float32]) -> None:
    """Check that arrays can be stored.

    Raises:
        TrainingError: a number is not finite.
    """
    for array in arrays:
        if not np.isfinite(array).all():
            raise TrainingError("the model has numbers that are not finite: train with a smaller learning rate")


def _store_rows(
    engine: Engine, factors: Factors, training: Training, guard: Guard | None, *, number: int | None = None
) -> int:
    """Write the rows of a version that stays invisible, and return its number.

    Args:
        number: its number; `None`: the next one.
    """
    weights = pack_weights(factors)
    with unit_of_work(engine, guard) as work:
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
            "weight_top": training.weight_top,
            "range_low": factors.rating_range[0] if factors.rating_range else None,
            "range_high": factors.rating_range[1] if factors.rating_range else None,
            "created_at": now_ms(),
            "training_seconds": training.training_seconds,
            "gate_passed": training.gate_passed,
            "gate_reason": training.gate_reason,
            "checksum": version_checksum(factors, weights),
            "gate": dict(training.gate),
            "newest_rating_at": training.newest_rating_at,
            "refit": None if training.refit is None else dict(training.refit),
        }
        if number is not None:
            row["number"] = number
        statement = insert(schema.models).values(row).returning(schema.models.c.number)
        stored = int(work.connection.execute(statement).scalar_one())
        if weights:
            work.connection.execute(insert(schema.model_weights).values(number=stored, weights=weights))
    store_users(engine, stored, factors.users, guard)
    store_items(engine, stored, factors.items, guard)
    store_weights(engine, stored, factors.weights, guard)
    return stored


def publish(
    engine: Engine, number: int, reason: str, guard: Guard | None = None, *, force: bool = False
) -> ModelVersion:
    """Make a version the live one of its objective, and record why. Publishing the live one changes nothing.

    Args:
        force: publish it even if the gate refused it. The record then holds the verdict of the gate beside the reason,
            and that the version was not refitted.

    Raises:
        NotFoundError: there is no such version.
        GateRefusedError: the gate refused the version, and `force` is not given.
        InputError: `force` is given without a reason.
        RecsysError: whatever `guard` raises.
    """
    if force and not reason.strip():
        raise InputError("a forced publication needs a reason, which is recorded: give one")
    with writing(engine) as connection:
        lock_versions(connection, [number])
        chosen = version(connection, number)
        if not (chosen.training.gate_passed or chosen.live):
            if not force:
                raise GateRefusedError(
                    f"the gate refused version {number} ({chosen.training.gate_reason}): publish it with force and a "
                    "reason, or publish another version"
                )
            reason = f"forced: {reason}; gate: {chosen.training.gate_reason}"
            if chosen.training.refit is None:
                reason += f"; {NOT_REFITTED}"
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
        earlier = previously_published(connection, objective)
        if not earlier:
            raise NotFoundError(
                f"there is no earlier live version of the {objective} model to roll back to: "
                "see `recsys models list`, and publish one by its number"
            )
        lock_versions(connection, earlier[:1])
        chosen = version(connection, earlier[0])
        _make_live(connection, chosen, "rollback", reason)
    return chosen


def lock_versions(connection: Connection, numbers: Sequence[int]) -> None:
    """Lock versions until this transaction ends, so that none is published while it is pruned."""
    models = schema.models.c
    connection.execute(
        select(models.number).where(models.number.in_(numbers)).order_by(models.number).with_for_update()
    ).all()


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


def versions(connection: Connection) -> list[ModelVersion]:
    """Return all finished versions, the newest first. Twins are not listed."""
    rows = connection.execute(_select_versions().order_by(schema.models.c.number.desc()))
    return [_as_version(row) for row in rows]


def version(connection: Connection, number: int) -> ModelVersion:
    """Return one version.

    Raises:
        NotFoundError: there is no finished version of that number.
    """
    row = connection.execute(_select_versions().where(schema.models.c.number == number)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no model version {number}: see `recsys models list`")
    return _as_version(row)


def live_numbers(connection: Connection) -> dict[Objective, int]:
    """Return the number of the live version of each objective that has one."""
    rows = connection.execute(select(schema.live_models.c.objective, schema.live_models.c.number))
    return {cast(Objective, objective): number for objective, number in rows}


def load_factors(connection: Connection, number: int, *, users: bool = True) -> Factors:
    """Load and check the factors of a version.

    Args:
        users: whether to load the users' rows; a server loads them one by one.

    Raises:
        NotFoundError: there is no such version.
        DamagedVersionError: what is stored is not what was written.
    """
    return _load(connection, version(connection, number), users=users)


def load_judged(connection: Connection, number: int) -> Factors:
    """Load what a new version is compared with in place of a version: its twin, or itself if it has none.

    A version without a twin was not refitted, so it has not seen the held-out ratings either.

    Raises:
        NotFoundError: there is no such version.
        DamagedVersionError: what is stored is not what was written.
    """
    row = connection.execute(
        select(schema.models, false().label("live")).where(
            schema.models.c.number == -number, schema.models.c.status == "ready"
        )
    ).one_or_none()
    return _load(connection, version(connection, number) if row is None else _as_version(row), users=True)


def _load(connection: Connection, chosen: ModelVersion, *, users: bool) -> Factors:
    number = chosen.number
    stored = connection.scalar(select(schema.model_weights.c.weights).where(schema.model_weights.c.number == number))
    try:
        weights = unpack_weights(stored, chosen.objective, chosen.training.configuration)
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedVersionError(f"model version {number} is damaged: its weights cannot be read ({error})") from error
    items = replace(read_items_side(connection, number, chosen.n_factors), features=weights.item_features)
    user_side = Side.empty(chosen.n_factors, weights.user_features)
    n_users = count_user_rows(connection, number)
    if users:
        user_side = replace(read_users_side(connection, number, chosen.n_factors), features=weights.user_features)
        n_users = len(user_side)
    factors = Factors(
        objective=chosen.objective,
        items=items,
        users=user_side,
        global_bias=chosen.global_bias,
        rating_range=chosen.rating_range,
        head=weights.head,
        constants=weights.constants,
        weights=read_weights(connection, number, len(items)),
        neighbours=weights.neighbours,
    )
    for what, expected, found in (("items", chosen.n_items, len(items)), ("users", chosen.n_users, n_users)):
        # A user that was erased before versions had checksums is still counted.
        if found != expected and (chosen.checksum is not None or found > expected or what == "items"):
            raise DamagedVersionError(
                f"model version {number} is damaged: {expected:,} {what} were stored and {found:,} are there"
            )
    if chosen.checksum is not None and version_checksum(factors, stored) != chosen.checksum:
        raise DamagedVersionError(
            f"model version {number} is damaged: the checksum of its items or weights does not match the stored one; "
            "roll back or train again"
        )
    return factors


def _select_versions() -> Any:
    is_live = schema.live_models.c.number.is_not(None).label("live")
    joined = schema.models.outerjoin(schema.live_models, schema.live_models.c.number == schema.models.c.number)
    listed = (schema.models.c.status == "ready", schema.models.c.number > 0)
    return select(schema.models, is_live).select_from(joined).where(*listed)


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
        gate=row.gate,
        refit=row.refit,
        newest_rating_at=row.newest_rating_at,
        weight_top=row.weight_top,
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
        checksum=row.checksum,
    )
