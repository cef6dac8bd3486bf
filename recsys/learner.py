"""`Learner`: train a model and use it, in a notebook or in a job, without a database."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.data.feedback import prepare
from recsys.database.clock import now_ms
from recsys.database.models import ModelVersion, Training
from recsys.errors import InputError, NotFoundError
from recsys.evaluation.gate import Judge, usable_scale
from recsys.evaluation.splits import known_share
from recsys.extras import require_extra
from recsys.factors import Factors
from recsys.library.loading import RatingData, align_ratings, load_ratings
from recsys.library.saved import SavedModel, publish_model, read_model, write_model
from recsys.library.users import UsersInMemory
from recsys.results import Architecture, EvaluateReport, ItemList, Objective, Order, PopularBy
from recsys.scoring.fold_in import FoldedUser
from recsys.serving import lists
from recsys.serving.catalogue import Catalogue
from recsys.serving.encode import to_item_list
from recsys.serving.explain import explain_list
from recsys.serving.filters import Filters
from recsys.serving.lists import ListQuery
from recsys.serving.live_model import LiveModel
from recsys.serving.predictions import predict
from recsys.serving.searches import RankedItems, run_searches
from recsys.serving.snapshot import Recommender
from recsys.serving.users import fold_in_user

if TYPE_CHECKING:
    import pandas as pd

    from recsys.analysis.view import ModelView
    from recsys.library.analysis import LearnerPlots, LearnerTables
    from recsys.library.finding import LearningRates, Sweep
    from recsys.training.build import EpochRecord
    from recsys.training.checkpoint import Checkpoint
    from recsys.training.config import Config
    from recsys.training.sweep import SweptField

UNSAVED = 0
"""Number of the version of a learner that no database has stored."""


class Learner:
    """A trained model with the ratings that it was trained on.

    >>> from recsys import Learner, load_ratings                        # doctest: +SKIP
    >>> learner = Learner.fit(load_ratings("ml-100k.zip"))              # doctest: +SKIP
    >>> learner.recommend("196", n=3)                                   # doctest: +SKIP
      item_id          title     score
    0     100   Fargo (1996)  4.471542
    ...

    Lists, predictions and explanations are those of the HTTP service for the same version and the same ratings.

    Attributes:
        data: the ratings, with the ids of users and items.
        factors: what the model learned.
        config: how it was trained: every field of `recsys.training.config.Config`.
        rating_scale: lowest and highest possible rating.
        history: one mapping for each epoch.
        seconds: of the training.
        metrics: of the last `evaluate`; empty before.
    """

    def __init__(
        self,
        data: RatingData,
        factors: Factors,
        config: Mapping[str, Any],
        rating_scale: tuple[float, float],
        history: Sequence[Mapping[str, object]] = (),
        seconds: float = 0.0,
    ) -> None:
        self.data, self.factors, self.config = data, factors, dict(config)
        self.rating_scale, self.history, self.seconds = rating_scale, tuple(history), seconds
        self.metrics: dict[str, float] = {}

    def __repr__(self) -> str:
        objective, architecture = self.factors.objective, self.config.get("architecture", "dot")
        return f"Learner({objective}, {architecture}, {self.factors.n_factors} factors, {self.data!r})"

    @classmethod
    def fit(
        cls,
        ratings: object,
        *,
        objective: Objective = "ranking",
        architecture: Architecture = "dot",
        config: "Config | None" = None,
        rating_scale: tuple[float, float] | None = None,
        device: str = "auto",
        seed: int = 0,
        accumulate: int = 1,
        baseline: Factors | None = None,
        checkpoint: "Checkpoint | None" = None,
        validate: Callable[[Factors], float] | None = None,
        on_epoch: "Callable[[EpochRecord], None] | None" = None,
        on_step: Callable[[int, int], None] | None = None,
        **overrides: Any,
    ) -> "Learner":
        """Train a model.

        >>> Learner.fit(frame, objective="rating", n_epochs=5)          # doctest: +SKIP

        Args:
            ratings: what `load_ratings` returns or accepts: a data frame, a path or a database URL.
            objective: `ranking` learns to order lists; `rating` learns to predict ratings.
            config: everything that decides the outcome except data, seed and device; `None`: the defaults for this
                number of ratings and users, with `overrides`.
            rating_scale, device, seed, accumulate, baseline, checkpoint, validate, on_epoch, on_step: as in
                `recsys.training.fit.fit`.
            overrides: fields of `recsys.training.config.Config`, such as `n_factors` or `weight_decay`.

        Raises:
            InputError: the ratings cannot be read, or a field of the config is out of range.
            TrainingError: there is nothing to train on, or training diverged.
        """
        require_extra("train")
        from recsys.training.config import default_config  # torch takes seconds to import
        from recsys.training.fit import fit

        data = ratings if isinstance(ratings, RatingData) else load_ratings(ratings)
        train = data.ratings
        if train.scale is None:
            low, high = rating_scale or (None, None)
            train, _ = prepare(train, objective if config is None else config.objective, (low, high))
            data = replace(data, ratings=train)
        if rating_scale is None and train.scale is not None:
            rating_scale = usable_scale(train.scale)
        if config is None:
            config = default_config(
                objective,
                train.n_ratings,
                train.n_users,
                train.effective_items(),
                architecture=architecture,
                **overrides,
            )
        fitted = fit(
            train,
            config,
            rating_scale=rating_scale,
            device=device,
            seed=seed,
            accumulate=accumulate,
            baseline=baseline,
            checkpoint=checkpoint,
            validate=validate,
            on_epoch=on_epoch,
            on_step=on_step,
        )
        scale = rating_scale or (float(train.rating.min()), float(train.rating.max()))
        history = [asdict(epoch) for epoch in fitted.history]
        record = {**config.as_record(), "seed": seed}
        if fitted.found:
            record["found"] = dict(fitted.found)
        if fitted.restarts:
            record["restarts"] = [asdict(restart) for restart in fitted.restarts]
        return cls(data, fitted.factors, record, scale, history, fitted.seconds)

    def recommend(
        self,
        user: str | Sequence[str] | None = None,
        n: int = 10,
        *,
        ratings: Mapping[str, float] | None = None,
        exclude_seen: bool = True,
        exclude: Iterable[str] = (),
        candidates: Iterable[str] | None = None,
        categories: Sequence[str] = (),
        min_ratings: int = 0,
        diversity: float = 0.0,
    ) -> "pd.DataFrame":
        """Return the best items for a user, for several users, or for a visitor with ratings of their own.

        >>> learner.recommend("196")                                    # doctest: +SKIP
        >>> learner.recommend(["196", "22"], n=5)                       # doctest: +SKIP
        >>> learner.recommend(ratings={"50": 5, "181": 4})              # doctest: +SKIP

        Args:
            user: an external id, or a sequence of ids. An unknown user gets the most rated items.
            ratings: item id → rating of a visitor, who is folded in; nothing is stored.
            exclude_seen: leave out what the user has rated.
            exclude, candidates: ids of items to leave out, and to choose from.
            categories: list only items in one of these.
            min_ratings: fewest ratings of a listed item.
            diversity: from 0 (the best items) to 1 (items that are as little alike as possible).

        Returns:
            One row for each item, the best first: item_id, title, score. For a sequence of users the first two columns
            are user_id and rank, from 1.

        Raises:
            InputError: both or neither of `user` and `ratings` are given, or `diversity` is not from 0 to 1.
        """
        if not 0 <= diversity <= 1:
            raise InputError(f"diversity is {diversity}; it must be from 0 to 1")
        if (user is None) == (ratings is None):
            raise InputError("give either a user (or a list of users) or ratings of a visitor")
        catalogue = self.catalogue
        query = ListQuery(
            n=n,
            exclude_seen=exclude_seen,
            exclude=catalogue.find(exclude),
            candidates=None if candidates is None else catalogue.find(candidates),
            filters=Filters(categories=tuple(categories), min_ratings=min_ratings),
            diversity=diversity,
        )
        user_ids = [user] if isinstance(user, str) else list(user or ())
        states = (
            [self.users.state(user_id) for user_id in user_ids] if ratings is None else [self.users.visitor(ratings)]
        )
        ranked = lists.recommend(self._recommender, self._model, states, query)
        if isinstance(user, str) or ratings is not None:
            return self._frame(ranked[0])
        import pandas as pd

        frames = []
        for user_id, one in zip(user_ids, ranked, strict=True):
            frame = self._frame(one)
            frame.insert(0, "user_id", user_id)
            frame.insert(1, "rank", np.arange(1, len(frame) + 1))
            frames.append(frame)
        columns = ["user_id", "rank", "item_id", "title", "score"]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def similar(self, item: str, n: int = 10, *, categories: Sequence[str] = ()) -> "pd.DataFrame":
        """Return the items whose vectors have the highest cosine with an item's: item_id, title, score.

        >>> learner.similar("50", n=5)                                  # doctest: +SKIP

        Raises:
            NotFoundError: there is no such item, or the model does not know it.
        """
        search = self._recommender.similar.search(item, n, Filters(categories=tuple(categories)))
        return self._frame(self._recommender.similar.finish(search, run_searches([search])[0]))

    def popular(
        self,
        by: PopularBy = "count",
        n: int = 10,
        *,
        order: Order = "desc",
        min_ratings: int | None = None,
        categories: Sequence[str] = (),
    ) -> "pd.DataFrame":
        """Return items by number of ratings, mean rating or item bias: item_id, title, score.

        >>> learner.popular("bias", n=5)                                # doctest: +SKIP

        Raises:
            NoModelError: by bias, and the objective is `ranking`.
            InputError: by trend, which needs the database.
        """
        if by == "trending":
            raise InputError("a list by trend needs the database: GET /v1/popular?by=trending, or by count here")
        if by == "bias" and self._model.objective != "rating":
            raise self._recommender.nothing_live("rating")
        filters = Filters(categories=tuple(categories))
        return self._frame(self._recommender.popular(by, n, order, min_ratings, filters))

    def predict(self, user: str, items: str | Sequence[str]) -> "pd.DataFrame":
        """Return the ratings that a user would give to items: item_id, title, prediction.

        >>> learner.predict("196", ["50", "181"])                       # doctest: +SKIP

        Raises:
            NoModelError: the objective is `ranking`.
            NotFoundError: there is no such item.
        """
        import pandas as pd

        item_ids = [items] if isinstance(items, str) else list(items)
        predicted = predict(self._recommender, self.users.state(user), item_ids)
        for item_id in predicted.unknown:
            self.catalogue.require(item_id)
        return pd.DataFrame([row.model_dump() for row in predicted.items], columns=["item_id", "title", "prediction"])

    def fold_in(self, ratings: Mapping[str, float]) -> FoldedUser:
        """Return the vector and bias of a visitor who gave these ratings: item id → rating.

        >>> learner.fold_in({"50": 5, "181": 4}).vector.shape           # doctest: +SKIP
        (64,)

        Raises:
            NotFoundError: the model knows none of the items.
        """
        folded = fold_in_user(self._model, self.users.rated_items(ratings))
        if folded is None:
            raise NotFoundError("the model knows none of these items: give ratings of items that it was trained with")
        return folded

    def explain(self, user: str, n: int = 10) -> ItemList:
        """Return a user's list with the exact parts of each score, and the ratings behind it.

        >>> learner.explain("196", n=1).items[0].explanation            # doctest: +SKIP
        """
        state = self.users.state(user)
        (ranked,) = lists.recommend(self._recommender, self._model, [state], ListQuery(n=n))
        return explain_list(self._recommender, self._model, state, self.users.rated(user), ranked)

    def evaluate(self, test: object, *, k: int = 10, relevant_from: float | None = None) -> EvaluateReport:
        """Measure the model on other ratings, beside the most-popular and the bias-only baselines.

        >>> learner.evaluate("u1.test").metrics                         # doctest: +SKIP

        Args:
            test: what `load_ratings` returns or accepts.
            k: length of the lists.
            relevant_from: lowest rating of a relevant item; `None`: three quarters up the scale.

        Raises:
            InputError: nothing in the test ratings is relevant.
        """
        started = time.perf_counter()
        data = test if isinstance(test, RatingData) else load_ratings(test)
        held_out = align_ratings(data, self.data)
        judge = Judge(
            self.factors.objective, self.data.ratings, held_out, self.rating_scale, k=k, relevant_from=relevant_from
        )
        self.metrics = judge.measure(self.factors)[1]
        self.__dict__.pop("view", None)  # it holds the metrics
        return EvaluateReport(
            metrics=self.metrics,
            baselines={name: judge.measure(factors)[1] for name, factors in judge.baselines().items()},
            known_share=round(known_share(self.data.ratings, held_out), 4),
            seconds=round(time.perf_counter() - started, 3),
        )

    def lr_find(self, n_steps: int = 200) -> "LearningRates":
        """Train shortly under a growing learning rate, and suggest one; the learner stays as it is.

        >>> found = learner.lr_find()                                   # doctest: +SKIP
        >>> found.plot()                                                # doctest: +SKIP
        >>> Learner.fit(learner.data, learning_rate=found.found.valley) # doctest: +SKIP

        Raises:
            TrainingError: the loss falls at no learning rate.
        """
        require_extra("report")
        from recsys.library.finding import find_learning_rates

        return find_learning_rates(self, n_steps)

    def sweep(
        self, field: "SweptField" = "weight_decay", values: Sequence[float] | str = "1e-3:1e1", **overrides: Any
    ) -> "Sweep":
        """Train once with each value of one setting, and measure on ratings held out of the learner's own.

        >>> sweep = learner.sweep("l2", "1e-3:1e1", n_epochs=5)         # doctest: +SKIP
        >>> sweep.table, sweep.plot()                                   # doctest: +SKIP

        Args:
            field: `weight_decay`, `l2`, `damping` or `learning_rate`.
            values: numbers, or a range in multiples of ten: `1e-3:1e1`.
            overrides: other fields of the config, such as `n_epochs`, for all trainings.

        Raises:
            InputError: the field cannot be swept, or a value is out of range.
            TrainingError: there are too few ratings, or every training diverged.
        """
        require_extra("report")
        from recsys.library.finding import sweep_setting

        return sweep_setting(self, field, values, **overrides)

    def save(self, folder: str | Path) -> None:
        """Write the model and its ratings to a folder, as safetensors, Parquet and JSON.

        >>> learner.save("model")                                       # doctest: +SKIP

        Raises:
            InputError: the folder cannot be written.
        """
        write_model(Path(folder), self._saved())

    @classmethod
    def load(cls, folder: str | Path) -> "Learner":
        """Read a model that `save` wrote. Nothing that is read can run code.

        >>> Learner.load("model").recommend("196")                      # doctest: +SKIP

        Raises:
            InputError: the folder holds no model, or a file is damaged.
        """
        saved = read_model(Path(folder))
        return cls(saved.data, saved.factors, saved.config, saved.rating_scale, saved.history, saved.seconds)

    def publish(self, database_url: str, reason: str = "published from a Learner") -> int:
        """Store the ratings and the model in a database, and make the model the live version of its objective.

        The gate does not judge it: `recsys nightly` compares the next version with this one.

        >>> learner.publish("sqlite:///recsys.db")                      # doctest: +SKIP

        Returns:
            The number of the version.

        Raises:
            DatabaseError: the database cannot be reached, or needs `recsys init`.
            LockedError: a training is running.
        """
        return publish_model(self._saved(), self._training(), database_url, reason)

    @property
    def table(self) -> "LearnerTables":
        """What the model learned, as data frames.

        >>> learner.table.ends(component=1)                             # doctest: +SKIP
        """
        require_extra("report")
        from recsys.library.analysis import LearnerTables  # pandas and plotly take a while to import

        return LearnerTables(self.view, self)

    @property
    def plot(self) -> "LearnerPlots":
        """What the model learned, as plotly figures.

        >>> learner.plot.map(colour="category:Drama")                   # doctest: +SKIP
        """
        require_extra("report")
        from recsys.library.analysis import LearnerPlots

        return LearnerPlots(self.view, self)

    @cached_property
    def view(self) -> "ModelView":
        """The model as `recsys.analysis` looks at it, to be compared with another one.

        >>> learner.table.compare(earlier.view)                         # doctest: +SKIP
        """
        from recsys.library.views import view_of_model

        return view_of_model(self.data, self.factors, self.catalogue, self.config, self.metrics, self.history)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items with their metadata and numbers of ratings."""
        ratings = self.data.ratings
        items = [self.data.items[key] for key in sorted(self.data.items)]
        total = np.bincount(ratings.item_idx, ratings.rating.astype(np.float64), ratings.n_items).astype(np.float64)
        return Catalogue.from_items(items, (ratings.item_keys, ratings.item_counts(), total))

    @cached_property
    def _model(self) -> LiveModel:
        version = ModelVersion(
            number=UNSAVED,
            objective=self.factors.objective,
            training=self._training(),
            n_users=self.factors.n_users,
            n_items=self.factors.n_items,
            n_factors=self.factors.n_factors,
            global_bias=self.factors.global_bias,
            rating_range=self.factors.rating_range,
            created_at=now_ms(),
            live=True,
        )
        return LiveModel.from_version(version, self.factors, self.catalogue)

    @cached_property
    def _recommender(self) -> Recommender:
        return Recommender(self.catalogue, {self.factors.objective: self._model})

    @cached_property
    def users(self) -> UsersInMemory:
        """The users with their ratings."""
        return UsersInMemory(self.data, self.factors, self._model, self.catalogue.idx_of)

    def _saved(self) -> SavedModel:
        return SavedModel(self.data, self.factors, self.config, self.rating_scale, self.history, self.seconds)

    def _training(self) -> Training:
        """Return what a database stores of this training beside the factors."""
        return Training(
            architecture=self.config.get("architecture", "dot"),
            configuration={
                **self.config,
                "n_users": self.data.ratings.n_users,
                "effective_items": self.data.ratings.effective_items(),
            },
            metrics=self.metrics,
            baselines={},
            history=self.history,
            data_fingerprint=self.data.ratings.fingerprint(),
            trained_seq=0,
            n_ratings=self.data.ratings.n_ratings,
            rating_scale=self.rating_scale,
            training_seconds=round(self.seconds, 3),
            gate_passed=True,
            gate_reason="published from a Learner: not compared with a live version",
            weight_top=self.data.ratings.weight_top,
        )

    def _frame(self, ranked: RankedItems) -> "pd.DataFrame":
        import pandas as pd

        items = to_item_list(self.catalogue, ranked).items
        rows = [(item.item_id, item.title, item.score) for item in items]
        return pd.DataFrame(rows, columns=["item_id", "title", "score"])
