"""From a training over ranks to a version: measured and stored by rank 0, to which the others send their tables."""

import logging
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from jobs.judging import Judgement, judge_version
from jobs.pipeline import TrainingJob, decide_publication, publish_judged
from jobs.progress import say
from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.keyed import evenly
from recsys.database.ids import item_keys, user_keys
from recsys.database.leases import TRAINING, Lease, lease
from recsys.database.models import Training, store
from recsys.database.runs import recorded
from recsys.errors import LockedError
from recsys.evaluation.gate import Judge
from recsys.factors import Factors, RankingConstants, RatingConstants, Side
from recsys.results import TrainReport
from recsys.scoring.fold_in import DEFAULT_RIDGE, FoldIn
from recsys.scoring.neighbours import MIN_RATINGS, find_neighbours
from recsys.settings import Settings
from recsys.training.config import Config
from recsys.training.export import RIDGE_USERS
from recsys.training.ranks.biases import Biases
from recsys.training.ranks.export import ItemTable, UserPart, gather_items, stream_users
from recsys.training.ranks.group import Group
from recsys.training.ranks.loop import RankRun
from recsys.training.ranks.partition import Partition

_log = logging.getLogger(__name__)

JUDGED_USERS = 50_000
"""Users that a version is measured on, at most about."""
STORED_USERS = 20_000
"""Users that are stored at a time, at least."""
LEASE_WAIT_SECONDS = 3600.0
"""How long rank 0 waits for another job that holds the lease, less than the others wait for it."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A training over ranks at its end, on one of the ranks.

    Attributes:
        run: its tables, with the implicit terms of the users in their factors.
        biases: of the bias-only model.
        seq: the last change of the database before the ratings were read.
    """

    data: Partition
    config: Config
    run: RankRun
    biases: Biases
    seq: int


