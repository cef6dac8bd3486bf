"""Positions of the columns of a file: from `--map`, from the header, or from their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys.data.columns import (
    ITEM_COLUMNS,
    RATING_COLUMNS,
    USER_COLUMNS,
    example_names,
    matching_columns,
    normalize_name,
)
from recsys.data.messages import quote_names, quote_value
from recsys.errors import InputError

REQUIRED = ("user_id", "item_id", "rating")


@dataclass(frozen=True, slots=True)
class ColumnPositions:
    """0-based positions of the columns of ratings."""

    user_id: int
    item_id: int
    rating: int
    rated_at: int | None


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

    def find_ratings(self, mapping: Mapping[str, str]) -> ColumnPositions:
        """Return the columns of ratings.

        Args:
            mapping: `user_id`, `item_id`, `rating`, `rated_at` → a column's name or 1-based number.

        Raises:
            InputError: a column is missing, ambiguous or mapped twice, or `mapping` has another key.
        """
        if unknown := sorted(mapping.keys() - RATING_COLUMNS.keys()):
            raise InputError(
                f"--map {unknown[0]}=…: expected one of {', '.join(RATING_COLUMNS)} before the '='; correct --map"
            )
        found = {role: self._mapped(role, column) for role, column in mapping.items()}
        if len(set(found.values())) < len(found):
            raise InputError(
                f"{self.where}: --map gives one column to two of {', '.join(mapping)}: "
                "expected different columns; correct --map"
            )
        if self.names is None and not mapping:
            if not 3 <= self.n_columns <= 4:
                raise InputError(
                    f"{self.where}: {self.n_columns} columns and no header: expected user, item, rating and perhaps "
                    "a time; name the columns by number with --map user_id=1,item_id=2,rating=3"
                )
            found = {role: position for position, role in enumerate(RATING_COLUMNS) if position < self.n_columns}
        for role, words in RATING_COLUMNS.items():
            if self.names is not None and role not in found:
                position = self._by_word(role, words, taken=set(found.values()))
                if position is not None:
                    found[role] = position
            if role in REQUIRED and role not in found:
                if self.names is None:
                    raise InputError(
                        f"{self.where}: --map does not name the column of {role}, and there is no header: "
                        f"expected a number from 1 to {self.n_columns}; add {role}=NUMBER to --map"
                    )
                raise InputError(
                    f"{self.where}: no column for {role} among {quote_names(self.names)}: "
                    f"expected one called {example_names(words)}; name it with --map {role}=COLUMN"
                )
        return ColumnPositions(found["user_id"], found["item_id"], found["rating"], found.get("rated_at"))

    def find_items(self, mapping: Mapping[str, str]) -> ItemColumns:
        """Return the columns of items; without a header they are item, title and categories, in that order.

        Args:
            mapping: the mapping of the ratings. The item column named there is searched under that name first.

        Raises:
            InputError: there is no column of item ids, or there are two with the same name.
        """
        if self.names is None:
            if not 2 <= self.n_columns <= 3:
                raise InputError(
                    f"{self.where}: {self.n_columns} columns and no header: expected item, title and perhaps "
                    "categories; give the file a first line such as item_id,title,categories"
                )
            return ItemColumns(0, 1, 2 if self.n_columns > 2 else None, None)
        found = self._by_words("item_id", ITEM_COLUMNS, mapping)
        return ItemColumns(found["item_id"], found.get("title"), found.get("categories"), found.get("year"))

    def find_users(self, mapping: Mapping[str, str]) -> UserColumns:
        """Return the columns of users; columns without a name are left out.

        Args:
            mapping: the mapping of the ratings. The user column named there is searched under that name first.

        Raises:
            InputError: there is no column of user ids, or there are two with the same name.
        """
        names = self.names or ()
        found = self._by_words("user_id", USER_COLUMNS, mapping)
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
        self, id_role: str, words_of: Mapping[str, Sequence[str]], mapping: Mapping[str, str]
    ) -> dict[str, int]:
        """Return role → position of the columns that exist; the id column must exist."""
        names = list(self.names or ())
        found: dict[str, int] = {}
        if mapping.get(id_role) in names:
            found[id_role] = names.index(mapping[id_role])
        for role, words in words_of.items():
            if role not in found:
                position = self._by_word(role, words, taken=set(found.values()))
                if position is not None:
                    found[role] = position
            if id_role not in found:
                raise InputError(
                    f"{self.where}: no column of {id_role.removesuffix('_id')} ids among {quote_names(names)}: "
                    f"expected one called {example_names(words)}; rename it"
                )
        return found

    def _mapped(self, role: str, column: str) -> int:
        """Return the position of a column given by name or, if no column has that name, by 1-based number."""
        names = list(self.names or ())
        lowered = [name.lower() for name in names]
        for spelt, wanted in ((names, column), (lowered, column.lower())):
            matching = [position for position, name in enumerate(spelt) if name == wanted]
            if matching:
                return self._only(role, column, matching)
        if column.isascii() and column.isdigit() and 1 <= int(column) <= self.n_columns:
            return int(column) - 1
        expected = f"one of {quote_names(names)}, or" if names else "no header, so"
        raise InputError(
            f"{self.where}: --map {role}={quote_names([column])} names a column that does not exist: "
            f"expected {expected} a number from 1 to {self.n_columns}; correct --map"
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
