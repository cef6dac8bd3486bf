"""Ratings of a pandas or polars data frame as arrays.

Neither library is imported here: a frame is recognised by its module, and its columns are converted through Arrow.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.data.checks import (
    check_ids,
    refuse_id_type,
    refuse_rating_type,
    refuse_time_type,
)
from recsys.data.columns import RATING_COLUMNS, example_names, matching_columns
from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.encoding import as_ratings, collect
from recsys.data.limits import FIX_LINE
from recsys.data.messages import quote_names, quote_value
from recsys.data.numbers import NumberReader
from recsys.data.rows import RatingBatch
from recsys.data.times import TimeReader
from recsys.errors import InputError

ARGUMENTS = {"user_id": "user", "item_id": "item", "rating": "rating", "rated_at": "time"}
"""Role of a column → the argument of `ratings_from_frame` that names it."""


@dataclass(frozen=True, slots=True)
class IdentifiedRatings:
    """Ratings with the external ids of their users and items.

    Attributes:
        ratings: the ratings; their keys are the positions 0, 1, 2 … of the ids below.
        user_ids: (n_users,) `user_ids[user_idx]` is the external id of a user.
        item_ids: (n_items,) `item_ids[item_idx]` is the external id of an item.
    """

    ratings: Ratings
    user_ids: list[str]
    item_ids: list[str]


def ratings_from_frame(
    frame: object,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    time: str | None = None,
    rating_range: tuple[float | None, float | None] = (None, None),
) -> IdentifiedRatings:
    """Read ratings from a pandas or polars data frame.

    Columns without an argument are recognised by their names, as in files (`recsys.data.columns`). Ids become
    strings, byte for byte; integers become decimal text. If a pair occurs more than once, the rating with the latest
    time is kept, and among equal times the last row.

    Args:
        frame: a pandas or polars `DataFrame`.
        user, item, rating, time: names of the columns; `None` recognises the column by its name. The time is optional.
        rating_range: lowest and highest rating that are allowed; `None` is no bound.

    Raises:
        InputError: `frame` is not a data frame, a column is missing, ambiguous or of another type, or a value is bad.
            The message names the column or the row, what was expected, and the fix.
    """
    columns = FrameColumns(frame)
    given = {"user_id": user, "item_id": item, "rating": rating, "rated_at": time}
    positions = columns.find({role: name for role, name in given.items() if name is not None})
    if columns.n_rows == 0:
        raise InputError("the data frame has no rows: expected at least one rating; pass a frame with rows")
    user_ids, user_problems = check_ids(columns.read(positions["user_id"], refuse_id_type), "user_id")
    item_ids, item_problems = check_ids(columns.read(positions["item_id"], refuse_id_type), "item_id")
    column = columns.read(positions["rating"], refuse_rating_type)
    values, unrated, rating_problems = NumberReader(*rating_range).read(column)
    rating_problems |= {
        int(i): f"rating {values[i]:g} stands for none: leave the row out" for i in np.flatnonzero(unrated)
    }
    rated_at, time_problems = np.full(columns.n_rows, NO_TIME), dict[int, str]()
    if "rated_at" in positions:
        rated_at, time_problems = TimeReader().read(columns.read(positions["rated_at"], refuse_time_type))
    problems = time_problems | rating_problems | item_problems | user_problems
    if problems:
        first = min(problems)
        raise InputError(
            f"{len(problems):,} of {columns.n_rows:,} rows of the data frame are not ratings; "
            f"row {first} (counted from 0): {problems[first].replace(FIX_LINE, 'correct or delete it')}"
        )
    encoded = collect([RatingBatch(user_ids, item_ids, values, rated_at, np.arange(columns.n_rows))])
    return IdentifiedRatings(as_ratings(encoded), encoded.user_ids, encoded.item_ids)


class FrameColumns:
    """The columns of a data frame of either library.

    Raises:
        InputError: the object is not a data frame.
    """

    def __init__(self, frame: Any) -> None:
        kind = type(frame)
        libraries = {base.__module__.partition(".")[0] for base in kind.__mro__}
        self._is_pandas = "pandas" in libraries
        # Only a DataFrame has these: not a Series, and not a lazy frame of polars.
        is_frame = hasattr(frame, "itertuples" if self._is_pandas else "iter_rows")
        if not (is_frame and libraries & {"pandas", "polars"}):
            raise InputError(
                f"{kind.__module__}.{kind.__qualname__} is not a data frame: expected a DataFrame of pandas or polars; "
                "convert it first (a lazy frame with collect())"
            )
        self._frame = frame
        self.names = [str(name) for name in frame.columns]
        self.n_rows = len(frame)

    def find(self, given: dict[str, str]) -> dict[str, int]:
        """Return role → position of its column.

        Args:
            given: role → name of its column, for the columns that the caller named.

        Raises:
            InputError: a column is missing or ambiguous, or two roles share a column.
        """
        found: dict[str, int] = {}
        for role, name in given.items():
            found[role] = self._only(role, [i for i, each in enumerate(self.names) if each == name], name)
        for role, names in RATING_COLUMNS.items():
            if role in found:
                continue
            matching = matching_columns(self.names, names, taken=set(found.values()))
            if matching:
                found[role] = self._only(role, matching, self.names[matching[0]])
            elif role != "rated_at":
                raise InputError(
                    f"the data frame has no column for {role} among {quote_names(self.names)}: expected one called "
                    f"{example_names(names)}; rename it, or pass {ARGUMENTS[role]}=NAME"
                )
        if len(set(found.values())) < len(found):
            raise InputError(
                f"one column is named for two of {', '.join(ARGUMENTS[role] for role in given)}: "
                "expected different columns; correct the arguments"
            )
        return found

    def read(self, position: int, refuse: Any) -> pa.Array:
        """Return a column as an Arrow array.

        Args:
            refuse: returns why a type is not accepted, or `None`.

        Raises:
            InputError: Arrow cannot represent the column, or its type is not accepted.
        """
        name = quote_value(self.names[position])
        try:
            if self._is_pandas:
                column = pa.array(self._frame.iloc[:, position], from_pandas=True)
            else:
                column = self._frame.to_series(position).to_arrow()
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"column {name} of the data frame mixes types: expected one type; cast it with astype(str)"
            ) from error
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if reason := refuse(column.type):
            raise InputError(f"column {name} of the data frame {reason}")
        return column

    def _only(self, role: str, positions: list[int], name: str) -> int:
        if len(positions) == 1:
            return positions[0]
        if positions:
            raise InputError(
                f"the data frame has {len(positions)} columns called {quote_value(name)}: expected one for {role}; "
                "rename the others"
            )
        raise InputError(
            f"the data frame has no column {quote_value(name)}: expected one of {quote_names(self.names)}; "
            f"correct {ARGUMENTS[role]}=…"
        )
