"""Train on ratings from files, and measure on others. No database is used."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jobs.fitting import fit_with_progress
from jobs.load import decide_kind, read_items_file, read_ratings_file, read_users_file
from jobs.rejects import rejects_to
from jobs.training_data import rating_scale
from recsys.data.dataset import Ratings
from recsys.data.encoding import IdEncoder, as_ratings
from recsys.data.features import build_features_of_rows
from recsys.data.feedback import on_scale_of, prepare
from recsys.data.rating_scale import relevant_from as relevant_rating
from recsys.data.rows import ItemRow, UserRow
from recsys.database.items import StoredItem
from recsys.errors import InputError, TrainingError
from recsys.evaluation.splits import Split, hold_out
from recsys.files.options import AS_RECOGNISED, ReadOptions
from recsys.files.source import open_source
from recsys.library.loading import RatingData
from recsys.results import Architecture, EvaluateReport, Objective
from recsys.settings import Settings
from recsys.training.config import default_config


def evaluate(
    train_path: Path,
    test_path: Path | None,
    settings: Settings,
    objective: Objective,
    *,
    architecture: Architecture = "dot",
    split: Split = "last-tenth",
    items_path: Path | None = None,
    users_path: Path | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    k: int = 10,
    relevant_from: float | None = None,
    options: ReadOptions = AS_RECOGNISED,
    device: str = "auto",
    seed: int = 0,
) -> EvaluateReport:
    """Train on one file and measure on another, beside the most-popular and the bias-only baselines.

    Metadata of items and users is trained with, if the source of the ratings holds it or `items_path` and `users_path`
    name it.

    Args:
        test_path: ratings to measure on; `None` holds them out of the others by `split`.
        relevant_from: lowest rating of a relevant item; `None`: three quarters up the scale, as in the gate.
        options: how the files are to be read.

    Raises:
        InputError: a file cannot be read, has no ratings, or nothing relevant to rank; or there is no such split.
        TrainingError: the ratings cannot be trained on.
    """
    started = time.perf_counter()
    users, items = IdEncoder(), IdEncoder()
    sets: list[Ratings] = []
    notices: list[str] = []
    implicit: bool | None = None
    item_rows: list[ItemRow] = []
    user_rows: list[UserRow] = []
    for path in (train_path, test_path):
        if path is None:
            continue
        source = open_source(
            path,
            items=None if sets else items_path,
            users=None if sets else users_path,
            format=format,
            columns=columns,
            rating_range=(settings.rating_min, settings.rating_max),
            options=options,
        )
        with rejects_to(None, source) as rejects:
            ratings = read_ratings_file(source, rejects, users, items)
            if not sets:
                item_rows, user_rows = read_items_file(source, rejects), read_users_file(source, rejects)
        if implicit is None:
            implicit, said = decide_kind(source, ratings, options, has_explicit=False)
            notices += said
        sets.append(as_ratings(ratings, implicit))
    prepared, said = prepare(sets[0], objective, (settings.rating_min, settings.rating_max))
    notices += said
    if test_path is None:
        training_set, test = split_by(prepared, split, seed)
    else:
        training_set, test = prepared, without_trained(prepared, on_scale_of(prepared, sets[1]), notices)
    training_set = training_set.with_features(
        build_features_of_rows(user_rows, {user_id: key for key, user_id in enumerate(users.ids)}),
        build_features_of_rows(item_rows, {item_id: key for key, item_id in enumerate(items.ids)}),
    )
    scale = rating_scale(training_set, settings)
    n_ratings, n_users = training_set.n_ratings, training_set.n_users
    effective_items = training_set.effective_items()
    config = default_config(
        objective, n_ratings, n_users, effective_items, architecture=architecture, **(overrides or {})
    )
    names: tuple[dict[int, str], dict[int, StoredItem]] = ({}, {})  # both parts have the same keys: nothing to align
    learner = fit_with_progress(RatingData(training_set, *names), config, scale, device, seed)
    report = learner.evaluate(RatingData(test, *names), k=k, relevant_from=relevant_from)
    seconds = round(time.perf_counter() - started, 3)
    relevant = relevant_from if relevant_from is not None or objective == "rating" else relevant_rating(scale)
    return report.model_copy(update={"seconds": seconds, "notices": notices, "relevant_from": relevant})


def without_trained(training_set: Ratings, test: Ratings, notices: list[str]) -> Ratings:
    """Return the test ratings whose pairs are not trained on: no list offers what a user has rated.

    Raises:
        InputError: all of them are.
    """
    n_items = np.int64(max(training_set.item_keys.max(initial=0), test.item_keys.max(initial=0)) + 1)
    trained, tested = (
        each.user_keys[each.user_idx] * n_items + each.item_keys[each.item_idx] for each in (training_set, test)
    )
    both = np.isin(tested, trained)
    if both.all():
        raise InputError(
            "all test ratings are in the training file too, and no list offers what a user has rated: give others with "
            "--test, or leave it out to hold some out"
        )
    if both.any():
        notices.append(
            f"{int(both.sum()):,} of {len(both):,} test ratings are in the training file too: left out, for no list "
            "offers what a user has rated"
        )
    return test.select(~both).compact()


def split_by(ratings: Ratings, split: Split, seed: int) -> tuple[Ratings, Ratings]:
    """Return the ratings to train on, and those to measure on.

    Raises:
        TrainingError: the split leaves one of the two empty.
    """
    held_out = hold_out(ratings, split, seed=seed)
    if not held_out.any() or held_out.all():
        raise TrainingError(
            f"there are too few ratings to hold any out by {split}: add ratings of users with two or more, or give a "
            "file to measure on with --test"
        )
    return ratings.select(~held_out).compact(), ratings.select(held_out).compact()
