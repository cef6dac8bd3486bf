"""Which column of a file is which: by `--map`, by header, or by position."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys.data.rows import named
from recsys.errors import InputError

RATING_WORDS: Mapping[str, tuple[str, ...]] = {
    "user_id": ("user_id", "user", "uid", "reviewer_id", "customer_id", "account_id", "member_id"),
    "item_id": (
        "item_id",
        "item",
        "iid",
        "movie_id",
        "movie",
        "product_id",
        "product",
        "asin",
        "parent_asin",
        "book_id",
        "book",
        "isbn",
        "track_id",
        "song_id",
        "artist_id",
        "anime_id",
        "recipe_id",
        "business_id",
    ),
    "rating": ("rating", "score", "stars", "value", "overall", "book_rating"),
    "rated_at": (
        "rated_at",
        "timestamp",
        "time",
        "date",
        "ts",
        "created_at",
        "datetime",
        "unix_review_time",
    ),
}
"""What files call the columns of ratings, the surest name first; case, blanks, `_` and `-` do not count."""

ITEM_WORDS: Mapping[str, tuple[str, ...]] = {
    "item_id": (*RATING_WORDS["item_id"], "id"),
    "title": ("title", "name", "movie_title", "item_name", "product_name", "book_title"),
    "categories": ("categories", "genres", "category", "genre"),
    "year": ("year", "release_year", "year_of_publication", "publication_year"),
}
"""The same for the columns of items."""

USER_WORDS: Mapping[str, tuple[str, ...]] = {
    "user_id": (*RATING_WORDS["user_id"], "id"),
    "categories": ("categories", "segments", "category", "segment"),
}
"""The same for the columns of users; all others are attributes."""

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
    """0-based positions of the columns of users; `attributes` by their names."""

    user_id: int
    categories: int | None
    attributes: Mapping[str, int]


def simplified(name: str) -> str:
    """A column's name without what files spell differently: `User ID`, `userId` and `user_id` are one."""
    return re.sub(r"[\s_-]+", "", name).lower()


def looks_like_header(first: Sequence[str], rest: Sequence[Sequence[str]], words: frozenset[str]) -> bool:
    """Whether a text file's first line names its columns.

    It does when two of its fields are known names, or when it holds no number where later lines do.

    Args:
        first, rest: the fields of the first line, and of some lines after it.
        words: the known names, `simplified`.
    """
    if sum(simplified(field) in words for field in first) >= 2:
        return True
    if any(_is_number(field) for field in first):
        return False
    return any(_is_number(field) for fields in rest for field in fields)


def find_rating_columns(
    where: str, header: Sequence[str] | None, n_columns: int, mapping: Mapping[str, str]
) -> ColumnPositions:
    """The columns of ratings.

    Args:
        where: the file, and the line of the header, as a message starts with them.
        header: names of the columns; None where the file has no header.
        n_columns: how many columns there are.
        mapping: `user_id`, `item_id`, `rating`, `rated_at` → a column's name or 1-based number.

    Raises:
        InputError: a column is missing, ambiguous or mapped twice, or `mapping` has another key.
    """
    if unknown := sorted(mapping.keys() - RATING_WORDS.keys()):
        raise InputError(f"--map {unknown[0]}=…: expected one of {', '.join(RATING_WORDS)} before the '='; mend it")
    found = {role: _mapped(where, header, n_columns, role, column) for role, column in mapping.items()}
    if len(set(found.values())) < len(found):
        raise InputError(f"{where}: --map gives one column to two of {', '.join(mapping)}: expected one each; mend it")
    if header is None and not mapping:
        if not 3 <= n_columns <= 4:
            raise InputError(
                f"{where}: {n_columns} columns and no header: expected user, item, rating, perhaps a time; "
                "name the columns by number with --map user_id=1,item_id=2,rating=3"
            )
        found = {role: position for position, role in enumerate(RATING_WORDS) if position < n_columns}
    for role, words in RATING_WORDS.items():
        if header is not None and role not in found:
            position = _by_word(where, header, role, words, taken=set(found.values()))
            if position is not None:
                found[role] = position
        if role in REQUIRED and role not in found:
            raise _missing(where, header, n_columns, role, words)
    return ColumnPositions(found["user_id"], found["item_id"], found["rating"], found.get("rated_at"))


