"""Bins of numbers and their labels: decades of years, single values, and ranges between deciles."""

import numpy as np
from numpy.typing import NDArray

MAX_DISTINCT = 20
"""Numbers with more distinct values are put into bins."""


def bin_numbers(
    kind: str, values: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the bin of each number and the label of each bin.

    Args:
        kind: name of the feature; `year` is binned by decade.
        values: (n,) distinct numbers, ascending.
        counts: (n,) number of occurrences of each.
    """
    if kind == "year":
        decades, bins = np.unique(np.floor(values / 10), return_inverse=True)
        return bins, [f"{number_label(decade * 10)}s" for decade in decades]
    if len(values) <= MAX_DISTINCT:
        return np.arange(len(values)), [number_label(value) for value in values]
    cumulative = np.cumsum(counts)
    edges = np.searchsorted(10 * cumulative, np.arange(1, 10) * cumulative[-1])
    # A value at an edge belongs to the bin below. If many rows have it, two edges coincide.
    _, first, bins = np.unique(np.searchsorted(edges, np.arange(len(values))), return_index=True, return_inverse=True)
    last = np.append(first[1:], len(values)) - 1
    ends = zip(values[first], values[last], strict=True)
    return bins, [
        number_label(low) if low == high else f"{number_label(low)} to {number_label(high)}" for low, high in ends
    ]


def parse_bin(label: str) -> tuple[float, float] | None:
    """Return the lowest and highest number of a label that `bin_numbers` made; `None` if the label is text."""
    low, _, high = label.partition(" to ")
    try:
        return float(low), float(high or low)
    except ValueError:
        return None


def number_label(number: float) -> str:
    """Return a number as text: whole numbers without a fraction, others to the last digit."""
    return str(int(number)) if float(number).is_integer() else repr(float(number))
