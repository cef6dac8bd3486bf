"""Users as lists need them: a vector, the items that they rated, and where their list comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from recsys.data.feedback import as_preferences
from recsys.database.user_states import (
    StoredUser,
    read_ratings_of,
    read_user_metadata,
    read_users,
    user_keys_of,
)
from recsys.factors import RankingConstants
from recsys.results import Source
from recsys.scoring.fold_in import FoldedUser
from recsys.scoring.profile import Profile, make_profile
from recsys.serving.catalogue import Catalogue
from recsys.serving.live_model import Embedding, LiveModel, metadata_embedding

USER_UNKNOWN = "the user is unknown: they have no ratings, and the model was not trained with them"
NOTHING_RATED = "the user has rated no item that the model knows"
DATABASE_UNREACHABLE = "the database cannot be reached, so the user's ratings are not available"


@dataclass(slots=True)
class UserState:
    """A user for one version.

    Attributes:
        embedding: from the version, folded in from the user's ratings, or from their metadata; `None` if there is none.
        source: where a list for the user comes from.
        seen: (n,) int32, positions in the catalogue of the items that they rated.
        categories: of the user, if nothing else is known of them.
        fallback: why the source is popularity.
        user_key: `None` if the state must not be cached: the database does not have the user, or they rated an item
            that the catalogue does not have yet.
        seq: the state is not older than this change.
        profile: the items that weights between items start from; `None`: the version has no such weights.
        answer: the last list without filters: the number of the snapshot, the length that was asked for, and the
            JSON. This attribute and the next one are the only ones that change.
        best: the number of the snapshot, and the best items of those that they have not rated, with their scores:
            `N_KEPT` of them, or all that there are. Lists with other parameters are taken from them, see
            `recsys.serving.lists`.
    """

    embedding: Embedding | None
    source: Source
    seen: NDArray[np.int32]
    categories: tuple[str, ...] = ()
    fallback: str | None = None
    user_key: int | None = None
    seq: int = 0
    profile: Profile | None = None
    answer: tuple[int, int, bytes] | None = field(default=None, repr=False, compare=False)
    best: tuple[int, NDArray[np.int32], NDArray[np.float64]] | None = field(default=None, repr=False, compare=False)


_NOTHING_SEEN = np.empty(0, np.int32)
UNKNOWN_USER = UserState(None, "popularity", _NOTHING_SEEN, fallback=USER_UNKNOWN)
UNREAD_USER = replace(UNKNOWN_USER, fallback=DATABASE_UNREACHABLE)


@dataclass(frozen=True, slots=True)
class RatedItems:
    """The ratings of one user.

    Attributes:
        item_idx: (n,) int64 positions in the catalogue.
        ratings: (n,) float32, ratings and weights of events.
        is_implicit: (n,) mask of the weights; `None` if there are none.
    """

    item_idx: NDArray[np.int64]
    ratings: NDArray[np.float32]
    is_implicit: NDArray[np.bool_] | None = None

    @classmethod
    def none(cls) -> "RatedItems":
        return cls(np.empty(0, np.int64), np.empty(0, np.float32))

    def for_model(self, model: LiveModel | None) -> "RatedItems":
        """Return one rating for each item, as the version was trained: events as relevant ratings, or left out.

        Where an item has a rating and events, the rating counts.
        """
        if self.is_implicit is None:
            return self
        training = None if model is None else model.version.training
        if model is not None and model.version.objective == "rating":
            return RatedItems(self.item_idx[~self.is_implicit], self.ratings[~self.is_implicit])
        ratings = self.ratings.copy()
        scale, top = ((0.0, 1.0), None) if training is None else (training.rating_scale, training.weight_top)
        ratings[self.is_implicit] = as_preferences(self.ratings[self.is_implicit], scale, top)
        kept = ~self.is_implicit | ~np.isin(self.item_idx, self.item_idx[~self.is_implicit])
        return RatedItems(self.item_idx[kept], ratings[kept])


def read_states(
    connection: Connection, user_ids: Sequence[str], catalogue: Catalogue, model: LiveModel | None
) -> dict[str, UserState]:
    """Return the state of users for one version; `UNKNOWN_USER` for ids that do not exist.

    A user whose ratings changed since the training, or whom the version does not know, is folded in.
    """
    states = dict.fromkeys(user_ids, UNKNOWN_USER)
    has_weights = model is not None and model.factors.weights is not None
    trained: dict[int, Embedding] = {}
    to_read: list[StoredUser] = []
    for user in read_users(connection, user_ids, model.number if model else None):
        changed_at = user.changed_seq or 0
        if model is None or user.vector is None or changed_at > model.version.training.trained_seq:
            to_read.append(user)
            continue
        embedding = Embedding(np.frombuffer(user.vector, "<f4"), user.bias or 0.0)
        if has_weights:
            trained[user.user_key] = embedding
            to_read.append(user)
            continue
        states[user.user_id] = _cacheable(UserState(embedding, "model", _seen(user, catalogue)), user)
    if to_read:
        keys = [user.user_key for user in to_read]
        metadata = read_user_metadata(connection, keys)
        rated = read_rated_items(connection, keys, catalogue)
        for user in to_read:
            known, theirs = metadata.get(user.user_key), rated[user.user_key]
            if known is None:  # erased since the first query
                continue
            seen = _seen(user, catalogue)
            if user.user_key in trained:
                profile = read_profile(model, theirs)
                state = UserState(trained[user.user_key], "model", seen, profile=profile)
            else:
                state = new_state(model, theirs, seen, known.categories, known.attributes)
            states[user.user_id] = _cacheable(state, user)
    return states


def new_state(
    model: LiveModel | None,
    rated: RatedItems,
    seen: NDArray[np.int32],
    categories: Sequence[str] = (),
    attributes: Mapping[str, object] | None = None,
) -> UserState:
    """Return the state of a user from their ratings, or from their metadata if there are none.

    Args:
        seen: positions of the items that lists leave out.
    """
    if model is None:
        return UserState(None, "popularity", seen, tuple(categories), NOTHING_RATED)
    prior = None
    features = model.factors.users.features
    if features is not None:
        prior = metadata_embedding(features, categories, attributes or {})
    folded = fold_in_user(model, rated, prior)
    if folded is not None:
        source: Source = "fold_in" if model.factors.n_factors else "model"
        profile = read_profile(model, rated)
        return UserState(Embedding(folded.vector, folded.bias), source, seen, profile=profile)
    if prior is not None:
        reason = f"{NOTHING_RATED}: popular items among users with the same metadata"
        return UserState(prior, "popularity", seen, fallback=reason)
    return UserState(None, "popularity", seen, tuple(categories), NOTHING_RATED)


def fold_in_user(
    model: LiveModel, rated: RatedItems, prior: Embedding | None = None, *, explain: bool = False
) -> FoldedUser | None:
    """Solve a user's vector from their ratings of items that the version was trained with; `None` if there are none."""
    rated = rated.for_model(model)
    known = model.trained[rated.item_idx]
    if not known.any():
        return None
    if model.factors.n_factors == 0:  # weights between items alone: there is nothing to solve
        return FoldedUser(np.empty(0, np.float32), 0.0, np.empty((int(known.sum()), 0), np.float32))
    vector, bias = prior if prior is not None else (None, 0.0)
    return model.fold_in.solve(
        rated.item_idx[known], rated.ratings[known], prior=vector, prior_bias=bias, explain=explain
    )