def find_item_columns(
    where: str, header: Sequence[str] | None, n_columns: int, mapping: Mapping[str, str]
) -> ItemColumns:
    """The columns of items; without a header they are item, title and categories, in that order.

    Args:
        where, header, n_columns: as for `find_rating_columns`.
        mapping: that of the ratings: an item column named there is looked for under the same name here.

    Raises:
        InputError: there is no column of item ids, or two that could be the same.
    """
    if header is None:
        if not 2 <= n_columns <= 3:
            raise InputError(
                f"{where}: {n_columns} columns and no header: expected item, title and perhaps categories; "
                "give the file a first line such as item_id,title,categories"
            )
        return ItemColumns(0, 1, 2 if n_columns > 2 else None, None)
    found = _by_words(where, header, "item_id", ITEM_WORDS, mapping)
    return ItemColumns(found["item_id"], found.get("title"), found.get("categories"), found.get("year"))


def find_user_columns(where: str, header: Sequence[str], mapping: Mapping[str, str]) -> UserColumns:
    """The columns of users; those without a name are left out.

    Args:
        where: as for `find_rating_columns`.
        header: names of the columns.
        mapping: that of the ratings: a user column named there is looked for under the same name here.

    Raises:
        InputError: there is no column of user ids, or two that could be the same.
    """
    found = _by_words(where, header, "user_id", USER_WORDS, mapping)
    attributes: dict[str, int] = {}
    for position, name in enumerate(header):
        if not name or position in found.values():
            continue
        if name in attributes:
            raise InputError(
                f"{where}: columns {attributes[name] + 1} and {position + 1} are both called {named([name])}: "
                "expected each name once; rename one"
            )
        attributes[name] = position
    return UserColumns(found["user_id"], found.get("categories"), attributes)


def _by_words(
    where: str, header: Sequence[str], id_role: str, words_of: Mapping[str, Sequence[str]], mapping: Mapping[str, str]
) -> dict[str, int]:
    """Role → position of what is there; the ids, which must be, under the name that `mapping` gives them first."""
    found: dict[str, int] = {}
    if mapping.get(id_role) in header:
        found[id_role] = list(header).index(mapping[id_role])
    for role, words in words_of.items():
        if role not in found:
            position = _by_word(where, header, role, words, taken=set(found.values()))
            if position is not None:
                found[role] = position
        if id_role not in found:
            raise InputError(
                f"{where}: no column of {id_role.removesuffix('_id')} ids among {named(header)}: "
                f"expected one called {_some(words)}; rename it"
            )
    return found


def _mapped(where: str, header: Sequence[str] | None, n_columns: int, role: str, column: str) -> int:
    """Position of a column given by name or, failing that, by 1-based number."""
    names = list(header or ())
    lowered = [name.lower() for name in names]
    for spelt, wanted in ((names, column), (lowered, column.lower())):
        matching = [position for position, name in enumerate(spelt) if name == wanted]
        if len(matching) > 1:
            raise _ambiguous(where, column, matching, role)
        if matching:
            return matching[0]
    if column.isascii() and column.isdigit() and 1 <= int(column) <= n_columns:
        return int(column) - 1
    there = f"one of {named(names)}, or" if names else "no header, so"
    raise InputError(
        f"{where}: --map {role}={column} names a column that is not there: expected {there} "
        f"a number from 1 to {n_columns}; mend --map"
    )


def _by_word(where: str, header: Sequence[str], role: str, words: Sequence[str], taken: set[int]) -> int | None:
    names = [simplified(name) for name in header]
    for word in words:
        matching = [i for i, name in enumerate(names) if name == simplified(word) and i not in taken]
        if len(matching) > 1:
            raise _ambiguous(where, header[matching[0]], matching, role)
        if matching:
            return matching[0]
    return None


def _missing(where: str, header: Sequence[str] | None, n_columns: int, role: str, words: Sequence[str]) -> InputError:
    if header is None:
        return InputError(
            f"{where}: --map does not say which column is {role}, and there is no header: "
            f"expected a number from 1 to {n_columns}; add {role}=NUMBER to --map"
        )
    return InputError(
        f"{where}: no column for {role} among {named(header)}: expected one called {_some(words)}; "
        f"name it with --map {role}=COLUMN"
    )


def _ambiguous(where: str, name: str, positions: Sequence[int], role: str) -> InputError:
    numbers = " and ".join(str(position + 1) for position in positions)
    return InputError(
        f"{where}: columns {numbers} are both called {name}: expected one; "
        f"choose with --map {role}={positions[0] + 1}, or rename one"
    )


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:4]) + (" or the like" if len(words) > 4 else "")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
