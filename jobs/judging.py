"""A new version beside its baselines and the live version, and the verdict of the gate."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine

from recsys.database.engine import reading
from recsys.database.models import live_numbers, load_judged
from recsys.database.publications import previously_published
from recsys.database.runs import judged_before
from recsys.errors import DamagedVersionError
from recsys.evaluation.comparison import PATIENCE_NIGHTS, Comparison
from recsys.evaluation.gate import Decision, Judge, decide
from recsys.factors import Factors
from recsys.results import Objective

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A new version on the held-out ratings.

    Attributes:
        metrics: of the new version.
        baselines: name → metrics of a baseline.
        verdict: of the gate.
        compared_with: number of the live version; `None` if none is live.
        gate: the comparison and the slices as JSON holds them.
    """

    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    verdict: Decision
    compared_with: int | None
    gate: dict[str, Any]

    def as_record(self) -> dict[str, Any]:
        """Return the figures of the step."""
        return {**self.gate, "metrics": self.metrics, "publish": self.verdict.publish, "reason": self.verdict.reason}


def judge_version(engine: Engine, judge: Judge, factors: Factors, bias_baseline: Factors, margin: float) -> Judgement:
    """Measure a new version, its baselines and the live version on the same ratings, and ask the gate.

    Args:
        factors: of the new version, trained without the held-out ratings.
        bias_baseline: the bias-only model of the training set.
        margin: as a share of the live version's metric.
    """
    with reading(engine) as connection:
        number, live = load_live(connection, judge.objective)
        earlier = [] if number is None else judged_before(connection, judge.objective, number, PATIENCE_NIGHTS)
    new, metrics = judge.measure(factors)
    baselines = {name: judge.measure(baseline) for name, baseline in judge.baselines(bias_baseline).items()}
    gate: dict[str, Any] = {"compared_with": number}
    of_live, known, slices = None, None, []
    if live is not None:
        of_live = judge.measure(live)[0]
        known = np.intersect1d(factors.user_keys, live.user_keys)
        slices = judge.slices(new, of_live, known)
        gate["slices"] = [each.as_record() for each in slices]
    verdict = decide(
        new,
        baselines["popular" if judge.objective == "ranking" else "bias"][0],
        of_live,
        margin,
        known,
        earlier=[Comparison.from_record(figures) for figures in earlier if is_comparison(figures)],
        slices=slices,
    )
    if verdict.comparison is not None:
        gate |= verdict.comparison.as_record()
    return Judgement(metrics, {name: values for name, (_, values) in baselines.items()}, verdict, number, gate)


def is_comparison(figures: Mapping[str, Any]) -> bool:
    """Return whether the figures of a step hold a comparison with a live version."""
    return "standard_error" in figures


def load_live(connection: Connection, objective: Objective) -> tuple[int | None, Factors | None]:
    """Return the number of the live version, and what to compare with: its twin, or itself.

    If it is damaged, servers serve the version before it, so that one is compared with; if none can be read, nothing.
    """
    number = live_numbers(connection).get(objective)
    if number is None:
        return None, None
    for candidate in (number, *previously_published(connection, objective)):
        try:
            return number, load_judged(connection, candidate)
        except DamagedVersionError as error:
            _log.error("a damaged version cannot be compared with", extra={"reason": str(error)})
    return number, None
