"""Ratings and weights in the spellings of databases, spreadsheets and countries, as numbers."""

import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.checks import NUMBER, Problems, decode_text, is_text, values_where
from recsys.data.limits import FIX_LINE, MAX_RATING, MAX_WEIGHT, NOTHING
from recsys.data.messages import quote_value
from recsys.errors import InputError

EXPECTED_RATING = f"expected a number such as 4 or 3.5; {FIX_LINE}"
EXPECTED_POINT = f"expected 1.234 or 1234: write it without a comma, or {FIX_LINE}"

THUMBS = {
    **dict.fromkeys(("true", "t", "yes", "y", "up", "like", "liked", "thumbs up", "👍"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "down", "dislike", "disliked", "thumbs down", "👎"), 0.0),
}
"""Words for the two ends of a scale of two."""

GROUP_OR_FRACTION = r"^\s*[+-]?[1-9][0-9]{0,2}\.[0-9]{3}\s*$"
"""1.234: a fraction in some countries, and thousands in others."""
_GROUPS = {
    ",": re.compile(r"[+-]?[0-9]{1,3}(?:\.[0-9]{3})*(?:,[0-9]+)?|[+-]?[0-9]+(?:,[0-9]+)?"),
    ".": re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})*(?:\.[0-9]+)?|[+-]?[0-9]+(?:\.[0-9]+)?"),
}
_BLANKS = dict.fromkeys(map(ord, " \u00a0\u202f\u2009'’_")) | {ord("−"): "-", ord("٫"): ","}
_MONEY = re.compile(r"^(?:[$€£¥]|USD|EUR|GBP)\s*|\s*(?:[$€£¥]|USD|EUR|GBP)$")


