"""How a person said that a file is to be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the content of a file does not say by itself.

    Attributes:
        implicit: whether the rows are events or counts; `None` recognises it.
        event_weights: name of an event → how much it counts; 0 leaves such rows out.
        unrated: the rating that stands for none.
        time_format: see `recsys.data.times.TimeReader`.
        words_are_ids: whether `None` or `NA` is an id, as in an export of what was posted, and not a word for no value.
        since_ms: Unix milliseconds; rows with an earlier time are left out.
        item_columns, user_columns: role → name of the column in the file of items or users.
    """

    implicit: bool | None = None
    event_weights: Mapping[str, float] | None = None
    unrated: str | None = None
    time_format: str | None = None
    words_are_ids: bool = False
    since_ms: int | None = None
    item_columns: Mapping[str, str] = field(default_factory=dict)
    user_columns: Mapping[str, str] = field(default_factory=dict)


AS_RECOGNISED = ReadOptions()
