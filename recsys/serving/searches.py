"""Searches for lists, and the lists that they find."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.results import Ignored, ScoreKind, Source
from recsys.scoring.diversity import diversify, pool_size
from recsys.scoring.profile import Profile
from recsys.scoring.score import Excluded
from recsys.scoring.search import Index, TopN


class RankedItems(NamedTuple):
    """A list of items.

    Attributes:
        model_version: number of the version; `None` if no version was used.
        source: where the list comes from.
        best: positions in the catalogue and scores.
        fallback: why the list is one of popularity.
        score_kind: what the scores are.
        ignored: parts of the request without effect.
        next_cursor: of the next page; `None` if nothing is left.
        notice: what a reader of several pages should know.
    """

    model_version: int | None
    source: Source
    best: TopN
    fallback: str | None = None
    score_kind: ScoreKind = "logit"
    ignored: tuple[Ignored, ...] = ()
    next_cursor: str | None = None
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """A search for the `n` best items of `index` for a vector, without `excluded`.

    Attributes:
        vector: (width,).
        profile: the items that weights between items start from; `None`: none.
        offset: added to the scores of all items: b_u + b.
        model_version, source, fallback, score_kind: of the list.
        after: position of an item; the list has only items that come after it. `None`: all items.
        diversity: by how much alikeness counts against the score, see `diversify`; no effect with `after`.
        alikeness: returns how alike some items are, (m,) → (m, m); needed with `diversity` only.
        n_kept: number of items to search for if it is more than `n`; `keep` is called with them.
    """

    index: Index
    vector: NDArray[np.float32]
    n: int
    excluded: Excluded
    model_version: int
    source: Source
    fallback: str | None = None
    offset: float = 0.0
    score_kind: ScoreKind = "logit"
    after: int | None = None
    profile: Profile | None = None
    diversity: float = 0.0
    alikeness: Callable[[NDArray[np.int64]], NDArray[np.float32]] | None = None
    n_kept: int = 0
    keep: Callable[[TopN], None] | None = None

    @property
    def n_searched(self) -> int:
        """Number of items to search for."""
        return pool_size(self.n) if self.diversity and self.after is None else max(self.n, self.n_kept)

    def finish(self, best: TopN) -> RankedItems:
        """Return the list of the items that were found."""
        if self.diversity and self.after is None and self.alikeness is not None:
            order = diversify(best.scores, self.alikeness(best.item_idx), self.n, self.diversity)
            best = TopN(best.item_idx[order], best.scores[order])
        elif self.keep is not None:
            self.keep(best)
            best = TopN(best.item_idx[: self.n], best.scores[: self.n])
        return RankedItems(self.model_version, self.source, best, self.fallback, self.score_kind)


def run_searches(searches: Sequence[Search], helper: Executor | None = None) -> list[TopN]:
    """Run searches; those in the same index share one matrix product.

    Args:
        helper: a thread that takes a share of the work.
    """
    found: dict[int, TopN] = {}
    by_index: dict[int, list[int]] = {}
    for position, search in enumerate(searches):
        if search.after is not None:
            best = search.index.best_after(search.vector, search.n, search.excluded, search.after, search.profile)
            found[position] = TopN(best.item_idx, np.round(best.scores + search.offset, 6))
            continue
        by_index.setdefault(id(search.index), []).append(position)
    for positions in by_index.values():
        group = [searches[position] for position in positions]
        vectors = np.stack([search.vector for search in group])
        n, excluded = [search.n_searched for search in group], [search.excluded for search in group]
        lists = group[0].index.best(vectors, n, excluded, [search.profile for search in group], helper)
        for position, best, search in zip(positions, lists, group, strict=True):
            # Adding 0 and rounding would leave the scores as they are.
            found[position] = TopN(best.item_idx, np.round(best.scores + search.offset, 6)) if search.offset else best
    return [found[position] for position in range(len(searches))]