class NumberReader:
    """Reads a column of ratings or weights part by part.

    Text is a number with a decimal point or comma, with or without separators of thousands, or a word of `THUMBS`.
    Which of point and comma is the decimal one is decided by the first values that show it. What stays ambiguous
    (1,234 alone) is a problem, never a guess.

    Args:
        low, high: smaller and larger ratings are problems; `None` is no bound.
        unrated: the value that stands for no rating, such as `0`. Without it, 0 and −1 below `low` do.
        is_weight: whether the numbers are weights of events.
    """

    def __init__(
        self,
        low: float | None = None,
        high: float | None = None,
        unrated: str | None = None,
        *,
        is_weight: bool = False,
    ) -> None:
        self._low, self._high = low, high
        self._name, self._limit = ("weight", MAX_WEIGHT) if is_weight else ("rating", MAX_RATING)
        self._unrated_text = None if unrated is None else unrated.strip().lower()
        self._unrated = None if unrated is None else plain_number(unrated)
        self._decimal: str | None = None
        self._fraction: str | None = None

    def read(self, column: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_], Problems]:
        """Return (n,) float64 (any value if bad or not rated), (n,) whether a row is not rated, and the problems.

        Args:
            column: (n,) numbers, truth values, or text that holds numbers.

        Raises:
            InputError: a decimal comma after numbers like 1.234, which were read as fractions.
        """
        column = decode_text(column)
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        values, problems = self._of_text(column) if is_text(column.type) else (to_numbers(column), {})
        unrated = np.zeros(len(values), bool)
        if self._unrated is not None:
            unrated = values == self._unrated
        elif self._unrated_text is not None:
            text = pc.ascii_lower(pc.utf8_trim_whitespace(column.cast(pa.string()).fill_null("")))
            unrated = pc.equal(text, self._unrated_text).to_numpy(zero_copy_only=False)
        elif self._low is not None and self._low > -1:
            unrated = ((values == 0) | (values == -1)) & (values < self._low)
        bad = ~(np.abs(values) <= self._limit)  # NaN too
        if self._low is not None:
            bad |= values < self._low
        if self._high is not None:
            bad |= values > self._high
        bad &= ~unrated
        found = {i: self._problem(value, values[i]) for i, value in values_where(bad, column) if i not in problems}
        return values, unrated, {i: why for i, why in (found | problems).items() if not unrated[i]}

    def _of_text(self, text: pa.StringArray) -> tuple[NDArray[np.float64], Problems]:
        if self._decimal != ",":
            try:
                numbers_of_all = to_numbers(text.cast(pa.float64()))
            except pa.ArrowInvalid:
                pass
            else:
                if self._decimal is None:
                    self._note_points(text.unique(), all_are_numbers=True)
                return numbers_of_all, {}
        encoded = text.dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        if self._decimal is None:
            self._decimal = decimal_of(distinct)
            if self._decimal == "," and self._fraction is not None:
                raise InputError(
                    f"{self._name}s have decimal commas, but {quote_value(self._fraction)} before the first of them "
                    "may be a fraction or thousands: write all with one decimal sign, and none between thousands"
                )
            if self._decimal is None:
                self._note_points(encoded.dictionary, all_are_numbers=False)
        numbers: list[float] = []
        reasons: dict[int, str] = {}
        for code, value in enumerate(distinct):
            number = self._parse(value)
            if isinstance(number, str):
                reasons[code], number = number, math.nan
            numbers.append(number)
        code = encoded.indices.fill_null(len(numbers)).to_numpy(zero_copy_only=False)
        values = np.array([*numbers, math.nan])[code]
        if not reasons:
            return values, {}
        return values, {int(i): reasons[c] for i, c in enumerate(code.tolist()) if c in reasons}

    def _note_points(self, distinct: pa.StringArray, *, all_are_numbers: bool) -> None:
        """Note what points in some values were read as, because later rows must be read in the same way."""
        with_point = distinct.filter(pc.match_substring(distinct, "."))
        is_either = pc.match_substring_regex(with_point, GROUP_OR_FRACTION)
        if all_are_numbers and not pc.all(is_either, min_count=0).as_py():
            self._decimal = "."
        elif self._fraction is None:
            self._fraction = next(iter(with_point.filter(is_either).to_pylist()), None)

    def _parse(self, text: str) -> float | str:
        """Return the number of a text, NaN if it is none, or why it is ambiguous."""
        text = text.strip()
        if NUMBER.match(text) and not (self._decimal == "," and "." in text):
            return float(text)
        if (thumb := THUMBS.get(text.lower())) is not None:
            return thumb
        plain = _MONEY.sub("", text).translate(_BLANKS) if "_" not in text else text
        if self._decimal is None and re.fullmatch(r"[+-]?[0-9]{1,3},[0-9]{3}", plain):
            return f"{self._name} {quote_value(text)} may be a fraction or thousands: {EXPECTED_POINT}"
        if self._decimal is None and plain.count(",") and plain.count("."):
            decimal = max(",.", key=plain.rfind)
        else:
            decimal = self._decimal or ("," if plain.count(",") == 1 and "." not in plain else ".")
        if not _GROUPS[decimal].fullmatch(plain):
            return math.nan
        return float(plain.replace("." if decimal == "," else ",", "").replace(",", "."))

    def _problem(self, value: object, number: float) -> str:
        """Return why a value is not a rating from `low` to `high`: found, expected, fix."""
        text = "" if value is None else str(value).strip()
        if not text:
            return f"{self._name} is empty: {EXPECTED_RATING}"
        found = quote_value(text) if isinstance(value, str) else text
        if text.lower() in NOTHING and text.lower() != "nan":
            return (
                f"{self._name} {found} stands for none: {EXPECTED_RATING}, or leave such rows out with --unrated {text}"
            )
        if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
            return f"{self._name} {found} is not a finite number: {EXPECTED_RATING}"
        if math.isnan(number):
            return f"{self._name} {found} is not a number: {EXPECTED_RATING}"
        low, high = self._low, self._high
        if (low is None or number >= low) and (high is None or number <= high):
            return f"{self._name} {found} is too large: expected -{self._limit:,} to {self._limit:,}; {FIX_LINE}"
        if low is None or high is None:
            scale = f"at least {low:g}" if low is not None else f"at most {high:g}"
        else:
            scale = f"{low:g} to {high:g}"
        return (
            f"{self._name} {found} is outside the scale: expected {scale}; "
            f"{FIX_LINE}, or set RECSYS_RATING_MIN and RECSYS_RATING_MAX"
        )


def to_numbers(column: pa.Array) -> NDArray[np.float64]:
    """Return a column of numbers as (n,) float64; NaN for null."""
    numbers: NDArray[np.float64] = (
        column.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy(zero_copy_only=False)
    )
    return numbers


def plain_number(text: str) -> float | None:
    """Return the number of a text with a decimal point; `None` if it is none."""
    return float(text) if NUMBER.match(text.strip()) else None


def decimal_of(values: list[str]) -> str | None:
    """Return the decimal separator that distinct values show; `None` if they do not, or show both."""
    shown: set[str] = set()
    for value in values:
        plain = _MONEY.sub("", value.strip()).translate(_BLANKS)
        commas, points = plain.count(","), plain.count(".")
        if not re.fullmatch(r"[+-]?[0-9.,]+", plain) or not commas + points:
            continue
        if commas and points:
            shown.add(max(",.", key=plain.rfind))
        elif commas > 1:
            shown.add(".")
        elif points > 1:
            shown.add(",")
        elif not re.search(r"[0-9]{1,3}[.,][0-9]{3}$", plain) or re.match(r"[+-]?0[.,]", plain) or len(plain) > 8:
            shown.add("," if commas else ".")
    return shown.pop() if len(shown) == 1 else None
