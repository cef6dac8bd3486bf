"""How a person said that a file is to be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from recsys.errors import InputError


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the content of a file does not say by itself.

    Attributes:
        implicit: whether the rows are events or counts; `None` recognises it.
        event_weights: name of an event → how much it counts; 0 leaves such rows out.
        unrated: the rating that stands for none.
        time_format: see `recsys.data.times.TimeReader`.
        item_columns, user_columns: role → name of the column in the file of items or users.
    """

    implicit: bool | None = None
    event_weights: Mapping[str, float] | None = None
    unrated: str | None = None
    time_format: str | None = None
    item_columns: Mapping[str, str] = field(default_factory=dict)
    user_columns: Mapping[str, str] = field(default_factory=dict)


AS_RECOGNISED = ReadOptions()


def parse_event_weights(text: str) -> dict[str, float]:
    """Return `view=1,cart=3` as a mapping.

    Raises:
        InputError: a part is not NAME=NUMBER, or a number is negative.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1.0
        if not equals or not name.strip() or not 0 <= weight <= 1e6:
            raise InputError(
                f"--event-weights {part}: expected NAME=NUMBER, such as view=1,cart=3,purchase=5; correct it"
            )
        weights[name.strip()] = weight
    return weights
