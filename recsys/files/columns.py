"""Positions of the columns of a file: from `--map`, from the header, or from their order."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from recsys.data.columns import (
    EVENT_COLUMNS,
    ITEM_COLUMNS,
    RATING_COLUMNS,
    USER_COLUMNS,
    example_names,
    matching_columns,
    normalize_name,
)
from recsys.data.messages import quote_names, quote_value
from recsys.errors import InputError
from recsys.files.options import AS_RECOGNISED, ReadOptions

MIN_UNIX_SECONDS = 1e8


DELETED = "deleted"
"""Role of the column that says which rows take feedback back; a person names it."""


@dataclass(frozen=True, slots=True)
class ColumnPositions:
    """0-based positions of the columns of ratings or events.

    Attributes:
        rating: of the rating, or of the weight of an event; `None` if each row counts 1.
        event: of the name of what happened, if it decides how much a row counts.
        is_implicit: whether the rows are events.
        deleted: of what says that a row takes its pair's feedback back; `None` if no column does.
    """

    user_id: int
    item_id: int
    rating: int | None
    rated_at: int | None
    event: int | None = None
    is_implicit: bool = False
    deleted: int | None = None


@dataclass(frozen=True, slots=True)
class ItemColumns:
    """0-based positions of the columns of items."""

    item_id: int
    title: int | None
    categories: int | None
    year: int | None


@dataclass(frozen=True, slots=True)
class UserColumns:
    """0-based positions of the columns of users; `attributes` by name."""

    user_id: int
    categories: int | None
    attributes: Mapping[str, int]


def looks_like_header(first: Sequence[str], rest: Sequence[Sequence[str]], words: frozenset[str]) -> bool:
    """Return whether the first line of a text file names its columns.

    It does if two of its fields are known names, or if it has no number and later lines have one.

    Args:
        first, rest: the fields of the first line, and of some later lines.
        words: the known names, normalized with `normalize_name`.
    """
    if sum(normalize_name(field) in words for field in first) >= 2:
        return True
    if any(is_number(field) for field in first):
        return False
    return any(is_number(field) for fields in rest for field in fields)


def looks_like_time(value: object) -> bool:
    """Return whether a value without a name is a time: a large number, or a date."""
    text = str(value).strip()
    return float(text) >= MIN_UNIX_SECONDS if is_number(text) else bool(re.match(r"[0-9]{4}[-/.][0-9]", text))


def is_number(text: str) -> bool:
    """Return whether Python reads the text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Header:
    """The columns of one file, to find positions in.

    Attributes:
        where: the file, and the line of the header, as messages begin.
        names: names of the columns; `None` if the file has no header.
        n_columns: number of columns.
    """

    where: str
    names: Sequence[str] | None
    n_columns: int

    def find_ratings(
        self,
        mapping: Mapping[str, str],
        options: ReadOptions = AS_RECOGNISED,
        sample: Callable[[], Sequence[Sequence[object]]] = list,
    ) -> ColumnPositions:
        """Return the columns of ratings or events.

        A file without a column of ratings holds events. Where another column could hold ratings under an unknown name,
        the file is refused unless `options` say what it holds.

        Args:
            mapping: `user_id`, `item_id`, `rating`, `rated_at`, `weight`, `event` or `deleted` → a column's name or its
                number.
            sample: returns all values of the first rows.

        Raises:
            InputError: a column is missing, ambiguous or mapped twice, or `mapping` has another key.
        """
        roles = {**RATING_COLUMNS, **EVENT_COLUMNS, DELETED: ()}
        if unknown := sorted(mapping.keys() - roles.keys()):
            raise InputError(f"--map {unknown[0]}=…: expected one of {', '.join(roles)} before the '='; correct --map")
        found = {role: self._mapped(role, column) for role, column in mapping.items()}
        if len(set(found.values())) < len(found):
            raise InputError(
                f"{self.where}: --map gives one column to two of {', '.join(mapping)}: "
                "expected different columns; correct --map"
            )
        said_implicit = (
            options.implicit or options.event_weights is not None or bool({"weight", "event"} & found.keys())
        )
        if self.names is None and not mapping:
            found = self._by_order(said_implicit, options.implicit, sample)
            said_implicit = said_implicit or "rating" not in found
        for role, words in RATING_COLUMNS.items():
            if self.names is not None and role not in found and not (role == "rating" and "weight" in found):
                position = self._by_word(role, words, taken=set(found.values()))
                if position is not None:
                    found[role] = position
            if role in ("user_id", "item_id") and role not in found:
                raise self._missing(role, words)
        if said_implicit:
            return self._events(found, options)
        if "rating" not in found and self.names is not None and options.implicit is None:
            weight = self._by_word("weight", EVENT_COLUMNS["weight"], taken=set(found.values()))
            if weight is not None or not self._may_hold_ratings(found, sample()):
                return self._events(found, options)
        if "rating" not in found:
            raise self._missing("rating", RATING_COLUMNS["rating"])
        return ColumnPositions(
            found["user_id"], found["item_id"], found["rating"], found.get("rated_at"), deleted=found.get(DELETED)
        )

    def _events(self, found: dict[str, int], options: ReadOptions) -> ColumnPositions:
        """Return the columns of events: with the name of the event if it has a weight, else with a weight or none."""
        taken = set(found.values())
        event = None
        weight = found.get("weight")
        if options.event_weights is not None:
            event = found.get("event")
            if event is None:
                event = self._by_word("event", EVENT_COLUMNS["event"], taken)
            if event is None:
                raise self._missing("event", EVENT_COLUMNS["event"])
        elif weight is None:
            weight = found.get("rating")
            if weight is None:
                weight = self._by_word("weight", EVENT_COLUMNS["weight"], taken)
        user, item, rated_at = found["user_id"], found["item_id"], found.get("rated_at")
        return ColumnPositions(user, item, weight, rated_at, event, True, found.get(DELETED))

    def _by_order(
        self, said_implicit: bool, implicit: bool | None, sample: Callable[[], Sequence[Sequence[object]]]
    ) -> dict[str, int]:
        """Return the columns of a file without a header: user, item, rating or weight, time."""
        if not (2 if said_implicit else 3) <= self.n_columns <= 4:
            raise InputError(
                f"{self.where}: {self.n_columns} columns and no header: expected user, item, rating and perhaps "
                "a time; name the columns by number with --map user_id=1,item_id=2,rating=3"
                + (", or load pairs without ratings with --implicit" if self.n_columns == 2 else "")
            )
        found = {role: position for position, role in enumerate(RATING_COLUMNS) if position < self.n_columns}
        if self.n_columns == 3 and implicit is not False:
            values = [row[2] for row in sample()]
            if values and all(looks_like_time(value) for value in values):
                found["rated_at"] = found.pop("rating")
        return found

    def _may_hold_ratings(self, found: dict[str, int], sample: Sequence[Sequence[object]]) -> bool:
        """Return whether a column without a role holds numbers only, as ratings under another name would."""
        others = [i for i in range(self.n_columns) if i not in found.values() and (self.names or ())[i]]
        for i in others:
            values = [row[i] for row in sample if row[i] not in (None, "")]
            if values and all(is_number(str(value)) for value in values):
                return True
        return False

    def _missing(self, role: str, words: Sequence[str]) -> InputError:
        """Return the error of a column that is not there."""
        if self.names is None:
            return InputError(
                f"{self.where}: --map does not name the column of {role}, and there is no header: "
                f"expected a number from 1 to {self.n_columns}; add {role}=NUMBER to --map"
            )
        events = "load rows without ratings with --implicit, or " if role == "rating" else ""
        return InputError(
            f"{self.where}: no column for {role} among {quote_names(self.names)}: "
            f"expected one called {example_names(words)}; {events}name it with --map {role}=COLUMN"
        )

    def find_items(self, mapping: Mapping[str, str], own: Mapping[str, str] | None = None) -> ItemColumns:
        """Return the columns of items; without a header they are item, title and categories, in that order.

        Args:
            mapping: the mapping of the ratings. The item column named there is searched under that name first.
            own: role → name or 1-based number of a column of this file.

        Raises:
            InputError: there is no column of item ids, or there are two with the same name.
        """
        if self.names is None and not own:
            if not 2 <= self.n_columns <= 3:
                raise InputError(
                    f"{self.where}: {self.n_columns} columns and no header: expected item, title and perhaps "
                    "categories; give the file a first line such as item_id,title,categories"
                )
            return ItemColumns(0, 1, 2 if self.n_columns > 2 else None, None)
        found = self._by_words("item_id", ITEM_COLUMNS, mapping, own or {}, "items")
        return ItemColumns(found["item_id"], found.get("title"), found.get("categories"), found.get("year"))

    def find_users(self, mapping: Mapping[str, str], own: Mapping[str, str] | None = None) -> UserColumns:
        """Return the columns of users; columns without a name are left out.

        Args:
            mapping: the mapping of the ratings. The user column named there is searched under that name first.
            own: role → name or 1-based number of a column of this file.

        Raises:
            InputError: there is no column of user ids, or there are two with the same name.
        """
        names = self.names or ()
        found = self._by_words("user_id", USER_COLUMNS, mapping, own or {}, "users")
        attributes: dict[str, int] = {}
        for position, name in enumerate(names):
            if not name or position in found.values():
                continue
            if name in attributes:
                raise InputError(
                    f"{self.where}: columns {attributes[name] + 1} and {position + 1} are both called "
                    f"{quote_names([name])}: expected each name once; rename one"
                )
            attributes[name] = position
        return UserColumns(found["user_id"], found.get("categories"), attributes)

    def _by_words(
        self,
        id_role: str,
        words_of: Mapping[str, Sequence[str]],
        mapping: Mapping[str, str],
        own: Mapping[str, str],
        what: str,
    ) -> dict[str, int]:
        """Return role → position of the columns that exist; the id column must exist."""
        names = list(self.names or ())
        if unknown := sorted(own.keys() - words_of.keys()):
            raise InputError(
                f"--map-{what} {unknown[0]}=…: expected one of {', '.join(words_of)} before the '='; correct it"
            )
        found = {role: self._mapped(role, column, f"--map-{what}") for role, column in own.items()}
        if id_role not in found and mapping.get(id_role) in names:
            found[id_role] = names.index(mapping[id_role])
        for role, words in words_of.items():
            if role not in found:
                position = self._by_word(role, words, taken=set(found.values()))
                if position is not None:
                    found[role] = position
            if id_role not in found:
                raise InputError(
                    f"{self.where}: no column of {id_role.removesuffix('_id')} ids among {quote_names(names)}: "
                    f"expected one called {example_names(words)}; name it with --map-{what} {id_role}=COLUMN"
                )
        return found

    def _mapped(self, role: str, column: str, option: str = "--map") -> int:
        """Return the position of a column given by name or, if no column has that name, by 1-based number."""
        names = list(self.names or ())
        lowered = [name.lower() for name in names]
        untyped = column.lower().partition(":")[0]  # `user_id:token` names the column whose header says so
        for spelt, wanted in ((names, column), (lowered, column.lower()), (lowered, untyped)):
            matching = [position for position, name in enumerate(spelt) if name == wanted]
            if matching:
                return self._only(role, column, matching)
        if column.isascii() and column.isdigit() and 1 <= int(column) <= self.n_columns:
            return int(column) - 1
        expected = f"one of {quote_names(names)}, or" if names else "no header, so"
        raise InputError(
            f"{self.where}: {option} {role}={quote_names([column])} names a column that does not exist: "
            f"expected {expected} a number from 1 to {self.n_columns}; correct {option}"
        )

    def _by_word(self, role: str, words: Sequence[str], taken: set[int]) -> int | None:
        matching = matching_columns(self.names or (), words, taken)
        return self._only(role, (self.names or ())[matching[0]], matching) if matching else None

    def _only(self, role: str, name: str, positions: Sequence[int]) -> int:
        """Return the one position; refuse several columns of one name."""
        if len(positions) == 1:
            return positions[0]
        numbers = " and ".join(str(position + 1) for position in positions)
        raise InputError(
            f"{self.where}: columns {numbers} are both called {quote_value(name)[1:-1]}: expected one; "
            f"choose with --map {role}={positions[0] + 1}, or rename one"
        )
