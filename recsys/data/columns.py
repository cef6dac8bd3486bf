"""Names that files and data frames give to the columns of ratings, items and users."""

import re
from collections.abc import Mapping, Sequence

RATING_COLUMNS: Mapping[str, tuple[str, ...]] = {
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
    "rating": ("rating", "score", "stars", "value", "overall", "book_rating", "rate", "thumb", "thumbs", "liked"),
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
"""Role → names of its column, the most specific first. Case, blanks, `_` and `-` do not count."""

EVENT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "weight": (
        "weight",
        "count",
        "counts",
        "plays",
        "play_count",
        "n_plays",
        "listen_count",
        "listens",
        "views",
        "clicks",
        "purchases",
        "quantity",
        "qty",
        "amount",
        "seconds",
        "duration",
        "event_value",
    ),
    "event": (
        "event",
        "event_type",
        "event_name",
        "action",
        "behavior",
        "behaviour",
        "behavior_type",
        "interaction_type",
        "feedback_type",
    ),
}
"""The same for files without ratings: how much a row counts, and what happened."""

ITEM_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "item_id": (*RATING_COLUMNS["item_id"], "id"),
    "title": ("title", "name", "movie_title", "item_name", "product_name", "book_title"),
    "categories": ("categories", "genres", "category", "genre"),
    "year": ("year", "release_year", "year_of_publication", "publication_year"),
}
"""The same for items."""

USER_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "user_id": (*RATING_COLUMNS["user_id"], "id"),
    "categories": ("categories", "segments", "category", "segment"),
}
"""The same for users; every other column is an attribute."""


def normalize_name(name: str) -> str:
    """Return a column's name without case, blanks, `_` and `-`: `User ID`, `userId` and `user_id` are equal."""
    return re.sub(r"[\s_-]+", "", name).lower()


def matching_columns(header: Sequence[str], names: Sequence[str], taken: set[int]) -> list[int]:
    """Return the positions of the columns with the first of `names` that the header has.

    Args:
        header: the names of all columns.
        names: names of one role, the most specific first.
        taken: positions that already have a role.

    Returns:
        Positions: none if there is no such column, several if two columns have the same name.
    """
    normalized = [normalize_name(name) for name in header]
    for name in map(normalize_name, names):
        found = [position for position, each in enumerate(normalized) if each == name and position not in taken]
        if found:
            return found
    return []


def example_names(names: Sequence[str]) -> str:
    """Return the first four names for a message, and whether there are more."""
    return ", ".join(names[:4]) + (" or similar" if len(names) > 4 else "")
