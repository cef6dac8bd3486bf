"""Collaborative filtering as a service: ratings in, embeddings trained, lists out.

    from recsys import Learner, load_ratings

    learner = Learner.fit(load_ratings("ratings.csv"))
    learner.recommend("196")

The names below are the public face. Each is imported when it is first used, so that `import recsys` is fast and needs
no torch. The library knows neither the HTTP service (`api`) nor the command line (`jobs`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Learner": "recsys.learner",
    "RatingData": "recsys.library.loading",
    "load_ratings": "recsys.library.loading",
    "Ratings": "recsys.data.dataset",
    "Factors": "recsys.factors",
    "Config": "recsys.training.config",
    "default_config": "recsys.training.config",
    "hold_out": "recsys.evaluation.splits",
    "Settings": "recsys.settings",
    "load_settings": "recsys.settings",
    "RecsysError": "recsys.errors",
    "InputError": "recsys.errors",
    "NotFoundError": "recsys.errors",
    "TrainingError": "recsys.errors",
}
"""Public name → the module that defines it."""

__all__ = [
    "Config",
    "Factors",
    "InputError",
    "Learner",
    "NotFoundError",
    "RatingData",
    "Ratings",
    "RecsysError",
    "Settings",
    "TrainingError",
    "__version__",
    "default_config",
    "hold_out",
    "load_ratings",
    "load_settings",
]

if TYPE_CHECKING:
    from recsys.data.dataset import Ratings
    from recsys.errors import InputError, NotFoundError, RecsysError, TrainingError
    from recsys.evaluation.splits import hold_out
    from recsys.factors import Factors
    from recsys.learner import Learner
    from recsys.library.loading import RatingData, load_ratings
    from recsys.settings import Settings, load_settings
    from recsys.training.config import Config, default_config


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'recsys' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
