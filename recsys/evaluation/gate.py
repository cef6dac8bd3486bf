"""The publish gate: models measured on the same held-out ratings, and whether a new one may go live."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.keyed import positions
from recsys.data.rating_scale import relevant_from as relevant_rating
from recsys.evaluation.baselines import bias_only, popular
from recsys.evaluation.comparison import (
    PATIENCE_NIGHTS,
    Comparison,
    compare,
    passes_after_waiting,
    undecided,
)
from recsys.evaluation.metrics import evaluate_ranking, evaluate_rating
from recsys.evaluation.slices import SliceComparison, compare_slices, slice_masks
from recsys.factors import Factors
from recsys.results import Objective

K = 10
"""Length of the lists that ranking is measured on."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on the held-out ratings.

    Attributes:
        metric: display name.
        value: the metric over all held-out ratings.
        higher_is_better: whether a higher value is better.
        user_keys: (n,) users it was measured on, ascending.
        user_value: (n,) what each user contributes, in the direction of `value`.
        rating_value: (n_ratings,) squared error or gain of each of `Judge.judged`; empty if slices are not compared.
    """

    metric: str
    value: float
    higher_is_better: bool
    user_keys: NDArray[np.int64]
    user_value: NDArray[np.float64]
    rating_value: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a version may go live, and why.

    Attributes:
        comparison: with the live version; `None` if there was none to compare with, or the baseline was not beaten.
    """

    publish: bool
    reason: str
    comparison: Comparison | None = None


def decide(
    new: Measured,
    baseline: Measured,
    live: Measured | None,
    margin: float,
    known_to_both: NDArray[np.int64] | None,
    *,
    earlier: Sequence[Comparison] = (),
    slices: Sequence[SliceComparison] = (),
) -> Decision:
    """Publish when the new version beats its baseline, and is not worse than the live one by more than the margin.

    For the users that both versions know, with differences d_u = new_u − live_u turned so that more is better,

        lower bound = mean d_u − t · sd(d_u) / √n,   t: 95 % quantile of Student's t

    must lie above −margin · |mean of live_u|. The degrees of freedom are the users with d_u ≠ 0, less one: users for
    whom both versions do the same tell nothing. A version that is worse by exactly the margin passes in at most 5 % of
    the nights. With few users the bound is wide, and a version as good as the live one is refused too: the reason then
    names the smallest loss that can be seen. After `PATIENCE_NIGHTS` such nights in a row, the mean over them decides
    (`passes_after_waiting`).

    Args:
        live: the live version on the same held-out ratings; None where nothing is live.
        margin: as a share of the live version's metric.
        known_to_both: keys of the users that both versions know; None: all.
        earlier: comparisons of earlier nights with the same live version, the latest first.
        slices: the versions on parts of the held-out ratings; one that collapsed blocks the publication.
    """
    sign = 1.0 if new.higher_is_better else -1.0
    against_baseline = f"{new.metric} {new.value:.4f} against the baseline's {baseline.value:.4f}"
    if not sign * (new.value - baseline.value) > 0:
        return Decision(False, f"not better than the baseline: {against_baseline}")
    if live is None:
        return Decision(True, f"the first version of its objective: {against_baseline}")
    shared = np.intersect1d(new.user_keys, live.user_keys)
    if known_to_both is not None:
        shared = np.intersect1d(shared, known_to_both)
    if len(shared) < 2:
        return Decision(True, f"no users to compare with the live version on: {against_baseline}")
    of_live = live.user_value[positions(live.user_keys, shared)]
    difference = sign * (new.user_value[positions(new.user_keys, shared)] - of_live)  # (n shared,)
    comparison = compare(difference, of_live)
    allowed = -margin * comparison.live
    compared = (
        f"{comparison.mean:+.4f} a user against the live version over {len(shared):,} users, "
        f"lower 95 % bound {comparison.bound:+.4f}, allowed {allowed:+.4f}; {against_baseline}"
    )
    collapsed = [each for each in slices if each.collapsed]
    if collapsed:
        worst = ", ".join(
            f"{each.name} {each.new:.4f} against {each.live:.4f} ({each.n_users:,} users)" for each in collapsed
        )
        return Decision(False, f"much worse than the live version on a part: {worst}; {compared}", comparison)
    if comparison.bound > allowed:
        return Decision(True, f"not worse: {compared}", comparison)
    if comparison.visible <= margin or comparison.live == 0:
        return Decision(False, f"worse than allowed: {compared}", comparison)
    power = f"with {len(shared):,} users a loss below {comparison.visible:.1%} cannot be seen"
    waited = undecided(earlier, margin)[: PATIENCE_NIGHTS - 1]
    if len(waited) < PATIENCE_NIGHTS - 1:
        night = f"night {len(waited) + 1} of {PATIENCE_NIGHTS} after which the mean decides"
        return Decision(False, f"not shown to be as good ({power}; {night}): {compared}", comparison)
    nights = (*reversed(waited), comparison)
    means = np.array([each.mean / each.live for each in nights])
    errors = np.array([each.standard_error / each.live for each in nights])
    over = f"{means.mean():+.1%} in the mean of {len(means)} nights"
    if passes_after_waiting(means, errors, margin):
        return Decision(True, f"not worse in the mean ({over}; {power}): {compared}", comparison)
    return Decision(False, f"not shown to be as good in the mean ({over}; {power}): {compared}", comparison)


