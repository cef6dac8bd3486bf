"""Weights between items in closed form: the ridge regression of every item on all others, without itself.

For the columns x_i of X (n_users, n_items) the weights B with a zero diagonal that minimise

    Σ_i ‖x_i − X B_i‖² + Σ_j Λ_j B_ji²

follow from one inverse, P = (XᵀX + diag Λ)⁻¹:

    B_ji = −P_ji / P_ii

Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019. Λ_j = λ + d · ‖x_j‖² is the penalty of dropout
in the input: Steck, "Autoencoders that don't overfit towards the Identity", NeurIPS 2020.

A catalogue that is too large for one inverse is solved exactly from an inverse of the size of the users, if these are
few, and otherwise in parts: a part of the items is solved together with the items that are rated with them most.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import blas, lapack

from recsys.data.keyed import evenly
from recsys.factors import ItemWeights

F32 = NDArray[np.float32]

MAX_INVERSE = 8192
"""Largest matrix that is inverted: 256 MiB, and about 10 seconds of two cores."""
_PART, UNIVERSE, _HEAD = 1024, 4096, 2048
"""Items that are solved together, items that they are solved among, and the most rated items that are always among
these, so that XᵀX of them, the dearest part, is computed once."""
_SHARED = 128
"""Items whose common users with all others are counted at a time."""
COLUMNS = 512
"""Columns that are solved at once from the inverse of the size of the users."""
_ROWS = 2048
"""Users whose rows are dense at once."""
_SPARSE_COST = 400.0
"""How many multiplications of dense matrices take as long as one of sparse ones."""
_FEWEST = 10
"""Weights that each item keeps in its column, if it has so many, however small they are."""
_DIRECTIONS, _ROUNDS = 16, 3
"""Directions of the projection that items are sorted into parts by, and rounds of its power iteration."""


class Columns(NamedTuple):
    """Some columns of B, zero on the diagonal.

    Attributes:
        rows: (n_rows,) items of the rows; all others are zero.
        columns: (n_columns,) items of the columns.
        values: (n_rows, n_columns).
        variance: (n_columns,) 1 / P_ii: the squared error of each column and its penalty, Λ_i included.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: F32
    variance: F32


class Kept:
    """The largest weights of all columns, within a budget of them.

    Args:
        budget: number of weights to keep; the largest ones in all, and of each column the `_FEWEST` largest.
    """

    def __init__(self, budget: int) -> None:
        self._budget, self._least = budget, np.float32(0)
        self._parts: list[tuple[NDArray[np.int32], NDArray[np.int32], F32]] = []
        self._firm: list[tuple[NDArray[np.int32], NDArray[np.int32], F32]] = []
        self._n = 0

    def add(self, solved: Columns) -> None:
        """Add columns, and drop what is no longer among the largest."""
        size = np.abs(solved.values)  # (n_rows, n_columns)
        n_rows = len(solved.rows)
        nth = np.zeros(size.shape[1], np.float32)
        if n_rows > _FEWEST:
            nth = np.partition(size, n_rows - _FEWEST, axis=0)[n_rows - _FEWEST]
        is_firm = (size >= nth) & (size > 0)
        is_large = (size > self._least) & ~is_firm
        for mask, into in ((is_firm, self._firm), (is_large, self._parts)):
            row, column = np.nonzero(mask)
            into.append(
                (
                    solved.rows[row].astype(np.int32),
                    solved.columns[column].astype(np.int32),
                    solved.values[row, column],
                )
            )
        self._n += int(is_large.sum())
        if self._n > 2 * self._budget:
            self._prune()

    def weights(self, n_items: int) -> ItemWeights:
        """Return the kept weights."""
        self._prune()
        row, column, values = (
            np.concatenate([part[at] for part in (*self._firm, *self._parts)] or [np.empty(0, np.float32)])
            for at in range(3)
        )
        return ItemWeights.from_entries(row.astype(np.int64), column.astype(np.int64), values, n_items)

    def _prune(self) -> None:
        room = max(self._budget - sum(len(values) for _, _, values in self._firm), 0)
        if self._n <= room or not self._parts:
            return
        row, column, values = (np.concatenate([part[at] for part in self._parts]) for at in range(3))
        size = np.abs(values)
        if room:
            self._least = np.partition(size, len(size) - room)[len(size) - room]
        kept = size >= self._least if room else np.zeros(len(size), bool)
        self._parts = [(row[kept], column[kept], values[kept])]
        self._n = int(kept.sum())


