"""The publish gate: whether a new version may take the place of the live one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import positions

_ONE_SIDED_95 = 1.645
"""The 5 % quantile of the normal distribution lies this many standard errors below the mean."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on the held-out ratings.

    Attributes:
        metric: name, for people.
        value: the metric over all held-out ratings.
        higher_is_better: whether more of it is.
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
