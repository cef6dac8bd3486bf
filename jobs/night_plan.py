"""What a night would do now, without doing it."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from sqlalchemy import Connection, Engine

from jobs.load import LoadOptions, load
from jobs.query import Query
from jobs.train import already_trained, is_unpublished
from recsys.database.changes import current_seq
from recsys.database.engine import reading
from recsys.database.leases import TRAINING, held_leases
from recsys.database.models import live_numbers
from recsys.database.retention import obsolete
from recsys.results import Architecture, NightPlan, Objective, PlannedStep
from recsys.settings import Settings


def plan_night(
    engine: Engine,
    settings: Settings,
    sources: Sequence[Path | Query] = (),
    *,
    load_options: LoadOptions | None = None,
    seed: int = 0,
    architecture: Architecture | None = None,
) -> NightPlan:
    """Return the steps that `nightly` would take, and why. Sources are read and checked; nothing is written but the
    file of rejected rows.

    Raises:
        InputError: a source cannot be read.
    """
    steps: list[PlannedStep] = []
    n_new = 0
    with reading(engine) as connection:
        held = [holder for job, holder, _ in held_leases(connection) if job == TRAINING]
    if held:
        return NightPlan(steps=[PlannedStep(step="lease", would="stop with exit code 3", why=f"{held[0]} holds it")])
    steps.append(PlannedStep(step="lease", would="take the lease of training", why="nothing else holds it"))
    for source in sources:
        report = load(engine, source, settings, dry_run=True, **(load_options or {}))
        n_new += report.inserted + report.updated
        steps.append(
            PlannedStep(
                step="load",
                would=f"insert {report.inserted:,} ratings, update {report.updated:,}, reject {report.rejected:,} rows",
                why=f"{source} has {report.rows_read:,} rows, and {report.unchanged:,} of them change nothing",
            )
        )
    with reading(engine) as connection:
        steps += [
            planned_training(connection, objective, seed, architecture, n_new) for objective in get_args(Objective)
        ]
        numbers, _ = obsolete(connection, settings.keep_versions, settings.keep_days)
    would = f"delete the versions {', '.join(map(str, sorted(numbers)))}" if numbers else "delete nothing"
    why = f"{settings.keep_versions} versions of each objective that passed the gate are kept"
    steps.append(PlannedStep(step="prune", would=would, why=f"{why}, and what new versions replace goes too"))
    receivers = [
        name for name, set_to in (("webhook", settings.notify_url), ("command", settings.notify_command)) if set_to
    ]
    if receivers:
        why = "RECSYS_NOTIFY_URL or RECSYS_NOTIFY_COMMAND is set"
        steps.append(
            PlannedStep(step="notify", would=f"send the summary to the {' and the '.join(receivers)}", why=why)
        )
    return NightPlan(steps=steps)


def planned_training(
    connection: Connection, objective: Objective, seed: int, architecture: Architecture | None, n_new: int
) -> PlannedStep:
    """Return what a night would do for one objective.

    Args:
        n_new: ratings that the sources would insert or change.
    """
    live = live_numbers(connection).get(objective)
    against = "the first version" if live is None else f"compare with version {live}"
    train = f"train, {against}, refit on all ratings if the gate passes it, and publish"
    if n_new:
        return PlannedStep(step="train", objective=objective, would=train, why=f"{n_new:,} ratings are new or changed")
    if current_seq(connection) == 0:
        return PlannedStep(step="train", objective=objective, would="fail", why="there are no ratings")
    latest = already_trained(connection, objective, {}, seed, architecture if objective == "ranking" else "dot")
    if latest is None:
        why = "the ratings or the settings changed since the last training"
        return PlannedStep(step="train", objective=objective, would=train, why=why)
    if is_unpublished(connection, latest):
        why = "a run that was stopped had stored it, and the gate had passed it"
        return PlannedStep(step="publish", objective=objective, would=f"publish version {latest.number}", why=why)
    why = f"the ratings are the same as at the training of version {latest.number}"
    return PlannedStep(step="skip", objective=objective, would="train nothing", why=why)
