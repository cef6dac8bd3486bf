"""A new version beside the live one on the same users: bounds, power, and the rule for shops with few users."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATIENCE_NIGHTS = 7
"""Nights, in a row and without enough power to decide, after which the mean over these nights decides."""

_Z95 = 1.6448536
"""95 % of a standard normal variable lie below it."""


def t95(degrees: NDArray[np.int64] | int) -> NDArray[np.float64]:
    """Return the 95 % quantile of Student's t.

    The expansion of Abramowitz & Stegun, "Handbook of Mathematical Functions", 26.7.5, and exact values where it is
    too coarse.
    """
    z, v = _Z95, np.maximum(np.asarray(degrees, np.float64), 1)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    exact = np.array([6.3138, 2.9200, 2.3534, 2.1318])[np.minimum(v, 4).astype(np.int64) - 1]
    quantile: NDArray[np.float64] = np.where(v <= 4, exact, z + first / v + second / v**2 + third / v**3)
    return quantile


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired differences per user, turned so that more is better.

    Attributes:
        n_users: number of users that both versions know.
        n_changed: number of those for whom the versions differ. Only they tell anything, so they give the degrees of
            freedom: where most users get the same, a bound by all users is too narrow.
        mean: mean difference.
        live: mean value of the live version, as a positive number.
        standard_error: of `mean`.
    """

    n_users: int
    n_changed: int
    mean: float
    live: float
    standard_error: float

    @property
    def bound(self) -> float:
        """The lower 95 % bound of the mean difference: mean − t · standard error."""
        return float(lower_bound(np.float64(self.mean), np.float64(self.standard_error), self.n_changed))

    @property
    def visible(self) -> float:
        """The smallest loss that can be seen, as a share of `live`: below it, a version as good as the live one is
        refused more often than not."""
        return (self.mean - self.bound) / self.live if self.live > 0 else 0.0

    def as_record(self) -> dict[str, Any]:
        """Return the comparison with JSON's types."""
        return {**asdict(self), "bound": self.bound, "visible": self.visible}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Comparison":
        """Return the comparison that `as_record` made JSON of."""
        return cls(**{name.name: record[name.name] for name in fields(cls)})


def compare(difference: NDArray[np.float64], of_live: NDArray[np.float64]) -> Comparison:
    """Compare two versions on the same users.

    Args:
        difference: (n_users,) new − live, turned so that more is better; two users or more.
        of_live: (n_users,) values of the live version.
    """
    mean, standard_error = mean_and_error(difference)
    n_changed = int(np.count_nonzero(difference))
    return Comparison(len(difference), n_changed, float(mean), abs(float(of_live.mean())), float(standard_error))


def mean_and_error(difference: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean over the last axis, and its standard error: sd / √n."""
    n = difference.shape[-1]
    return difference.mean(-1), difference.std(-1, ddof=1) / np.sqrt(n)


def lower_bound(
    mean: NDArray[np.float64] | np.float64,
    standard_error: NDArray[np.float64] | np.float64,
    n_changed: NDArray[np.int64] | int,
) -> NDArray[np.float64]:
    """Return the lower 95 % bound of a mean of which `n_changed` values are not 0."""
    bound: NDArray[np.float64] = mean - t95(n_changed - 1) * standard_error
    return bound


def passes_after_waiting(
    means: NDArray[np.float64], errors: NDArray[np.float64], margin: float
) -> NDArray[np.bool_] | np.bool_:
    """Return whether the newest version is good enough by the rule for shops with few users.

    One night can hardly show the bound there, however good a version is. After several nights without a decision the
    newest version passes if it is not worse in the mean, neither tonight nor over all of these nights, and the lower
    95 % bound of the mean over these nights, x̄ − 1.645 · √(Σ e²) / n, lies above −margin.

    Args:
        means: (…, n_nights) mean differences as shares of the live version's metric, tonight's last.
        errors: (…, n_nights) their standard errors e, as such shares too.
    """
    pooled = np.sqrt((errors**2).sum(-1)) / errors.shape[-1]
    passes: NDArray[np.bool_] | np.bool_ = (
        (means.mean(-1) >= 0) & (means[..., -1] >= 0) & (means.mean(-1) - _Z95 * pooled > -margin)
    )
    return passes


def undecided(earlier: Sequence[Comparison], margin: float) -> list[Comparison]:
    """Return the comparisons of the nights before tonight, without a gap, that could not see a loss of the margin.

    Args:
        earlier: comparisons with the same live version, the latest first.
    """
    found: list[Comparison] = []
    for comparison in earlier:
        if comparison.visible <= margin or comparison.live <= 0:
            break
        found.append(comparison)
    return found