def squares_of(X: sparse.csr_array) -> F32:
    """Return ‖x_j‖² of each column: (n_users, n_items) → (n_items,)."""
    squares: F32 = np.asarray(X.multiply(X).sum(0)).ravel().astype(np.float32)
    return squares


def penalties(squares: F32, l2: float, dropout: float) -> F32:
    """Return Λ of each item: λ + d / (1 − d) · ‖x_j‖², (n_items,)."""
    penalty: F32 = (l2 + dropout / (1 - dropout) * squares).astype(np.float32)
    return penalty


def solve_weights(
    X: sparse.csr_array, penalty: F32, budget: int, scale: F32 | None = None
) -> tuple[ItemWeights, float]:
    """Return the largest weights between items, and the mean of the squared errors of all items.

    Args:
        X: (n_users, n_items) float32: how much each user has of each item.
        penalty: (n_items,) Λ, above 0.
        budget: number of weights to keep.
        scale: (n_items,) what the columns are multiplied by; `None`: 1.
    """
    kept = Kept(budget)
    squared_error = 0.0
    for solved in solve_columns(X, penalty):
        kept.add(solved if scale is None else solved._replace(values=solved.values * scale[solved.columns]))
        squared_error += float((solved.variance - penalty[solved.columns]).sum(dtype=np.float64))
    return kept.weights(X.shape[1]), max(squared_error, 0.0) / max(X.shape[0] * X.shape[1], 1)


def solve_columns(X: sparse.csr_array, penalty: F32) -> Iterator[Columns]:
    """Solve the columns of B, in parts that fit into memory. See `solve_weights`."""
    n_users, n_items = X.shape
    if n_items <= MAX_INVERSE:
        every = np.arange(n_items)
        yield from solve_among(X, penalty, every, every)
    elif n_users <= MAX_INVERSE:
        yield from solve_by_users(X, penalty)
    else:
        for among in solved_parts(X, penalty):
            yield from columns_of_part(among, penalty[among.items])


class Among(NamedTuple):
    """A part of the items, and those that it is solved among.

    Attributes:
        gram: (n, n) XᵀX of `items`, by column, of which only the lower half is right if `part` is all of them.
        items: (n,) ascending.
        part: (n_part,) those of `items` whose columns are solved, ascending.
    """

    gram: F32
    items: NDArray[np.int64]
    part: NDArray[np.int64]


def solved_parts(X: sparse.csr_array, penalty: F32, most: int | None = None) -> Iterator[Among]:
    """Cut the items into parts, and return what each is solved among.

    Args:
        most: return about as many parts, spread over all of them; `None`: all.
    """
    by_column, by_item = X.tocsc(), X.T.tocsr()
    squares = squares_of(X)
    head = np.sort(np.argpartition(-squares, _HEAD)[:_HEAD])
    of_head = gram(by_column[:, head].tocsr())
    of_head = np.tril(of_head) + np.tril(of_head, -1).T
    parts = sorted_parts(X, _PART)
    if most is not None:
        parts = [parts[at] for at in evenly(len(parts), most).tolist()]
    for part in parts:
        items = universe_of(by_column, by_item, penalty + squares, part, head, UNIVERSE)
        yield Among(gram_beside(by_column, items, head, of_head), items, part)


def solve_among(
    X: sparse.csr_array, penalty: F32, items: NDArray[np.int64], wanted: NDArray[np.int64]
) -> Iterator[Columns]:
    """Solve columns of B among some items: the weights of all others are zero.

    Args:
        X: (n_users, n) the columns of `items`.
        penalty: (n,) theirs.
        items: (n,) ascending.
        wanted: (n_wanted,) those of `items` whose columns are returned, ascending.
    """
    yield from columns_of(gram(X), penalty, items, wanted)


