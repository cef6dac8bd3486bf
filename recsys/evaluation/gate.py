"""The publish gate: models measured on the same held-out ratings, and whether a new one may go live."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.keyed import positions
from recsys.evaluation.baselines import bias_only, popular
from recsys.evaluation.metrics import evaluate_ranking, evaluate_rating
from recsys.factors import Factors
from recsys.results import Objective

K = 10
"""Length of the lists that ranking is measured on."""

_ONE_SIDED_95 = 1.645
"""The 5 % quantile of the normal distribution lies this many standard errors below the mean."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on the held-out ratings.

    Attributes:
        metric: display name.
        value: the metric over all held-out ratings.
        higher_is_better: whether a higher value is better.
        user_keys: (n,) users it was measured on, ascending.
        user_value: (n,) what each user contributes, in the direction of `value`.
    """

    metric: str
    value: float
    higher_is_better: bool
    user_keys: NDArray[np.int64]
    user_value: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decision:
    publish: bool
    reason: str


def decide(
    new: Measured, baseline: Measured, live: Measured | None, margin: float, known_to_both: NDArray[np.int64] | None
) -> Decision:
    """Publish when the new version beats its baseline, and is not worse than the live one by more than the margin.

    For the users that both versions know, with differences d_u = new_u − live_u turned so that more is better,

        lower bound = mean d_u − 1.645 · sd(d_u) / √n

    must lie above −margin · |mean of live_u|.

    Args:
        live: the live version on the same held-out ratings; None where nothing is live.
        margin: as a share of the live version's metric.
        known_to_both: keys of the users that both versions know; None: all.
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
    mean = float(difference.mean())
    bound = mean - _ONE_SIDED_95 * float(difference.std(ddof=1)) / float(np.sqrt(len(shared)))
    allowed = -margin * abs(float(of_live.mean()))
    compared = (
        f"{mean:+.4f} a user against the live version over {len(shared):,} users, "
        f"lower 95 % bound {bound:+.4f}, allowed {allowed:+.4f}; {against_baseline}"
    )
    if bound > allowed:
        return Decision(True, f"not worse: {compared}")
    return Decision(False, f"not shown to be as good: {compared}")


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
            relevant_from = scale[0] + 0.75 * (scale[1] - scale[0])
            if not (test.rating >= relevant_from).any():
                relevant_from = float(test.rating.max())
        self._relevant_from = relevant_from

    def baselines(self) -> dict[str, Factors]:
        """Return the most-popular and the bias-only model of the same training set."""
        scale = usable_scale(self._scale)
        bias = bias_only(self._training_set, scale)
        return {"popular": popular(self._training_set, self.objective, scale), "bias": bias}

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
            measured = Measured("MSE", error.rmse**2, False, error.user_keys, error.user_squared_error)
            return measured, {"rmse": error.rmse, "mae": error.mae}
        lists = evaluate_ranking(factors, self._training_set, self._test, k=self._k, relevant_from=self._relevant_from)
        measured = Measured(f"NDCG@{self._k}", lists.ndcg, True, lists.user_keys, lists.user_ndcg)
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
