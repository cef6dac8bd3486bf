"""One definition of a user's list, for the API, for batches, for the shell and for files.

A list is planned, searched and finished. `plan_list` returns either a `Search`, which the caller runs alone or together
with others (`run_searches`, or `recsys.serving.batching`), or the finished list if it needs no search.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from recsys.scoring.score import Excluded
from recsys.scoring.search import TopN
from recsys.serving.filters import NO_FILTERS, Filters
from recsys.serving.live_model import LiveModel
from recsys.serving.searches import RankedItems, Search, run_searches
from recsys.serving.snapshot import Recommender
from recsys.serving.users import UserState

N_KEPT = 32
"""Best items that are kept with a user's state: enough for three pages of ten, or for filters that leave out half."""

NO_RANKING_MODEL = "no ranking model is live: run `recsys train --objective ranking`"


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list should contain.

    Attributes:
        n: number of items.
        exclude_seen: leave out what the user has rated.
        exclude: (n_excluded,) positions of other items to leave out.
        candidates: (n_candidates,) positions of the items to choose from; `None`: all.
        filters: by metadata and numbers of ratings.
        after: position of an item; the list continues after it. `None`: it begins with the best.
        diversity: from 0 (the best items) to 1 (items that are as little alike as possible), see
            `recsys.scoring.diversity`.
    """

    n: int = 10
    exclude_seen: bool = True
    exclude: Sequence[int] | NDArray[np.int64] = ()
    candidates: NDArray[np.int64] | None = None
    filters: Filters = NO_FILTERS
    after: int | None = None
    diversity: float = 0.0


DEFAULT_QUERY = ListQuery()


def plan_list(
    recommender: Recommender,
    model: LiveModel | None,
    user: UserState,
    query: ListQuery = DEFAULT_QUERY,
    *,
    keep: bool = False,
) -> Search | RankedItems:
    """Return the search for a user's list; or the list itself, from the user's best items if they have the whole of
    it, or of the most rated items if the user has no vector.

    The score is z = p_u · q_i + b_u + b_i + b, and what the user's items add by weights between items.

    Args:
        model: the version that lists come from; `None` if no ranking version is live: then the list is one of
            popularity.
        user: the user's state for that version.
        keep: whether the search keeps the user's best items with the state, for lists with other parameters.
    """
    excluded = _excluded(recommender, user, query)
    if model is not None and user.embedding is not None:
        known = from_best(recommender, user, query, excluded)
        if known is not None:
            return RankedItems(model.number, user.source, known, user.fallback)
        offset = user.embedding.bias + model.factors.global_bias
        # Of a large neural catalogue a filtered list may have items that a list of all items lacks.
        is_plain = excluded is user.seen and query.exclude_seen and query.after is None and not query.diversity
        keeps = keep and is_plain and model.head is None and query.n <= N_KEPT
        return Search(
            index=model.index,
            vector=user.embedding.vector,
            n=query.n,
            excluded=excluded,
            model_version=model.number,
            source=user.source,
            fallback=user.fallback,
            offset=offset,
            after=query.after,
            profile=user.profile,
            diversity=query.diversity,
            alikeness=model.alikeness if query.diversity else None,
            n_kept=N_KEPT if keeps else 0,
            keep=partial(keep_best, user, recommender.number) if keeps else None,
        )
    best = recommender.popularity.most_rated(query.n, excluded, user.categories, query.after)
    reason = f"{NO_RANKING_MODEL if model is None else user.fallback}; these are the most rated items"
    if user.categories and recommender.catalogue.category_mask(user.categories).any():
        reason += f", first those in the user's categories ({', '.join(user.categories)})"
    return RankedItems(model.number if model else None, "popularity", best, reason, "count")


def keep_best(user: UserState, snapshot: int, best: TopN) -> None:
    """Keep the best items of a user with their state."""
    # Copies: the arrays of a search are parts of those of all lists that were searched with it.
    user.best = snapshot, best.item_idx.astype(np.int32), best.scores.copy()


def from_best(recommender: Recommender, user: UserState, query: ListQuery, excluded: Excluded) -> TopN | None:
    """Return a list from the best items that were kept with a user's state; `None` if it may have others.

    All other items come after these, so those of them that a list may have are its first ones.
    """
    if user.best is None or user.best[0] != recommender.number or not query.exclude_seen or query.diversity:
        return None
    _, item_idx, scores = user.best
    has_all = len(item_idx) < N_KEPT
    if query.after is not None:
        at = np.flatnonzero(item_idx == query.after)
        if not len(at):
            return None
        item_idx, scores = item_idx[at[0] + 1 :], scores[at[0] + 1 :]
    if excluded is not None and excluded.dtype == np.bool_:
        left = np.flatnonzero(~excluded[item_idx])[: query.n]
    elif excluded is user.seen or excluded is None:
        left = np.arange(min(query.n, len(item_idx)))
    else:
        left = np.flatnonzero(~np.isin(item_idx, excluded))[: query.n]
    if len(left) < query.n and not has_all:
        return None
    return TopN(item_idx[left].astype(np.int64), scores[left])


def recommend(
    recommender: Recommender, model: LiveModel | None, users: Sequence[UserState], query: ListQuery = DEFAULT_QUERY
) -> list[RankedItems]:
    """Return the list of each user; see `plan_list`."""
    plans = [plan_list(recommender, model, user, query) for user in users]
    found = iter(run_searches([plan for plan in plans if isinstance(plan, Search)]))
    return [plan.finish(next(found)) if isinstance(plan, Search) else plan for plan in plans]


def _excluded(recommender: Recommender, user: UserState, query: ListQuery) -> Excluded:
    """Return the items that a user's list leaves out, besides hidden items."""
    seen = user.seen if query.exclude_seen else user.seen[:0]
    left_out = np.concatenate([seen, query.exclude]) if len(query.exclude) else seen
    catalogue = recommender.catalogue
    if query.candidates is None:
        return catalogue.exclusions(query.filters, left_out)
    excluded = catalogue.left_out(query.filters) | ~catalogue.mask(query.candidates)
    excluded[left_out] = True
    return excluded
