"""Features of users and items: categories and attributes as a sparse matrix to train with."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.data.bins import bin_numbers, number_label, parse_bin
from recsys.data.keyed import positions
from recsys.data.rows import ItemRow, UserRow

MIN_ROWS = 5
"""Least number of rows with a feature: a rarer one carries no information about other rows."""
MAX_FEATURES_PER_KIND = 1000


@dataclass(frozen=True, slots=True)
class Features:
    """Features of users or items as a sparse matrix of ones and zeros.

    Attributes:
        keys: (n_rows,) int64, ascending: the database keys of the rows, as in `Ratings.user_keys` and `item_keys`.
        starts: (n_rows + 1,) int64: the features of row `r` are `idx[starts[r]:starts[r + 1]]`.
        idx: (n_values,) int32: positions in `names`, ascending within a row.
        names: (n_features,) such as `category: Comedy`, `year: 1990s` or `age: 24 to 29`.
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
        """Return a short digest of the keys and their features."""
        digest = blake2b("\0".join(self.names).encode(), digest_size=8)
        for array in (self.keys, self.starts, self.idx):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def of(self, keys: NDArray[np.int64]) -> "Features":
        """Return the rows of these keys over the same features; an unknown key has no features.

        Args:
            keys: (n,) int64, ascending.

        Raises:
            ValueError: the keys are not ascending.
        """
        if (np.diff(keys) <= 0).any():
            raise ValueError("keys are not ascending: expected the keys of Ratings; sort them first")
        row = positions(self.keys, keys)
        n_values = np.append(np.diff(self.starts), 0)[row]  # an unknown key, −1, takes the appended 0
        starts = np.append(0, np.cumsum(n_values))
        # Each value keeps its distance from the start of its row.
        source = np.repeat(self.starts[row] - starts[:-1], n_values) + np.arange(starts[-1])
        return Features(np.asarray(keys, np.int64), starts, self.idx[source], self.names)


def build_features(
    keys: ArrayLike,
    categories: Sequence[Sequence[str]],
    attributes: Sequence[Mapping[str, object]],
    *,
    min_rows: int = MIN_ROWS,
) -> Features:
    """Build features of rows; the order of the rows does not matter.

    There is one feature for each category, each member of a list, and each text, truth value or number. Years go by
    decade. Numbers with more than `MAX_DISTINCT` values go into bins between deciles, named after the smallest and
    the largest value in them. A feature of fewer than `min_rows` rows, or of all rows, is left out; so are the
    rarest features of a kind with more than `MAX_FEATURES_PER_KIND`.

    Args:
        keys: (n_rows,) distinct integers.
        categories, attributes: (n_rows,) of the same rows.
        min_rows: least number of rows that must have a feature.
    """
    given = np.asarray(keys, np.int64)
    order = np.argsort(given)
    names: list[str] = []
    rows, idx = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    by_kind = values_by_kind([categories[i] for i in order], [attributes[i] for i in order])
    for kind, (row_of_value, values) in sorted(by_kind.items()):
        kind_rows, codes, labels = label_values(kind, row_of_value, values).frequent(len(given), min_rows)
        rows.append(kind_rows)
        idx.append(codes + len(names))
        names += [f"{kind}: {label}" for label in labels]
    row, feature = np.concatenate(rows), np.concatenate(idx)
    ordered = np.lexsort((feature, row))
    starts = np.append(0, np.cumsum(np.bincount(row, minlength=len(given))))
    return Features(given[order], starts, feature[ordered].astype(np.int32), tuple(names))


def build_features_of_rows(
    rows: Sequence[ItemRow] | Sequence[UserRow], position: Mapping[str, int], *, min_rows: int = MIN_ROWS
) -> Features:
    """Build features of the rows of a file without a database: positions stand in for keys.

    Args:
        position: external id → position in the order in which the ids appeared. Rows of other ids are left out.
    """
    by_position: dict[int, ItemRow | UserRow] = {}
    for row in rows:
        external_id = row.item_id if isinstance(row, ItemRow) else row.user_id
        if external_id in position:
            by_position[position[external_id]] = row
    found = by_position.values()
    return build_features(
        list(by_position), [row.categories for row in found], [row.attributes for row in found], min_rows=min_rows
    )