def gram_beside(by_column: sparse.csc_array, items: NDArray[np.int64], head: NDArray[np.int64], of_head: F32) -> F32:
    """Return `gram` of some items, of which it is known for the head: (n, n).

    Args:
        items: (n,) ascending.
        head: (n_head,) some of them, ascending.
        of_head: (n_head, n_head) theirs.
    """
    A = np.empty((len(items), len(items)), np.float32, order="F")
    place = np.searchsorted(items, head)
    A[np.ix_(place, place)] = of_head
    others = np.setdiff1d(np.arange(len(items)), place)
    beside = (by_column[:, items[others]].T.tocsr() @ by_column[:, items].tocsr()).toarray()  # (n_others, n)
    A[others] = beside
    A[:, others] = beside.T
    return A


def columns_of(A: F32, penalty: F32, items: NDArray[np.int64], wanted: NDArray[np.int64]) -> Iterator[Columns]:
    """Solve columns of B from XᵀX as `gram` returns it, which is overwritten. See `solve_among`."""
    A[np.diag_indices(len(A))] += penalty
    P = inverse(A)
    place = np.searchsorted(items, wanted)
    for start in range(0, len(wanted), COLUMNS):
        at = place[start : start + COLUMNS]
        variance = (1 / P[at, at]).astype(np.float32, copy=False)
        values = (P[:, at] * -variance).astype(np.float32, copy=False)
        values[at, np.arange(len(at))] = 0
        yield Columns(items, items[at], values, variance)


def columns_of_part(among: Among, penalty: F32) -> Iterator[Columns]:
    """Solve the columns of a part, which takes half the time of a whole inverse.

    With the part last, and L the Cholesky factor of XᵀX + diag Λ in blocks, the last columns of the inverse are

        P₂₂ = L₂₂⁻ᵀ L₂₂⁻¹,   P₁₂ = −L₁₁⁻ᵀ L₂₁ᵀ P₂₂

    Args:
        penalty: (n,) Λ of `among.items`.
    """
    n, n_part = len(among.items), len(among.part)
    if n == n_part:
        yield from columns_of(among.gram.copy(order="F"), penalty, among.items, among.part)
        return
    place = np.searchsorted(among.items, among.part)
    order = np.concatenate([np.setdiff1d(np.arange(n), place), place])
    A = among.gram.T[np.ix_(order, order)].T  # by column
    A[np.diag_indices(n)] += penalty[order]
    L = cholesky(A)
    m = n - n_part
    below, failed = lapack.strtri(L[m:, m:], lower=1)
    assert not failed  # of a Cholesky factor
    below = np.tril(below)
    inner: F32 = below.T @ below  # P₂₂
    beside = blas.strsm(-1.0, L[:m, :m], L[m:, :m].T @ inner, lower=1, trans_a=1)  # P₁₂
    P = np.concatenate([beside, inner])  # (n, n_part)
    at = np.arange(n_part)
    variance = (1 / P[m + at, at]).astype(np.float32)
    values = (P * -variance).astype(np.float32)
    values[m + at, at] = 0
    yield Columns(among.items, among.part, values[np.argsort(order)], variance)


def gram(X: sparse.csr_array) -> F32:
    """Return the lower half of XᵀX as a dense matrix by column: (n_users, n) → (n, n)."""
    n_users, n = X.shape
    per_user = np.diff(X.indptr).astype(np.float64)
    if float((per_user**2).sum()) * _SPARSE_COST < float(n_users) * n * n:
        return np.asfortranarray((X.T @ X).toarray(), np.float32)
    total = np.zeros((n, n), np.float32, order="F")
    for start in range(0, n_users, _ROWS):
        rows = X[start : start + _ROWS].toarray()
        total = blas.ssyrk(1.0, rows, beta=1.0, c=total, trans=1, lower=1, overwrite_c=1)
    return total


def solve_by_users(X: sparse.csr_array, penalty: F32) -> Iterator[Columns]:
    """Solve all columns of B from an inverse of the size of the users.

    With Y = X Λ^−1/2 it is P = Λ^−1/2 (1 − Yᵀ (1 + Y Yᵀ)⁻¹ Y) Λ^−1/2.
    """
    n_users, n_items = X.shape
    root = np.sqrt(penalty)
    Y = sparse.csr_array(X.multiply(1 / root[None, :]), dtype=np.float32)
    K = np.asfortranarray((Y @ Y.T).toarray(), np.float32)
    K[np.diag_indices(n_users)] += 1
    K = inverse(K)
    by_column, by_item = Y.tocsc(), Y.T.tocsr()
    every = np.arange(n_items)
    for start in range(0, n_items, COLUMNS):
        columns = every[start : start + COLUMNS]
        inner = (by_column[:, columns].T.tocsr() @ K).T  # (n_users, n_columns): K is symmetric
        product = by_item @ np.ascontiguousarray(inner)  # (n_items, n_columns)
        at = np.arange(len(columns))
        own = np.maximum(1 - product[columns, at], 1e-6)  # P_ii Λ_i
        values = product * (root[columns] / own) / root[:, None]
        values[columns, at] = 0
        yield Columns(every, columns, values.astype(np.float32), (penalty[columns] / own).astype(np.float32))


