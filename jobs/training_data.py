"""Ratings in the database → what is trained on, what is measured on, and with which config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from jobs.progress import say
from recsys.data.dataset import Ratings
from recsys.data.feedback import prepare
from recsys.data.rating_scale import infer_scale
from recsys.database.engine import reading
from recsys.database.features import read_item_features, read_user_features
from recsys.database.ratings import read_ratings
from recsys.database.tuned import read_tuned
from recsys.errors import TrainingError
from recsys.evaluation.gate import Judge
from recsys.evaluation.splits import hold_out
from recsys.factors import Factors
from recsys.results import Architecture, Objective
from recsys.settings import Settings
from recsys.training.config import Config, config_for


def ratings_to_train_on(
    connection: Connection, objective: Objective | None = None, settings: Settings | None = None
) -> Ratings:
    """Return the ratings that an objective is trained on, with the metadata of users and items.

    Args:
        objective: `None`: all ratings and events, as they are stored.
        settings: `None`: no scale is configured.

    Raises:
        TrainingError: there are no ratings.
        NothingToTrainError: there are none that this objective could learn from.
    """
    ratings = read_ratings(connection)
    if ratings.n_ratings == 0:
        raise TrainingError("there are no ratings to train on: run `recsys load PATH` first")
    if objective is not None:
        configured = (None, None) if settings is None else (settings.rating_min, settings.rating_max)
        ratings, notices = prepare(ratings, objective, configured)
        for notice in notices:
            say(f"{objective}: {notice}")
    return ratings.with_features(read_user_features(connection), read_item_features(connection))


def rating_scale(ratings: Ratings, settings: Settings) -> tuple[float, float]:
    """Return the lowest and the highest rating: as configured, else inferred."""
    if ratings.scale is not None:
        return ratings.scale
    low, high = infer_scale(ratings.rating)
    return (
        low if settings.rating_min is None else settings.rating_min,
        high if settings.rating_max is None else settings.rating_max,
    )


def choose_config(
    connection: Connection,
    objective: Objective,
    architecture: Architecture,
    n_ratings: int,
    n_users: int,
    effective_items: float,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Return the config to train with: the tuned one, else the default; says so if the tuned one no longer applies.

    Args:
        overrides: fields of `Config` to set in any case; `None` values leave the field as it is.

    Raises:
        InputError: an override is out of range.
    """
    tuned = read_tuned(connection, objective, architecture)
    if tuned is not None and not tuned.applies_to(n_ratings):
        say(
            f"{objective}: the tuned config is not used: it was found on {tuned.n_ratings:,} ratings, and there are "
            f"{n_ratings:,} now. Using the defaults; to tune again: `recsys tune --objective {objective}`"
        )
    parameters = tuned.parameters if tuned is not None and tuned.applies_to(n_ratings) else {}
    return config_for(objective, architecture, n_ratings, n_users, effective_items, parameters, overrides)


def split_ratings(ratings: Ratings, turn: int = 0) -> tuple[Ratings, Ratings]:
    """Return the training set and the held-out ratings, the same ones every night.

    Args:
        turn: how often ratings were held out of these already.

    Raises:
        TrainingError: no user has enough ratings to hold one out.
    """
    is_held_out = hold_out(ratings, turn=turn)
    if not is_held_out.any():
        raise TrainingError(
            "there are too few ratings to hold some out for measuring: load more, of users with two or more ratings"
        )
    return ratings.select(~is_held_out).compact(), ratings.select(is_held_out).compact()


def read_training_part(
    engine: Engine, settings: Settings, objective: Objective, overrides: Mapping[str, Any] | None
) -> tuple[Ratings, tuple[float, float], Config]:
    """Return the training set of `train`, the rating scale, and the config that `train` would use."""
    with reading(engine) as connection:
        ratings = ratings_to_train_on(connection, objective, settings)
        config = choose_config(
            connection, objective, "dot", ratings.n_ratings, ratings.n_users, ratings.effective_items(), overrides
        )
    return ratings.select(~hold_out(ratings)).compact(), rating_scale(ratings, settings), config


@dataclass(frozen=True, slots=True)
class Validation:
    """Ratings held out of a training set, and the metric that is measured on them.

    Attributes:
        training_set: the ratings that are left to train on.
        n_held_out: number of ratings that are measured on.
        metric: name of the metric: `rmse` or `ndcg`.
        higher_is_better: whether a higher metric is a better one.
        measure: returns the metric of factors.
    """

    training_set: Ratings
    n_held_out: int
    metric: str
    higher_is_better: bool
    measure: Callable[[Factors], float]


def hold_out_validation(
    ratings: Ratings, objective: Objective, scale: tuple[float, float], turn: int = 1
) -> Validation:
    """Hold a validation part out of the training set of `train`, by the same split.

    Raises:
        TrainingError: there are too few ratings.
    """
    training_set, held_out = split_ratings(ratings, turn)
    judge = Judge(objective, training_set, held_out, scale)
    return Validation(training_set, held_out.n_ratings, judge.metric, judge.higher_is_better, judge.main_metric)