class Judge:
    """Measures models of one objective on the same held-out ratings.

    Args:
        relevant_from: lowest rating of an item worth listing; None: three quarters up the scale, 4 of 1 to 5.
    """

    def __init__(
        self,
        objective: Objective,
        training_set: Ratings,
        test: Ratings,
        scale: tuple[float, float],
        *,
        k: int = K,
        relevant_from: float | None = None,
    ) -> None:
        self.objective = objective
        self._training_set, self._test, self._scale, self._k = training_set, test, scale, k
        if relevant_from is None:
            relevant_from = relevant_rating(scale)
            if not (test.rating >= relevant_from).any():
                relevant_from = float(test.rating.max())
        self._relevant_from = relevant_from

    def baselines(self, bias: Factors | None = None) -> dict[str, Factors]:
        """Return the most-popular and the bias-only model of the same training set.

        Args:
            bias: the latter, if it is there already.
        """
        scale = usable_scale(self._scale)
        bias = bias or bias_only(self._training_set, scale)
        return {"popular": popular(self._training_set, self.objective, scale), "bias": bias}

    @cached_property
    def judged(self) -> Ratings:
        """The held-out ratings that have a `Measured.rating_value`: the relevant ones for ranking, else all."""
        if self.objective == "rating":
            return self._test
        return self._test.select(self._test.rating >= self._relevant_from)

    def slices(
        self, new: Measured, live: Measured, known_to_both: NDArray[np.int64] | None = None
    ) -> list[SliceComparison]:
        """Compare two versions on parts of the held-out ratings."""
        return compare_slices(
            self.judged,
            slice_masks(self.judged, self._training_set),
            new.rating_value,
            live.rating_value,
            higher_is_better=self.higher_is_better,
            known_to_both=known_to_both,
        )

    @property
    def metric(self) -> str:
        """Name of the main metric, the first one of `measure`."""
        return "rmse" if self.objective == "rating" else "ndcg"

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher main metric is a better one."""
        return self.objective == "ranking"

    def main_metric(self, factors: Factors) -> float:
        """Return the main metric alone."""
        return self.measure(factors)[1][self.metric]

    def measure(self, factors: Factors) -> tuple[Measured, dict[str, float]]:
        """Return the measure that the gate compares, and all metrics by name."""
        if self.objective == "rating":
            error = evaluate_rating(factors, self._test)
            measured = Measured(
                "MSE", error.rmse**2, False, error.user_keys, error.user_squared_error, error.squared_error
            )
            return measured, {"rmse": error.rmse, "mae": error.mae}
        lists = evaluate_ranking(factors, self._training_set, self._test, k=self._k, relevant_from=self._relevant_from)
        measured = Measured(f"NDCG@{self._k}", lists.ndcg, True, lists.user_keys, lists.user_ndcg, lists.gains)
        return measured, {
            "ndcg": lists.ndcg,
            "recall": lists.recall,
            "hit_rate": lists.hit_rate,
            "coverage": lists.coverage,
            "novelty": lists.novelty,
        }


def usable_scale(scale: tuple[float, float]) -> tuple[float, float] | None:
    """Return the scale for training; `None` if all ratings are equal."""
    return scale if scale[0] < scale[1] else None