def inverse(A: F32) -> F32:
    """Return the inverse of a positive definite matrix.

    Args:
        A: (n, n) by column, of which the lower half is read; it is overwritten.
    """
    lower = cholesky(A)
    P, _ = lapack.spotri(lower, lower=1, overwrite_c=1)
    for start in range(0, len(P), COLUMNS):  # only the lower half was computed
        stop = min(start + COLUMNS, len(P))
        block = P[start:stop, start:stop]
        P[start:stop, start:stop] = np.tril(block) + np.tril(block, -1).T
        P[start:stop, stop:] = P[stop:, start:stop].T
    inverted: F32 = P
    return inverted


def cholesky(A: F32) -> F32:
    """Return the lower Cholesky factor of a positive definite matrix by column, (n, n); it is overwritten."""
    lower: F32
    lower, failed = lapack.spotrf(A, lower=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError("the matrix of the items is not positive definite: use a larger item_l2")
    return lower


def universe_of(
    by_column: sparse.csc_array,
    by_item: sparse.csr_array,
    scale: F32,
    part: NDArray[np.int64],
    head: NDArray[np.int64],
    size: int,
) -> NDArray[np.int64]:
    """Return the items that a part is solved among, ascending: its own, the head, and those rated with its own most.

    Items are ordered by Σ_i G_ji² / ((G_jj + Λ_j) (G_ii + Λ_i)), the sum over the part of the squared correlations.

    Args:
        by_column, by_item: X (n_users, n_items), and its transpose by row.
        scale: (n_items,) G_ii + Λ_i.
    """
    score = np.zeros(len(scale))
    for start in range(0, len(part), _SHARED):
        some = part[start : start + _SHARED]
        rated_with = by_item @ by_column[:, some].tocsr()  # (n_items, n_some)
        rated_with.data **= 2
        score += rated_with @ (1 / scale[some])
    score /= scale
    score[part] = score[head] = np.inf
    if len(score) <= size:
        return np.arange(len(score))
    return np.sort(np.argpartition(-score, size)[:size])


def sorted_parts(X: sparse.csr_array, size: int) -> list[NDArray[np.int64]]:
    """Return the items in parts of at most `size` that are rated by the same users: (≤ size,) ascending, each.

    The items are cut in two along their main direction, and both halves again.
    """
    n_items = X.shape[1]
    norms = np.sqrt(squares_of(X))
    per_user = np.sqrt(np.asarray((X > 0).sum(1)).ravel())
    Y = sparse.csr_array(
        X.multiply(1 / np.maximum(norms, 1e-12)[None, :]).multiply(1 / np.maximum(per_user, 1)[:, None]),
        dtype=np.float32,
    )
    Q = np.random.default_rng(0).normal(size=(n_items, _DIRECTIONS)).astype(np.float32)
    for _ in range(_ROUNDS):  # the leading directions of YᵀY
        Q = np.linalg.qr(Y.T @ (Y @ Q))[0]
    vectors = Y.T @ (Y @ Q)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return [np.sort(part) for part in cut(vectors, np.arange(n_items), -(-n_items // size))]


def cut(vectors: F32, part: NDArray[np.int64], n: int) -> list[NDArray[np.int64]]:
    """Return a part cut into `n` of equal size along its main direction, and along those of its halves."""
    if n == 1:
        return [part]
    mine = vectors[part] - vectors[part].mean(0)
    direction = np.linalg.eigh(mine.T @ mine)[1][:, -1]
    ordered = part[np.argsort(mine @ direction, kind="stable")]
    middle = len(part) * (n // 2) // n
    return [*cut(vectors, ordered[:middle], n // 2), *cut(vectors, ordered[middle:], n - n // 2)]
