"""One consistent state of the ratings, and what each objective is trained and measured on."""

from dataclasses import dataclass
from functools import cached_property

from sqlalchemy import Engine

from jobs.progress import say
from jobs.training_data import rating_scale, ratings_to_train_on, split_ratings
from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.feedback import prepare
from recsys.database.changes import current_seq
from recsys.database.engine import reading
from recsys.evaluation.baselines import bias_only
from recsys.evaluation.gate import usable_scale
from recsys.factors import Factors
from recsys.results import Objective
from recsys.settings import Settings


@dataclass(frozen=True)
class TrainingInput:
    """One consistent state of the ratings, read once for all objectives of a run.

    Attributes:
        ratings: all of them, or what one objective is trained on.
        seq: the last change that they include.
        scale: lowest and highest rating.
        configured: the ends of the scale that the settings name.
        raw_fingerprint: digest of all ratings; `None`: these are all.
    """

    ratings: Ratings
    seq: int
    scale: tuple[float, float]
    configured: tuple[float | None, float | None] = (None, None)
    raw_fingerprint: str | None = None

    @classmethod
    def read(cls, engine: Engine, settings: Settings) -> "TrainingInput":
        """Read the ratings of a database.

        Raises:
            TrainingError: there are no ratings.
        """
        with reading(engine) as connection:
            ratings = ratings_to_train_on(connection)
            configured = (settings.rating_min, settings.rating_max)
            return cls(ratings, current_seq(connection), rating_scale(ratings, settings), configured)

    def for_objective(self, objective: Objective) -> "TrainingInput":
        """Return what an objective is trained on; both share one object where all ratings say how much.

        Raises:
            NothingToTrainError: there is nothing that this objective could learn from.
        """
        ratings, notices = prepare(self.ratings, objective, self.configured)
        for notice in notices:
            say(f"{objective}: {notice}")
        assert ratings.scale is not None
        made = TrainingInput(ratings, self.seq, ratings.scale, self.configured, self.fingerprint)
        if self.ratings.is_implicit is not None:
            return made
        shared: TrainingInput = self.__dict__.setdefault("_shared", made)
        return shared

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all ratings."""
        return self.raw_fingerprint or self.ratings.fingerprint()

    @cached_property
    def parts(self) -> tuple[Ratings, Ratings]:
        """The training set and the held-out ratings.

        Raises:
            TrainingError: there are too few ratings.
        """
        return split_ratings(self.ratings)

    @cached_property
    def bias_baseline(self) -> Factors:
        """The bias-only model of the training set."""
        return bias_only(self.parts[0], usable_scale(self.scale))

    @property
    def newest_rating_at(self) -> int | None:
        """The latest time of a rating in Unix milliseconds; `None` if no rating has a time."""
        newest = int(self.ratings.rated_at.max(initial=NO_TIME))
        return None if newest == NO_TIME else newest
