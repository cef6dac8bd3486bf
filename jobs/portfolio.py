"""Which architecture suits the data: candidates are trained without a validation part and measured on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from jobs.progress import say
from jobs.training_data import split_ratings
from recsys.data.dataset import Ratings
from recsys.database.models import versions
from recsys.errors import TrainingError
from recsys.evaluation.gate import Judge
from recsys.factors import Factors
from recsys.learner import Learner
from recsys.results import Architecture
from recsys.training.blend import find_alpha, over_items_of
from recsys.training.config import Config

CANDIDATES: tuple[Architecture, ...] = ("dot", "item", "blend")

TURN = 1
"""The validation part is held out of what the held-out ratings of the gate left."""

CHOICE_TRAININGS = 7
"""Trainings for which a choice holds."""

CHOICE_GROWTH = 0.1
"""Share by which the number of ratings may change while a choice holds."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The architecture to train.

    Attributes:
        architecture: the one with the highest metric.
        measured: architecture → metric on the validation part, of every candidate.
        settings: fields of `Config` that were found for the chosen one.
        n_ratings: ratings that there were.
        age: trainings since then.
    """

    architecture: Architecture
    measured: Mapping[str, float]
    settings: Mapping[str, Any]
    n_ratings: int = 0
    age: int = 0

    def as_record(self) -> dict[str, Any]:
        """Return what a version keeps of its choice."""
        return {"candidates": dict(self.measured), "choice": {"n_ratings": self.n_ratings, "age": self.age}}

    def applied_to(self, config: Config) -> Config:
        """Return a config with the settings found in the fields that are to be found."""
        return replace(config, **{name: to for name, to in self.settings.items() if getattr(config, name) is None})


def kept_choice(connection: Connection, n_ratings: int) -> Choice | None:
    """Return the choice of the last training, while it holds.

    Comparing costs about what a training costs, and what suits the data seldom changes overnight. So the candidates
    are compared again only in every `CHOICE_TRAININGS`-th training, once the number of ratings has changed by
    `CHOICE_GROWTH`, or after the gate refused a version.
    """
    last = next((stored for stored in versions(connection) if stored.objective == "ranking"), None)
    if last is None or not last.training.gate_passed:
        return None
    configuration = last.training.configuration
    made, measured = configuration.get("choice"), configuration.get("candidates")
    if not (isinstance(made, dict) and isinstance(measured, dict) and measured):
        return None
    age = made["age"] + 1
    if age >= CHOICE_TRAININGS or abs(n_ratings - made["n_ratings"]) > CHOICE_GROWTH * made["n_ratings"]:
        return None
    found = configuration.get("found")
    settings = found if isinstance(found, dict) else {}
    return Choice(last.training.architecture, measured, settings, made["n_ratings"], age)


def choose_architecture(
    training_set: Ratings,
    scale: tuple[float, float],
    configs: Mapping[Architecture, Config],
    fit: Callable[[Ratings, Config], Learner],
) -> Choice:
    """Train `dot`, `item` and `blend` on a part of a training set, and return the one that orders the rest best.

    `blend` is the sum of the other two, with α as `find_alpha` finds it on the same part. A candidate that cannot be
    trained, as for want of memory, is left out. Of equal ones the first is chosen, and `dot` where too few ratings are
    left to measure on.

    Args:
        configs: of each architecture.
        fit: trains a model.

    Raises:
        TrainingError: no candidate can be trained.
    """
    try:
        rest, held_out = split_ratings(training_set, TURN)
    except TrainingError:
        say("ranking: too few ratings to compare candidates on: dot is trained")
        return Choice("dot", {}, {})
    judge = Judge("ranking", rest, held_out, scale)
    trained: dict[Architecture, Factors] = {}
    settings: dict[Architecture, dict[str, float]] = {}
    problem: TrainingError | None = None
    for architecture in ("dot", "item"):
        try:
            learner = fit(rest, configs[architecture])
        except TrainingError as error:
            say(f"ranking: {architecture} is left out: {error}")
            problem = error
            continue
        trained[architecture], settings[architecture] = learner.factors, learner.config.get("found", {})
    if not trained:
        assert problem is not None
        raise problem
    if "dot" in trained and "item" in trained:
        dot, weights = trained["dot"], trained["item"].weights
        assert weights is not None
        weights = over_items_of(dot, weights, rest)
        alpha = configs["blend"].alpha
        if alpha is None:
            alpha = find_alpha(dot, weights, rest, held_out)
        if alpha > 0:
            trained["blend"] = replace(dot, weights=weights.times(alpha))
            of_weights = {name: settings["item"][name] for name in ("item_l2", "item_power")}
            settings["blend"] = {**of_weights, "alpha": alpha}
    measured: dict[str, float] = {name: judge.main_metric(factors) for name, factors in trained.items()}
    best = max(trained, key=lambda name: measured[name])
    figures = ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
    say(f"ranking: {judge.metric} on a validation part: {figures}; {best} is trained")
    return Choice(best, measured, settings[best])
