"""Names, directions and formats of the measures of a model."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan


@dataclass(frozen=True, slots=True)
class Measure:
    """Display name of a metric, and which direction is better.

    Attributes:
        name: for example `NDCG@10`.
        higher_is_better: None if neither direction is better.
    """

    name: str
    higher_is_better: bool | None

    @property
    def hint(self) -> str:
        """Which direction is better, in words; empty if neither is."""
        return {True: "higher is better", False: "lower is better", None: ""}[self.higher_is_better]

    def best(self, values: Iterable[float]) -> float | None:
        """Return the best of some values, or None without a value or a better direction; NaN is no value."""
        known = [value for value in values if not isnan(value)]
        if self.higher_is_better is None or not known:
            return None
        return max(known) if self.higher_is_better else min(known)


MEASURES = {
    "rmse": Measure("RMSE", False),
    "mae": Measure("MAE", False),
    "ndcg": Measure("NDCG", True),
    "recall": Measure("Recall", True),
    "hit_rate": Measure("Hit rate", True),
    "coverage": Measure("Coverage", None),
    "novelty": Measure("Novelty", None),
}
BASELINES = {"popular": "Most popular", "bias": "Bias only"}


def measure_of(key: str) -> Measure:
    """Return the measure that a model version records as `key`, for example `ndcg@10`; any other key names itself."""
    stem, at, k = key.partition("@")
    known = MEASURES.get(stem, Measure(as_words(stem), None))
    return Measure(known.name + at + k, known.higher_is_better)


def as_words(key: str) -> str:
    """Return a key as words: `train_loss` → `Train loss`."""
    return key.replace("_", " ").capitalize()


def format_value(value: float) -> str:
    """Return a value of a measure with four digits; a dash for NaN."""
    if isnan(value):
        return "–"
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.4g}"


def format_setting(value: object) -> str:
    """Return a value of a training's configuration as text; a dash for None and for an empty list."""
    if isinstance(value, list | tuple):
        return ", ".join(format_setting(part) for part in value) or "–"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
