"""Users of a trained model in memory, as `recsys.serving.users` reads them from a database."""

from collections.abc import Mapping

import numpy as np

from recsys.factors import Factors
from recsys.library.loading import RatingData
from recsys.serving.live_model import Embedding, LiveModel
from recsys.serving.users import UNKNOWN_USER, RatedItems, UserState, new_state, read_profile


class UsersInMemory:
    """The users of a model and of the ratings that it was trained on."""

    def __init__(self, data: RatingData, factors: Factors, model: LiveModel, idx_of: Mapping[str, int]) -> None:
        """
        Args:
            model: the same factors, aligned to a catalogue of the items of `data`.
            idx_of: item id → position in that catalogue.
        """
        self._ratings, self._factors, self._model, self._idx_of = data.ratings, factors, model, idx_of
        self._key_of = {user_id: key for key, user_id in data.user_ids.items()}
        self._starts, self._order = data.ratings.by_user()
        keys = sorted(data.items)
        self._item_idx = np.searchsorted(np.array(keys, np.int64), data.ratings.item_keys)

    def state(self, user_id: str) -> UserState:
        """Return the state of a user: their trained vector, or one folded in from their ratings."""
        key = self._key_of.get(user_id)
        if key is None:
            return UNKNOWN_USER
        rated = self.rated(user_id)
        seen = rated.item_idx.astype(np.int32)
        user_idx = int(np.searchsorted(self._factors.user_keys, key))
        if user_idx < self._factors.n_users and self._factors.user_keys[user_idx] == key:
            vector, bias = self._factors.user_factors[user_idx], float(self._factors.user_bias[user_idx])
            return UserState(Embedding(vector, bias), "model", seen, profile=read_profile(self._model, rated))
        return new_state(self._model, rated, seen)

    def rated(self, user_id: str) -> RatedItems:
        """Return the ratings of a user, ordered by item."""
        key = self._key_of.get(user_id, -1)
        user_idx = int(np.searchsorted(self._ratings.user_keys, key))
        if user_idx == self._ratings.n_users or self._ratings.user_keys[user_idx] != key:
            return RatedItems.none()
        rows = self._order[self._starts[user_idx] : self._starts[user_idx + 1]]
        item_idx = self._item_idx[self._ratings.item_idx[rows]]
        by_item = np.argsort(item_idx, kind="stable")
        return RatedItems(item_idx[by_item], self._ratings.rating[rows][by_item])

    def visitor(self, ratings: Mapping[str, float]) -> UserState:
        """Return the state of a visitor who gave these ratings: item id → rating."""
        rated = self.rated_items(ratings)
        return new_state(self._model, rated, rated.item_idx.astype(np.int32))

    def rated_items(self, ratings: Mapping[str, float]) -> RatedItems:
        """Return ratings by item id as positions and values; unknown items are left out."""
        known = {self._idx_of[item_id]: rating for item_id, rating in ratings.items() if item_id in self._idx_of}
        return RatedItems(np.array(list(known), np.int64), np.array(list(known.values()), np.float32))
