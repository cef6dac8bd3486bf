"""Answers about model versions."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import Field

from recsys.results.base import Architecture, Objective, Result

TRAINING_FACTS = {
    "n_users": "users",
    "effective_items": "effective number of items",
    "curve_users": "users that the training curve is measured on",
    "restarts": "restarts with a lower learning rate",
    "found": "settings found on a validation part",
    "candidates": "kinds of model that were tried, with their NDCG@10",
}
"""What a version's configuration holds beside the settings that a person can give, in words."""


def split_configuration(configuration: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the settings of a training, as its options and `--set` name them, and the facts about it, in words."""
    settings = {name: value for name, value in configuration.items() if name not in TRAINING_FACTS}
    facts = {words: configuration[name] for name, words in TRAINING_FACTS.items() if name in configuration}
    return settings, facts


class ModelSummary(Result):
    number: int
    objective: Objective
    architecture: Architecture
    live: bool
    created_at: datetime
    n_users: int
    n_items: int
    n_ratings: int
    n_factors: int
    metrics: dict[str, float]


class ModelDetail(ModelSummary):
    baselines: dict[str, dict[str, float]]
    configuration: dict[str, object]
    history: list[dict[str, object]]
    rating_min: float
    rating_max: float
    training_seconds: float


class ModelSummaries(Result):
    models: list[ModelSummary] = Field(description="The newest first.")
