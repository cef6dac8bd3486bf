"""What is known of users and items beside their ratings, as features to train with."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.data.keyed import positions
from recsys.data.rows import ItemRow, UserRow

MIN_ROWS = 5
"""A feature of fewer rows says nothing of others."""
MAX_FEATURES_PER_KIND = 1000
MAX_DISTINCT = 20
"""Numbers of more distinct values are put into bins."""
_VALUES = (str, int, float)


@dataclass(frozen=True, slots=True)
class Features:
    """What is known of users or items beside their ratings, as a sparse matrix of ones and zeros.

    Attributes:
        keys: (n_rows,) int64, ascending: the database keys of the rows, as `Ratings.user_keys` and `item_keys`.
        starts: (n_rows + 1,) int64, and
        idx: (n_values,) int32: the features of row `r` are `idx[starts[r]:starts[r + 1]]`, ascending.
        names: one for each feature, such as `category: Comedy`, `year: 1990s` or `age: 24 to 29`.
    """

    keys: NDArray[np.int64]
    starts: NDArray[np.int64]
    idx: NDArray[np.int32]
    names: tuple[str, ...]

    @property
    def n_rows(self) -> int:
        return len(self.keys)

    @property
    def n_features(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """A short digest of what is known of whom."""
        digest = blake2b("\0".join(self.names).encode(), digest_size=8)
        for array in (self.keys, self.starts, self.idx):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def of(self, keys: NDArray[np.int64]) -> "Features":
        """The rows of these keys, over the same features; a key that is not known has none.

        Args:
            keys: (n,) int64, ascending.

        Raises:
            ValueError: the keys are not ascending.
        """
        if (np.diff(keys) <= 0).any():
            raise ValueError("keys are not ascending: expected those of Ratings, or sort them")
        place = positions(self.keys, keys)
        n_values = np.append(np.diff(self.starts), 0)[place]
        starts = _starts(n_values)
        # The values of a row lie as far from where the row began as before.
        source = np.repeat(self.starts[place] - starts[:-1], n_values) + np.arange(starts[-1])
        return Features(np.asarray(keys, np.int64), starts, self.idx[source], self.names)


def features(
    keys: ArrayLike,
    categories: Sequence[Sequence[str]],
    attributes: Sequence[Mapping[str, object]],
    *,
    min_rows: int = MIN_ROWS,
) -> Features:
    """Features of rows, whatever their order.

    One for each category, each member of a list and each value of text, truth or number. Years go by decade. Numbers
    of more than `MAX_DISTINCT` values go into bins between deciles, named after the smallest and the largest value
    in them. What fewer than `min_rows` rows have, or all of them, is left out, and so is what is rare where a kind
    has more than `MAX_FEATURES_PER_KIND`.

    Args:
        keys: (n_rows,) distinct integers.
        categories, attributes: (n_rows,) of the same rows.
        min_rows: how many rows a feature must have at least.
    """
    given = np.asarray(keys, np.int64)
    order = np.argsort(given)
    names: list[str] = []
    rows, idx = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    by_kind = _values_by_kind([categories[i] for i in order], [attributes[i] for i in order])
    for kind, (having, values) in sorted(by_kind.items()):
        of_rows, codes, labels = _kept(*_labelled(kind, having, values), len(given), min_rows)
        rows.append(of_rows)
        idx.append(codes + len(names))
        names += [f"{kind}: {label}" for label in labels]
    row, feature = np.concatenate(rows), np.concatenate(idx)
    ordered = np.lexsort((feature, row))
    starts = _starts(np.bincount(row, minlength=len(given)))
    return Features(given[order], starts, feature[ordered].astype(np.int32), tuple(names))


def features_of_rows(
    rows: Sequence[ItemRow] | Sequence[UserRow], position: Mapping[str, int], *, min_rows: int = MIN_ROWS
) -> Features:
    """Features of what a file says, without a database: positions take the place of keys.

    Args:
        position: external id → place in the order in which the ids appeared; rows without one are left out.
    """
    by_position: dict[int, ItemRow | UserRow] = {}
    for row in rows:
        external_id = row.item_id if isinstance(row, ItemRow) else row.user_id
        if external_id in position:
            by_position[position[external_id]] = row
    known = by_position.values()
    return features(
        list(by_position), [row.categories for row in known], [row.attributes for row in known], min_rows=min_rows
    )


def matching(names: Sequence[str], categories: Sequence[str], attributes: Mapping[str, object]) -> NDArray[np.int64]:
    """Positions, ascending, of the features in `names` that one row has: what a version calls them, of a row that came
    after its training. A number between two bins has none."""
    place = {name: i for i, name in enumerate(names)}
    found: set[int | None] = set()
    for kind, (_, values) in _values_by_kind([categories], [attributes]).items():
        for value in values:
            if isinstance(value, str):
                found.add(place.get(f"{kind}: {value}"))
            elif kind == "year":
                found.add(place.get(f"{kind}: {_shown(value // 10 * 10)}s"))
            else:
                ranges = [
                    (_range(name[len(kind) + 2 :]), i) for name, i in place.items() if name.startswith(f"{kind}: ")
                ]
                found.update(i for bounds, i in ranges if bounds and bounds[0] <= value <= bounds[1])
    return np.array(sorted(i for i in found if i is not None), np.int64)


def _range(label: str) -> tuple[float, float] | None:
    """The numbers that a label stands for, as `_bins` names them; None where it is text."""
    low, _, high = label.partition(" to ")
    try:
        return float(low), float(high or low)
    except ValueError:
        return None


def _starts(n_values: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.zeros(len(n_values) + 1, np.int64)
    np.cumsum(n_values, out=starts[1:])
    return starts


def _values_by_kind(
    categories: Iterable[Sequence[str]], attributes: Iterable[Mapping[str, object]]
) -> dict[str, tuple[list[int], list[str | float]]]:
    """Kind → rows and their values, text or numbers; a row may have several."""
    found: dict[str, tuple[list[int], list[str | float]]] = defaultdict(lambda: ([], []))
    for row, names in enumerate(categories):
        rows, values = found["category"]
        rows += [row] * len(names)
        values += names
    for row, described in enumerate(attributes):
        for kind, given in described.items():
            rows, values = found[kind]
            for value in given if isinstance(given, list | tuple) else (given,):
                if isinstance(value, bool):
                    values.append("true" if value else "false")
                elif isinstance(value, _VALUES):
                    values.append(value)
                else:
                    continue
                rows.append(row)
    return found


def _labelled(
    kind: str, rows: Sequence[int], values: Sequence[str | float]
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Rows, the position of each one's label, and the labels: those of numbers ascending, then text."""
    code_of: dict[str | float, int] = {}
    codes = np.array([code_of.setdefault(value, len(code_of)) for value in values], np.int64)
    # Neither a NaN, nor an integer that no float can hold.
    numbers = sorted(value for value in code_of if not isinstance(value, str) and abs(value) <= sys.float_info.max)
    texts = sorted(value for value in code_of if isinstance(value, str))
    counts = np.bincount(codes, minlength=len(code_of))[[code_of[number] for number in numbers]]
    bins, bin_labels = _bins(kind, np.array(numbers, np.float64), counts)
    labels = list(dict.fromkeys([*bin_labels, *texts]))
    place = {label: i for i, label in enumerate(labels)}
    label_of = np.full(len(code_of), -1)
    for number, position in zip(numbers, bins.tolist(), strict=True):
        label_of[code_of[number]] = place[bin_labels[position]]
    for text in texts:
        label_of[code_of[text]] = place[text]
    label = label_of[codes]
    return np.array(rows, np.int64)[label >= 0], label[label >= 0], labels