def read_profile(model: LiveModel | None, rated: RatedItems) -> Profile | None:
    """Return the items that weights between items start from; `None` if the version has no such weights."""
    if model is None or model.factors.weights is None:
        return None
    rated = rated.for_model(model)
    known = model.trained[rated.item_idx]
    constants = model.factors.constants
    assert isinstance(constants, RankingConstants)
    return make_profile(rated.item_idx[known], rated.ratings[known], constants)


def read_rated_items(connection: Connection, user_keys: Sequence[int], catalogue: Catalogue) -> dict[int, RatedItems]:
    """Return the ratings of users by key, of the items in the catalogue."""
    user_key, item_key, rating, is_implicit = read_ratings_of(connection, user_keys)
    item_idx = catalogue.positions(item_key)
    result = {}
    for key in user_keys:
        rows = slice(*np.searchsorted(user_key, [key, key + 1]))
        present = item_idx[rows] >= 0
        mask = is_implicit[rows][present]
        result[key] = RatedItems(item_idx[rows][present], rating[rows][present], mask if mask.any() else None)
    return result


def read_rated_items_by_id(
    connection: Connection, user_ids: Sequence[str], catalogue: Catalogue
) -> dict[str, RatedItems]:
    """Return the ratings of users by id; none for ids that do not exist."""
    keys = user_keys_of(connection, user_ids)
    rated = read_rated_items(connection, list(keys.values()), catalogue)
    return dict.fromkeys(user_ids, RatedItems.none()) | {user_id: rated[key] for user_id, key in keys.items()}


def _seen(user: StoredUser, catalogue: Catalogue) -> NDArray[np.int32]:
    """Return the positions of the items that a user rated, of those in the catalogue."""
    if not user.rated:
        return _NOTHING_SEEN
    item_idx = catalogue.positions(np.fromstring(user.rated, np.int64, sep=","))
    return item_idx[item_idx >= 0].astype(np.int32)


def _cacheable(state: UserState, user: StoredUser) -> UserState:
    """Return the state with the user's key, if the catalogue has all items that they rated."""
    n_rated = user.rated.count(",") + 1 if user.rated else 0
    return replace(state, user_key=user.user_key if len(state.seen) == n_rated else None, seq=user.now)
