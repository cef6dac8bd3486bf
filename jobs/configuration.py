"""What to train with: the defaults, what `recsys tune` found to be better, and what is asked for; the last wins."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection

from jobs.progress import say
from recsys.database.tuned import Tuned, tuned_settings
from recsys.results import Architecture, Objective
from recsys.training.config import Config, default_config


def chosen_config(
    connection: Connection,
    objective: Objective,
    architecture: Architecture,
    n_ratings: int,
    n_users: int,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """What to train with on so many ratings; says so where tuned settings do not hold for them any more.

    Args:
        overrides: fields of `Config` to set whatever was tuned; None values mean the tuned one or the default.

    Raises:
        InputError: an override is out of range.
    """
    tuned = tuned_settings(connection, objective, architecture)
    if tuned is not None and not tuned.holds(n_ratings):
        say(
            f"{objective}: settings tuned on {tuned.n_ratings:,} ratings are not used for {n_ratings:,}, the defaults "
            f"are; tune again: `recsys tune --objective {objective}`"
        )
    return configured(objective, architecture, n_ratings, n_users, tuned, overrides)


def configured(
    objective: Objective,
    architecture: Architecture,
    n_ratings: int,
    n_users: int,
    tuned: Tuned | None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The defaults, in their place the tuned settings where they hold, in their place what is given.

    Raises:
        InputError: an override is out of range.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    if tuned is not None and tuned.holds(n_ratings):
        known = {field.name for field in fields(Config)}
        given = {name: value for name, value in tuned.parameters.items() if name in known} | given
    return default_config(objective, n_ratings, n_users, architecture=architecture, **given)
