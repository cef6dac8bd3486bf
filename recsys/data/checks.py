"""Checks of whole columns of ids, and of the types of columns.

Each check returns the column in its final type, and a reason for every bad position. Only values that the
vectorised path cannot convert are checked one by one. `times` and `numbers` read the other columns.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.limits import FIX_LINE, MAX_ID_BYTES, NOTHING_AS_ID, id_problem
from recsys.data.messages import quote_value

Problems = dict[int, str]
"""Position in a column → what was found there, what was expected, and the fix."""

_SPELT = frozenset(spelt for word in NOTHING_AS_ID for spelt in (word, word.upper(), word.capitalize())) | {
    "NaN",
    "NaT",
}
NUMBER = re.compile(r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?$")


def check_ids(column: pa.Array, what: str, *, words_are_ids: bool = False) -> tuple[pa.Array, Problems]:
    """Return ids as strings, byte for byte; integers as decimal text. Each distinct id is looked at once.

    Args:
        column: (n,) strings, bytes or integers, dictionary-encoded or not.
        what: `user_id` or `item_id`.
        words_are_ids: whether `None` or `NA` is an id, and not a word for no value.

    Returns:
        The ids, strings or a dictionary of such, empty or null if bad, and the problems.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type):
        ids = column.cast(pa.string())
        null = column.is_null().to_numpy(zero_copy_only=False)
        return ids, {i: reason for i, value in values_where(null, ids) if (reason := id_problem(value, what))}
    try:
        encoded = column.cast(pa.string()).dictionary_encode()
        ids = encoded.dictionary
        ids.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
        problems = {i: reason for i, value in enumerate(values) if (reason := id_problem(value, what))}
        good = (None if i in problems else value.decode() for i, value in enumerate(values))
        return pa.array(good, pa.string()), problems
    suspect = pc.or_(pc.utf8_is_space(ids), pc.match_substring(ids, "\0"))
    size = pc.binary_length(ids)
    suspect = pc.or_(suspect, pc.or_(pc.equal(size, 0), pc.greater(size, MAX_ID_BYTES))).fill_null(True)
    if not words_are_ids:
        suspect = pc.or_(suspect, pc.is_in(ids, value_set=pa.array(sorted(_SPELT)))).fill_null(True)
    if not suspect.true_count and not encoded.null_count:
        return encoded, {}
    problem = id_problem if words_are_ids else nothing_problem
    code = encoded.indices.fill_null(len(ids)).to_numpy(zero_copy_only=False)
    ids = encoded.dictionary_decode()
    suspects = values_where(np.append(suspect.to_numpy(zero_copy_only=False), True)[code], ids)
    return ids, {i: reason for i, value in suspects if (reason := problem(value, what))}


def nothing_problem(value: str | None, what: str) -> str | None:
    """Return why a value of a file cannot be an id: one of `id_problem`, or it is a word for no value."""
    if value is not None and value.strip().lower() in NOTHING_AS_ID:
        return f"{what} {quote_value(value)} stands for no value: expected an id such as 196; {FIX_LINE}"
    return id_problem(value, what)


def refuse_id_type(kind: pa.DataType) -> str | None:
    """Return why a column of this type cannot hold ids, and the fix; `None` if it can."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return (
            f"holds {kind} numbers: expected strings or integers, because the id 7 is not 7.0; "
            "cast it before writing, in pandas with astype('Int64') or astype(str)"
        )
    if is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return None
    return f"holds {kind}: expected strings or integers; cast it before writing"


def refuse_rating_type(kind: pa.DataType) -> str | None:
    """Return why a column of this type cannot hold ratings, and the fix; `None` if it can."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if is_number(kind) or is_text(kind) or pa.types.is_boolean(kind):
        return None
    return f"holds {kind}: expected numbers; cast it before writing"


def refuse_time_type(kind: pa.DataType) -> str | None:
    """Return why a column of this type cannot hold times, and the fix; `None` if it can."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if is_number(kind) or is_text(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return None
    return f"holds {kind}: expected timestamps, Unix seconds or ISO 8601; cast it before writing"


def is_number(kind: pa.DataType) -> bool:
    """Return whether a type holds integers, floats, decimals or nothing but nulls."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type holds strings or bytes."""
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_string_view(kind)
    )


def values_where(mask: NDArray[np.bool_], column: pa.Array) -> Iterator[tuple[int, Any]]:
    """Return (position, value) of each position where the mask is true."""
    positions = np.flatnonzero(mask)
    return zip(positions.tolist(), column.take(pa.array(positions)).to_pylist(), strict=True)


def decode_text(column: pa.Array) -> pa.Array:
    """Return a column without a dictionary, text as strings, and bytes that are not UTF-8 as escapes."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not is_text(column.type):
        return column
    try:
        text = column.cast(pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
        return pa.array(
            (None if value is None else value.decode("utf-8", "backslashreplace") for value in values),
            pa.string(),
        )
    return text


def parse_numbers(column: pa.Array) -> NDArray[np.float64]:
    """Return numbers, or text that holds numbers, as (n,) float64; NaN for other values."""
    if is_text(column.type):
        try:
            numbers = column.cast(pa.float64())
        except pa.ArrowInvalid:
            trimmed = pc.ascii_trim_whitespace(column)
            matching = pc.match_substring_regex(trimmed, NUMBER.pattern)
            numbers = pc.if_else(matching, trimmed, pa.scalar(None, pa.string())).cast(pa.float64())
    else:
        numbers = column.cast(pa.float64(), safe=False)
    result: NDArray[np.float64] = numbers.fill_null(math.nan).to_numpy(zero_copy_only=False)
    return result
