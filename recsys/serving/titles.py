"""Finding items by the words of their titles."""

import base64
import json
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from recsys.database.items import StoredItem
from recsys.errors import InputError


@dataclass(frozen=True, slots=True)
class TitleIndex:
    """All titles in the order of (folded title, key).

    Attributes:
        places: (n_items,) places of the items in the catalogue, in that order.
        keys: (n_items,) their keys.
        text: the folded titles, each ended by a line feed: one text is searched, not 62,000.
        starts: (n_items + 1,) where each begins.
    """

    places: NDArray[np.int64]
    keys: NDArray[np.int64]
    text: str
    starts: NDArray[np.int64]

    def search(self, words: str, after: str | None = None) -> Iterator[int]:
        """Positions in the index of the titles that have all of some words, in order; of all where there are none.

        Args:
            after: a `cursor`: only what comes after it.

        Raises:
            InputError: it is not a cursor.
        """
        wanted = sorted(fold(words).split(), key=len, reverse=True)
        start = 0 if after is None else bisect_right(range(len(self.keys)), _read_cursor(after), key=self._at)
        for position in self._with_word(wanted[0] if wanted else "", start):
            title, _ = self._at(position)
            if all(word in title for word in wanted[1:]):
                yield position

    def cursor(self, position: int) -> str:
        """What `search` goes on after. It holds title and key, so that whatever is added or renamed meanwhile, no other
        item is repeated or skipped."""
        return base64.urlsafe_b64encode(json.dumps(self._at(position)).encode()).decode()

    def _at(self, position: int) -> tuple[str, int]:
        """Folded title and key."""
        start, end = self.starts[position : position + 2].tolist()
        return self.text[start : end - 1], int(self.keys[position])

    def _with_word(self, word: str, start: int) -> Iterator[int]:
        """Positions, from `start` on, of the titles that hold a word; of all where it is empty."""
        if not word:
            yield from range(start, len(self.keys))
            return
        while start < len(self.keys):
            found = self.text.find(word, int(self.starts[start]))
            if found < 0:
                return
            position = int(np.searchsorted(self.starts, found, "right")) - 1
            yield position
            start = position + 1


def title_index(items: Sequence[StoredItem]) -> TitleIndex:
    """The index of items in the order of their keys."""
    folded = [fold(item.title or "") for item in items]
    order = sorted(range(len(items)), key=folded.__getitem__)  # stable: equal titles in the order of their keys
    lines = [folded[place] + "\n" for place in order]
    return TitleIndex(
        places=np.array(order, np.int64),
        keys=np.array([items[place].item_key for place in order], np.int64),
        text="".join(lines),
        starts=np.fromiter(accumulate(map(len, lines), initial=0), np.int64, len(lines) + 1),
    )


def fold(text: str) -> str:
    """Text for comparing: case, accents and line feeds gone."""
    if text.isascii():
        return text.casefold().replace("\n", " ")
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).casefold().replace("\n", " ")


def _read_cursor(cursor: str) -> tuple[str, int]:
    try:
        title, key = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        if isinstance(title, str) and type(key) is int:
            return title, key
    except (ValueError, TypeError, RecursionError):
        pass
    raise InputError(f"cursor {cursor[:80]!r} is not one that a page ended with: start without a cursor")
