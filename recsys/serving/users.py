"""What serving knows of one user, as the database had them a moment ago, and the cache that keeps it true."""

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, String, bindparam, cast, func, select

from recsys.data.keyed import positions
from recsys.database import schema
from recsys.database.users import user_key_of
from recsys.results import Source, UserRating, UserRatings, as_time
from recsys.scoring.fold_in import FoldedUser
from recsys.serving.catalogue import Catalogue
from recsys.serving.live_model import Embedding, LiveModel, metadata_embedding

NOBODY_KNOWN = "nobody knows this user: they have rated nothing, and no version was trained with them"
NOTHING_RATED = "the user has rated nothing that the model knows"
NOT_READ = "the database cannot be reached, so nothing is known of the user"


@dataclass(slots=True)
class UserState:
    """A user for one version.

    Attributes:
        row: their row and bias: the version's own, folded in from their ratings, or of their metadata; None where
            there is none.
        source: where a list for them comes from.
        seen: (n,) int32, places of the items that they have rated.
        categories: theirs, where nothing else is known of them.
        fallback: why the source is popularity.
        user_key: None where the state cannot be kept: the database does not have the user, or they have rated what the
            catalogue does not have yet.
        seq: the state is no older than this change.
        answer: the last list that was told them, where it was asked for without filters: the snapshot that it came
            from, how many items were asked for, and the JSON. The only thing here that changes.
    """

    row: Embedding | None
    source: Source
    seen: NDArray[np.int32]
    categories: tuple[str, ...] = ()
    fallback: str | None = None
    user_key: int | None = None
    seq: int = 0
    answer: tuple[int, int, bytes] | None = field(default=None, repr=False, compare=False)


_NOTHING_SEEN = np.empty(0, np.int32)
NOBODY = UserState(None, "popularity", _NOTHING_SEEN, fallback=NOBODY_KNOWN)
UNREAD = replace(NOBODY, fallback=NOT_READ)


@dataclass(frozen=True, slots=True)
class Rated:
    """What somebody rated: places in the catalogue, (n,) int64, and the ratings, (n,) float32."""

    places: NDArray[np.int64]
    ratings: NDArray[np.float32]