def _bins(kind: str, values: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
    """The bin of each of some ascending distinct numbers, and the names of the bins.

    Args:
        counts: how often each number is there.
    """
    if kind == "year":
        decades, bins = np.unique(np.floor(values / 10), return_inverse=True)
        return bins, [f"{_shown(decade * 10)}s" for decade in decades]
    if len(values) <= MAX_DISTINCT:
        return np.arange(len(values)), [_shown(value) for value in values]
    up_to = np.cumsum(counts)
    edges = np.searchsorted(10 * up_to, np.arange(1, 10) * up_to[-1])
    # The value at an edge lies below it; where many rows have it, two edges fall together.
    _, first, bins = np.unique(np.searchsorted(edges, np.arange(len(values))), return_index=True, return_inverse=True)
    last = np.append(first[1:], len(values)) - 1
    ranges = zip(values[first], values[last], strict=True)
    return bins, [_shown(low) if low == high else f"{_shown(low)} to {_shown(high)}" for low, high in ranges]


def _shown(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def _kept(
    rows: NDArray[np.int64], codes: NDArray[np.int64], labels: Sequence[str], n_rows: int, min_rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """The same without what a row has twice, and without labels that too few rows have, or all."""
    pairs = np.unique(rows * max(len(labels), 1) + codes)
    rows, codes = np.divmod(pairs, max(len(labels), 1))
    counts = np.bincount(codes, minlength=len(labels))
    good = np.flatnonzero((counts >= min_rows) & (counts < n_rows))
    # Of equally many rows the first label stays.
    good = np.sort(good[np.argsort(-counts[good], kind="stable")][:MAX_FEATURES_PER_KIND])
    place = positions(good, codes)
    is_kept = place >= 0
    return rows[is_kept], place[is_kept], [labels[i] for i in good.tolist()]