class Publication:
    """The way from tables that are trained to a version that is stored and, if the gate allows it, published.

    Args:
        engine: rank 0 needs it.
    """

    def __init__(
        self, group: Group, engine: Engine | None, settings: Settings, job: TrainingJob, trained: Trained
    ) -> None:
        self._group, self._maybe_engine, self._settings, self._job = group, engine, settings, job
        self._data, self._config, self._trained = trained.data, trained.config, trained.run
        self._biases, self._seq = trained.biases, trained.seq

    @property
    def _engine(self) -> Engine:
        assert self._maybe_engine is not None
        return self._maybe_engine

    def finish(self, started: float) -> TrainReport | None:
        """Judge, store and publish; the report on rank 0."""
        group, data, tables = self._group, self._data, self._trained.tables
        items = gather_items(group, tables)
        slots = judged_slots(data)
        judged = stream_users(group, data, tables, slots, self._biases.user_bias)
        if group.rank:
            list(judged)
            list(stream_users(group, data, tables))
            return None
        assert items is not None
        job = self._job
        with waiting_lease(self._engine, self._settings) as held, recorded(self._engine, "train") as record:
            keys = item_keys(self._engine, data.item_ids)
            with record.step("judge", job.objective, data.fingerprint) as step:
                factors = self._without_users(items, keys)
                parts = list(judged)
                factors = self._with_ridge(factors, parts, items, keys)
                judgement, n_judged = self._judge(factors, parts, keys)
                step.figures = judgement.as_record()
            with record.step("store", job.objective, data.fingerprint) as step:
                training = self._training(judgement, n_judged)
                number = store(
                    self._engine,
                    self._with_neighbours(factors, keys),
                    training,
                    held.guard,
                    more_users=self._users(factors, keys, stream_users(group, data, tables)),
                )
                run = self._trained
                step.figures = {
                    "model_version": number,
                    "ranks": group.size,
                    "seconds": round(run.seconds, 3),
                    "cpu_seconds": round(run.cpu_seconds, 3),
                    "n_steps": len(run.step_bytes),
                    "bytes_of_step": round(float(np.mean(run.step_bytes or [0]))),
                    "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                }
            decision = decide_publication(judgement.verdict, job.publish_it, job.force_reason)
            if decision.publish:
                decision = publish_judged(
                    self._engine,
                    held,
                    record,
                    job.objective,
                    number,
                    decision,
                    judgement.compared_with,
                    force=not judgement.verdict.publish,
                )
            report = TrainReport(
                model_version=number,
                objective=job.objective,
                architecture="dot",
                metrics=judgement.metrics,
                baselines=judgement.baselines,
                published=decision.publish,
                reason=decision.reason,
                seconds=round(time.perf_counter() - started, 3),
                gate=judgement.gate,
            )
            record.reason, record.detail = report.reason, report.model_dump(mode="json")
            return report

    def _without_users(self, items: ItemTable, keys: NDArray[np.int64]) -> Factors:
        """Return the model without users."""
        order = np.argsort(keys)
        implicit = None if items.implicit is None else items.implicit[order]
        side = Side(keys[order], items.factors[order], items.bias[order], implicit)
        config, is_rating = self._config, self._config.objective == "rating"
        return Factors(
            objective=config.objective,
            users=Side.empty(side.factors.shape[1]),
            items=side,
            global_bias=self._trained.tables.global_bias.item(),
            rating_range=self._data.range_ends if is_rating else None,
            constants=RatingConstants(config.l2, config.damping) if is_rating else self._ranking_constants(),
        )

    def _ranking_constants(self) -> RankingConstants:
        """Return the constants of a `ranking` training, as `recsys.training.item.ranking_constants`."""
        data, config = self._data, self._config
        n_train, (low, high) = int(data.n_train.sum()), data.rating_ends
        return RankingConstants(
            mean=data.rating_sum / n_train,
            span=(high - low) or 1.0,
            n_items=n_train / int(data.n_users.sum()),
            ridge=DEFAULT_RIDGE,
            rating_weight=config.rating_weight,
            user_power=config.user_power,
            dislike_below=sum(data.scale) / 2,
        )

    def _with_ridge(
        self, factors: Factors, parts: list[UserPart], items: ItemTable, keys: NDArray[np.int64]
    ) -> Factors:
        """Return the model with the ridge of fold-in, which is measured on some users; see `recsys.training.export`."""
        constants = factors.constants
        if not isinstance(constants, RankingConstants):
            return factors
        part = max(parts, key=lambda each: len(each.user_ids))
        at = np.empty(len(keys), np.int64)
        at[np.argsort(keys)] = np.arange(len(keys))
        starts = np.concatenate([[0], np.cumsum(part.train.n_rated)])
        chosen = evenly(len(part.user_ids), RIDGE_USERS)
        rows = [slice(int(starts[user]), int(starts[user + 1])) for user in chosen.tolist()]
        rated = [(at[part.train.item_idx[each]], part.train.rating[each]) for each in rows]
        vectors = part.factors[chosen]
        own = vectors
        if (y := items.implicit) is not None:
            terms = [y[part.train.item_idx[each]].sum(0) / max(len(range(*each.indices(starts[-1]))), 1) ** 0.5
                     for each in rows]  # fmt: skip
            own = vectors - np.array(terms, np.float32)
        ridge = FoldIn(factors).measure_ridge(rated, vectors, own)
        return replace(factors, constants=replace(constants, ridge=ridge))

    def _with_neighbours(self, factors: Factors, keys: NDArray[np.int64]) -> Factors:
        """Return a `ranking` model with the neighbours of its items."""
        if self._config.objective == "rating":
            return factors
        often = self._data.item_counts[np.argsort(keys)] >= MIN_RATINGS
        return replace(factors, neighbours=find_neighbours(factors, often))

    def _judge(self, factors: Factors, parts: list[UserPart], keys: NDArray[np.int64]) -> tuple[Judgement, int]:
        """Return the judgement on some users, and how many they are."""
        data = self._data
        at = np.empty(len(keys), np.int64)
        at[np.argsort(keys)] = np.arange(len(keys))
        parts = [solve_dislikes(factors, part, at) for part in parts]
        ids = [user_id for part in parts for user_id in part.user_ids]
        of_users = user_keys(self._engine, ids)
        order = np.argsort(of_users)
        users = Side(
            of_users[order],
            np.concatenate([part.factors for part in parts])[order],
            np.concatenate([part.bias for part in parts])[order],
        )
        train, test = (sample_ratings(parts, name, order, of_users, keys) for name in ("train", "test"))
        judge = Judge(self._job.objective, train.compact(), test.compact(), data.scale)
        nothing = np.zeros((len(keys), 0), np.float32)
        by_key = np.argsort(keys)
        baseline = Factors(
            objective="rating",
            users=Side(
                of_users[order],
                np.zeros((len(ids), 0), np.float32),
                np.concatenate([part.baseline for part in parts if part.baseline is not None])[order],
            ),
            items=Side(keys[by_key], nothing, self._biases.item_bias[by_key]),
            global_bias=self._biases.global_bias,
            rating_range=data.range_ends,
        )
        margin = self._settings.gate_margin
        return judge_version(self._engine, judge, replace(factors, users=users), baseline, margin), len(ids)

    def _users(self, factors: Factors, keys: NDArray[np.int64], parts: Iterator[UserPart]) -> Iterator[Side]:
        """Yield the users of all ranks by their keys, some thousands at a time."""
        held: list[UserPart] = []

        def join() -> Side:
            of_users = user_keys(self._engine, [user_id for part in held for user_id in part.user_ids])
            order = np.argsort(of_users)
            vectors = np.concatenate([part.factors for part in held])
            return Side(of_users[order], vectors[order], np.concatenate([part.bias for part in held])[order])

        at = np.empty(len(keys), np.int64)
        at[np.argsort(keys)] = np.arange(len(keys))
        for part in parts:
            held.append(solve_dislikes(factors, part, at))
            if sum(len(each.user_ids) for each in held) >= STORED_USERS:
                yield join()
                held = []
        if held:
            yield join()

    def _training(self, judgement: Judgement, n_judged: int) -> Training:
        """Return what is stored of the training."""
        data, config, run = self._data, self._config, self._trained
        return Training(
            architecture="dot",
            configuration={
                **config.as_record(),
                "seed": self._job.seed,
                "n_users": int(data.n_users.sum()),
                "effective_items": data.effective_items,
                "ranks": self._group.size,
                "judged_users": n_judged,
            },
            metrics=judgement.metrics,
            baselines=judgement.baselines,
            history=[
                {"epoch": each.epoch, "train_loss": each.train_loss, "seconds": round(each.seconds, 3)}
                for each in run.history
            ],
            data_fingerprint=data.fingerprint,
            trained_seq=self._seq,
            n_ratings=data.n_ratings,
            rating_scale=data.scale,
            training_seconds=round(run.seconds, 3),
            gate_passed=judgement.verdict.publish,
            gate_reason=judgement.verdict.reason,
            gate=judgement.gate,
            newest_rating_at=data.newest_rating_at,
        )


def solve_dislikes(factors: Factors, part: UserPart, at: NDArray[np.int64]) -> UserPart:
    """Return a part with vectors that are solved for users who only dislike, as `recsys.training.export` does.

    Args:
        at: (n_items,) position of each item in the model.
    """
    constants = factors.constants
    if not isinstance(constants, RankingConstants):
        return part
    starts = np.concatenate([[0], np.cumsum(part.train.n_rated)])
    highest = np.maximum.reduceat(part.train.rating, starts[:-1])  # every user has ratings
    fold_in, solved = FoldIn(factors), part.factors.copy()
    for user in np.flatnonzero(highest < constants.dislike_below).tolist():
        rows = slice(int(starts[user]), int(starts[user + 1]))
        solved[user] = fold_in.solve(at[part.train.item_idx[rows]], part.train.rating[rows]).vector
    return replace(part, factors=solved)


def judged_slots(data: Partition) -> range:
    """Return the buckets of each lane whose users a version is measured on."""
    of_slot = np.cumsum(data.n_users.sum(0))
    return range(max(1, int(np.searchsorted(of_slot, JUDGED_USERS, side="right"))))


def sample_ratings(
    parts: list[UserPart], name: str, order: NDArray[np.int64], user_key: NDArray[np.int64], keys: NDArray[np.int64]
) -> Ratings:
    """Return the ratings of some users to train on, or those held out.

    Args:
        name: `train` or `test`.
        order: of the users by key.
        user_key, keys: of the users and of the items.
    """
    found = [getattr(part, name) for part in parts]
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    n_rated = np.concatenate([each.n_rated for each in found])
    item_idx = np.concatenate([each.item_idx for each in found])
    by_key = np.argsort(keys)
    of_item = np.empty(len(keys) + 1, np.int32)
    of_item[by_key] = np.arange(len(keys), dtype=np.int32)
    of_item[-1] = len(keys)  # one more item, for all that have no ratings to train on
    rating = np.concatenate([each.rating for each in found])
    return Ratings(
        user_idx=np.repeat(place, n_rated),
        item_idx=of_item[item_idx],
        rating=rating,
        rated_at=np.full(len(rating), NO_TIME),
        user_keys=user_key[order],
        item_keys=np.append(keys[by_key], keys.max() + 1),
        user_hash=np.zeros(len(order), np.uint64),
        item_hash=np.zeros(len(keys) + 1, np.uint64),
    )


@contextmanager
def waiting_lease(engine: Engine, settings: Settings) -> Iterator[Lease]:
    """Hold the lease of training, and wait for another job that holds it.

    Raises:
        LockedError: the other job held it for hours.
    """
    until = time.monotonic() + LEASE_WAIT_SECONDS
    while True:
        try:
            with lease(engine, TRAINING, settings.lease_seconds) as held:
                yield held
                return
        except LockedError as error:
            if "held" in locals() or time.monotonic() > until:
                raise
            _log.warning("the training waits to be stored", extra={"reason": str(error)})
            say(f"waiting to store the version: {error}")
            time.sleep(min(10.0, settings.lease_seconds))
