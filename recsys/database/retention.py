"""Which versions stay, and the deletion of the others."""

import math
from collections.abc import Callable

from sqlalchemy import Connection, Engine, select, update

from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.model_rows import delete_version
from recsys.database.models import ModelVersion, lock_versions, versions
from recsys.database.publications import previously_published
from recsys.database.space import release_space
from recsys.database.work import Guard, unit_of_work
from recsys.errors import InputError
from recsys.results import Objective


def prune(
    engine: Engine,
    keep: int,
    audit: Callable[[Connection, list[int]], None] | None = None,
    guard: Guard | None = None,
    *,
    max_days: float | None = None,
) -> list[int]:
    """Delete old versions, and twins that no comparison will need.

    Of each objective these stay: the live version, the version that a rollback returns to, the newest version, and the
    newest `keep` of those that passed the gate. The twins of the live version and of the rollback's stay, and that of
    a newest version that passed the gate. On SQLite the free space is given back to the system.

    Args:
        audit: called with the numbers of the versions, inside the transaction that makes them unreachable.
        guard: called in every transaction before it commits.
        max_days: the other versions that passed the gate stay only if they are not older.

    Returns:
        The numbers of the deleted versions.

    Raises:
        InputError: `keep` is below one.
        RecsysError: whatever `guard` raises.
    """
    if keep < 1:
        raise InputError(f"keep is {keep}: at least one version of each objective is kept")
    with unit_of_work(engine, guard) as work:
        connection = work.connection
        lock_versions(connection, [stored.number for stored in versions(connection)])
        # Again: a publication that was under way has ended.
        numbers, twins = obsolete(connection, keep, max_days)
        connection.execute(
            update(schema.models).where(schema.models.c.number.in_([*numbers, *twins])).values(status="storing")
        )
        if audit is not None and numbers:
            audit(connection, numbers)
    for number in (*numbers, *twins):
        delete_version(engine, number, guard)
    release_space(engine)
    return numbers


def obsolete(connection: Connection, keep: int, max_days: float | None) -> tuple[list[int], list[int]]:
    """Return the numbers of the versions, and of the twins, that `prune` would delete."""
    oldest = -math.inf if max_days is None else now_ms() - max_days * 86_400_000
    by_objective: dict[Objective, list[ModelVersion]] = {}
    for stored in versions(connection):
        by_objective.setdefault(stored.objective, []).append(stored)
    numbers: list[int] = []
    judged: set[int] = set()
    for objective, group in by_objective.items():
        passed = [stored for stored in group if stored.training.gate_passed]
        recent = {stored.number for stored in passed[:keep] if stored.created_at >= oldest}
        live = {stored.number for stored in group if stored.live}
        needed = live.union(previously_published(connection, objective)[:1])
        kept = {group[0].number, *recent, *needed}
        numbers += [stored.number for stored in group if stored.number not in kept]
        judged |= needed.union(stored.number for stored in group[:1] if stored.training.gate_passed)
    models = schema.models.c
    twins = connection.scalars(select(models.number).where(models.number < 0).order_by(models.number)).all()
    return numbers, [number for number in twins if -number not in judged]