class UserCache:
    """States of users, the latest used of them, up to a number of bytes.

    Kept true by whoever learns of a change: `forget` comes with the seq of a change, and a state that was read before
    it is not kept. Safe between threads.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._states: OrderedDict[tuple[int, str], UserState] = OrderedDict()
        self._keys: dict[int, set[tuple[int, str]]] = defaultdict(set)
        self._n_bytes = 0
        self._floor = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, number: int, user_id: str) -> UserState | None:
        """The state of a user for a version, where it is kept."""
        with self._lock:
            state = self._states.get((number, user_id))
            if state is not None:
                self._states.move_to_end((number, user_id))
            return state

    def put(self, number: int, user_id: str, state: UserState) -> None:
        """Keep a state, unless something was forgotten since it was read."""
        if state.user_key is None:
            return  # nothing tells when somebody of this id is made, or when the catalogue has the item
        with self._lock:
            if state.seq < self._floor:
                return
            self._drop((number, user_id))
            self._states[number, user_id] = state
            self._keys[state.user_key].add((number, user_id))
            self._n_bytes += _size(state)
            while self._n_bytes > self._max_bytes and self._states:
                self._drop(next(iter(self._states)))

    def forget(self, user_keys: Iterable[int], seq: int) -> None:
        """Forget these users, who changed at `seq` or before."""
        with self._lock:
            self._floor = max(self._floor, seq)
            for user_key in user_keys:
                for key in list(self._keys.get(user_key, ())):
                    self._drop(key)

    def clear(self, seq: int) -> None:
        """Forget everybody."""
        with self._lock:
            self._floor = max(self._floor, seq)
            self._states.clear()
            self._keys.clear()
            self._n_bytes = 0

    def begin_anew(self) -> None:
        """Forget everybody and every seq: the database is another one."""
        with self._lock:
            self._floor = 0
        self.clear(0)

    def _drop(self, key: tuple[int, str]) -> None:
        state = self._states.pop(key, None)
        if state is None:
            return
        assert state.user_key is not None
        self._n_bytes -= _size(state)
        others = self._keys[state.user_key]
        others.discard(key)
        if not others:
            del self._keys[state.user_key]


def _size(state: UserState) -> int:
    """About how many bytes a state takes, with its place in the cache."""
    vector = 0 if state.row is None else sys.getsizeof(state.row.vector) + state.row.vector.nbytes
    return 2500 + state.seen.nbytes + vector  # with an answer of ten items


_SEEN = (
    select(func.aggregate_strings(cast(schema.ratings.c.item_key, String), ","))
    .where(schema.ratings.c.user_key == schema.users.c.user_key)
    .correlate(schema.users)
    .scalar_subquery()
)
_STATES = (
    select(
        schema.users.c.user_id,
        schema.users.c.user_key,
        schema.user_changes.c.seq,
        schema.user_factors.c.bias,
        schema.user_factors.c.vector,
        _SEEN.label("seen"),
        select(schema.change_counter.c.seq).scalar_subquery().label("now"),
    )
    .select_from(
        schema.users.outerjoin(
            schema.user_changes, schema.user_changes.c.user_key == schema.users.c.user_key
        ).outerjoin(
            schema.user_factors,
            (schema.user_factors.c.user_key == schema.users.c.user_key)
            & (schema.user_factors.c.number == bindparam("number")),
        )
    )
    .where(schema.users.c.user_id.in_(bindparam("user_ids", expanding=True)))
)
_METADATA = select(schema.users.c.user_key, schema.users.c.categories, schema.users.c.attributes).where(
    schema.users.c.user_key.in_(bindparam("user_keys", expanding=True))
)
_RATED = (
    select(schema.ratings.c.user_key, schema.ratings.c.item_key, schema.ratings.c.rating)
    .where(schema.ratings.c.user_key.in_(bindparam("user_keys", expanding=True)))
    .order_by(schema.ratings.c.user_key, schema.ratings.c.item_key)
)


def read_states(
    connection: Connection, user_ids: Sequence[str], catalogue: Catalogue, model: LiveModel | None
) -> dict[str, UserState]:
    """States of users for one version; those nobody knows are `NOBODY`.

    A user whose ratings changed since the training, or whom the version does not know, is folded in.
    """
    asked = [user_id for user_id in dict.fromkeys(user_ids) if "\0" not in user_id]  # no id has one
    rows = connection.execute(_STATES, {"user_ids": asked, "number": model.number if model else None}).all()
    states = dict.fromkeys(user_ids, NOBODY)
    others = []
    for row in rows:
        if model is None or row.vector is None or (row.seq or 0) > model.version.training.trained_seq:
            others.append(row)
            continue
        own = Embedding(np.frombuffer(row.vector, "<f4"), row.bias)
        seen = _places_of(row.seen, catalogue)
        states[row.user_id] = UserState(
            own, "model", seen, user_key=_lasting_key(row.user_key, row.seen, seen), seq=row.now
        )
    if others:
        keys = [row.user_key for row in others]
        metadata = {row.user_key: row for row in connection.execute(_METADATA, {"user_keys": keys})}
        rated = read_rated(connection, keys, catalogue)
        for row in others:
            known = metadata.get(row.user_key)
            if known is not None:  # None: erased a moment ago
                seen = _places_of(row.seen, catalogue)
                state = new_state(model, rated[row.user_key], seen, known.categories, known.attributes)
                states[row.user_id] = replace(state, user_key=_lasting_key(row.user_key, row.seen, seen), seq=row.now)
    return states


def new_state(
    model: LiveModel | None,
    rated: Rated,
    seen: NDArray[np.int32],
    categories: Sequence[str] = (),
    attributes: Mapping[str, object] | None = None,
) -> UserState:
    """The state of somebody who is known by their ratings, or by their metadata alone.

    Args:
        seen: places of what lists leave out.
    """
    if model is None:
        return UserState(None, "popularity", seen, tuple(categories), NOTHING_RATED)
    prior = None
    if model.factors.users.features is not None:
        prior = metadata_embedding(model.factors.users.features, categories, attributes or {})
    folded = fold(model, rated, prior)
    if folded is not None:
        return UserState(Embedding(folded.vector, folded.bias), "fold_in", seen)
    if prior is not None:
        said = f"{NOTHING_RATED}: what is popular among those of whom the same is known"
        return UserState(prior, "popularity", seen, fallback=said)
    return UserState(None, "popularity", seen, tuple(categories), NOTHING_RATED)


def fold(model: LiveModel, rated: Rated, prior: Embedding | None = None, *, explain: bool = False) -> FoldedUser | None:
    """The row that ratings make, from those of items that the version was trained with; None where there is none."""
    known = model.trained[rated.places]
    if not known.any():
        return None
    vector, bias = prior if prior is not None else (None, 0.0)
    return model.fold_in.solve(
        rated.places[known], rated.ratings[known], prior=vector, prior_bias=bias, explain=explain
    )


def read_rated(connection: Connection, user_keys: Sequence[int], catalogue: Catalogue) -> dict[int, Rated]:
    """What users rated, of the items in the catalogue."""
    rows = connection.execute(_RATED, {"user_keys": list(user_keys)}).all()
    table = np.array([tuple(row) for row in rows], np.float64).reshape(len(rows), 3)
    of_user, places = table[:, 0].astype(np.int64), positions(catalogue.item_keys, table[:, 1].astype(np.int64))
    result = {}
    for user_key in user_keys:
        mine = slice(*np.searchsorted(of_user, [user_key, user_key + 1]))
        there = places[mine] >= 0
        result[user_key] = Rated(places[mine][there], table[mine, 2][there].astype(np.float32))
    return result


def read_rated_by(connection: Connection, user_ids: Sequence[str], catalogue: Catalogue) -> dict[str, Rated]:
    """What some users rated; nothing, where nobody has an id."""
    asked = [user_id for user_id in dict.fromkeys(user_ids) if "\0" not in user_id]  # no id has one
    users = schema.users.c
    rows = connection.execute(select(users.user_id, users.user_key).where(users.user_id.in_(asked))).all()
    rated = read_rated(connection, [row.user_key for row in rows], catalogue)
    nothing = Rated(np.empty(0, np.int64), np.empty(0, np.float32))
    return dict.fromkeys(user_ids, nothing) | {row.user_id: rated[row.user_key] for row in rows}


def read_user_ratings(connection: Connection, user_id: str) -> UserRatings:
    """A user's ratings, the latest first; of a user nobody knows, none."""
    rated, items = schema.ratings.c, schema.items.c
    rows = connection.execute(
        select(items.item_id, items.title, rated.rating, rated.rated_at)
        .select_from(schema.ratings.join(schema.items, items.item_key == rated.item_key))
        .where(rated.user_key == user_key_of(connection, user_id))
        .order_by(rated.rated_at.desc().nulls_last(), rated.item_key)
    )
    return UserRatings(
        user_id=user_id,
        ratings=[
            UserRating(
                item_id=row.item_id,
                title=row.title,
                rating=row.rating,
                rated_at=None if row.rated_at is None else as_time(row.rated_at),
            )
            for row in rows
        ],
    )


def _lasting_key(user_key: int, rated: str | None, seen: NDArray[np.int32]) -> int | None:
    """The key of a user all of whose rated items have a place; None of another one."""
    return user_key if len(seen) == (rated.count(",") + 1 if rated else 0) else None


def _places_of(keys: str | None, catalogue: Catalogue) -> NDArray[np.int32]:
    """Places of item keys that are written with commas between them; keys that are not there have none."""
    if not keys:
        return _NOTHING_SEEN
    places = positions(catalogue.item_keys, np.fromstring(keys, np.int64, sep=","))
    return places[places >= 0].astype(np.int32)