def match_features(
    names: Sequence[str], categories: Sequence[str], attributes: Mapping[str, object]
) -> NDArray[np.int64]:
    """Return the positions in `names`, ascending, of the features that one row has.

    `names` are the features of a model version and the row is newer than its training. A number between two bins
    has no feature.
    """
    position = {name: i for i, name in enumerate(names)}
    found: set[int | None] = set()
    for kind, (_, values) in values_by_kind([categories], [attributes]).items():
        for value in values:
            if isinstance(value, str):
                found.add(position.get(f"{kind}: {value}"))
            elif kind == "year":
                found.add(position.get(f"{kind}: {number_label(value // 10 * 10)}s"))
            else:
                bins = [
                    (parse_bin(name[len(kind) + 2 :]), i)
                    for name, i in position.items()
                    if name.startswith(f"{kind}: ")
                ]
                found.update(i for ends, i in bins if ends and ends[0] <= value <= ends[1])
    return np.array(sorted(i for i in found if i is not None), np.int64)


def values_by_kind(
    categories: Iterable[Sequence[str]], attributes: Iterable[Mapping[str, object]]
) -> dict[str, tuple[list[int], list[str | float]]]:
    """Return kind → rows and their values, text or numbers; a row may have several values of a kind."""
    found: dict[str, tuple[list[int], list[str | float]]] = defaultdict(lambda: ([], []))
    for row, names in enumerate(categories):
        rows, values = found["category"]
        rows += [row] * len(names)
        values += names
    for row, row_attributes in enumerate(attributes):
        for kind, given in row_attributes.items():
            rows, values = found[kind]
            for value in given if isinstance(given, list | tuple) else (given,):
                if isinstance(value, bool):
                    values.append("true" if value else "false")
                elif isinstance(value, str | int | float):
                    values.append(value)
                else:
                    continue
                rows.append(row)
    return found


@dataclass(frozen=True, slots=True)
class LabelledValues:
    """Values of one kind with their labels.

    Attributes:
        rows: (n_values,) the row of each value.
        codes: (n_values,) the position of each value's label in `labels`.
        labels: labels of numbers in ascending order, then of text.
    """

    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    labels: Sequence[str]

    def frequent(self, n_rows: int, min_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
        """Return rows, codes and labels: each pair once, without labels of fewer than `min_rows` rows or of all."""
        n_labels = max(len(self.labels), 1)
        rows, codes = np.divmod(np.unique(self.rows * n_labels + self.codes), n_labels)
        counts = np.bincount(codes, minlength=len(self.labels))
        good = np.flatnonzero((counts >= min_rows) & (counts < n_rows))
        # Among labels of equally many rows, the first ones stay.
        good = np.sort(good[np.argsort(-counts[good], kind="stable")][:MAX_FEATURES_PER_KIND])
        code = positions(good, codes)
        is_kept = code >= 0
        return rows[is_kept], code[is_kept], [self.labels[i] for i in good.tolist()]


def label_values(kind: str, rows: Sequence[int], values: Sequence[str | float]) -> LabelledValues:
    """Label the values of one kind: bins for numbers, the text itself for text."""
    code_of: dict[str | float, int] = {}
    codes = np.array([code_of.setdefault(value, len(code_of)) for value in values], np.int64)
    # Without NaN, and without integers beyond the range of a float.
    numbers = sorted(value for value in code_of if not isinstance(value, str) and abs(value) <= sys.float_info.max)
    texts = sorted(value for value in code_of if isinstance(value, str))
    counts = np.bincount(codes, minlength=len(code_of))[[code_of[number] for number in numbers]]
    bins, bin_labels = bin_numbers(kind, np.array(numbers, np.float64), counts)
    labels = list(dict.fromkeys([*bin_labels, *texts]))
    label_position = {label: i for i, label in enumerate(labels)}
    label_of_code = np.full(len(code_of), -1)
    for number, bin_position in zip(numbers, bins.tolist(), strict=True):
        label_of_code[code_of[number]] = label_position[bin_labels[bin_position]]
    for text in texts:
        label_of_code[code_of[text]] = label_position[text]
    label = label_of_code[codes]
    return LabelledValues(np.array(rows, np.int64)[label >= 0], label[label >= 0], labels)
