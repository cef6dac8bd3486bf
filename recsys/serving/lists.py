"""One definition of a user's list, for the API, for batches, for the shell and for files.

A list is planned, searched and finished. `plan_list` returns either a `Search`, which the caller runs alone or together
with others (`run_searches`, or `recsys.serving.batching`), or the finished list if it needs no search.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.scoring.score import Excluded
from recsys.serving.filters import NO_FILTERS, Filters
from recsys.serving.live_model import LiveModel
from recsys.serving.searches import RankedItems, Search, run_searches
from recsys.serving.snapshot import Recommender
from recsys.serving.users import UserState

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
    recommender: Recommender, model: LiveModel | None, user: UserState, query: ListQuery = DEFAULT_QUERY
) -> Search | RankedItems:
    """Return the search for a user's list, or the list of the most rated items if the user has no vector.

    The score is z = p_u · q_i + b_u + b_i + b, and what the user's items add by weights between items.

    Args:
        model: the version that lists come from; `None` if no ranking version is live: then the list is one of
            popularity.
        user: the user's state for that version.
    """
    excluded = _excluded(recommender, user, query)
    if model is not None and user.embedding is not None:
        offset = user.embedding.bias + model.factors.global_bias
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
        )
    best = recommender.popularity.most_rated(query.n, excluded, user.categories, query.after)
    reason = f"{NO_RANKING_MODEL if model is None else user.fallback}; these are the most rated items"
    if user.categories and recommender.catalogue.category_mask(user.categories).any():
        reason += f", first those in the user's categories ({', '.join(user.categories)})"
    return RankedItems(model.number if model else None, "popularity", best, reason, "count")


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
