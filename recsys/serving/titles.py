"""Search for items by the words of their titles."""

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
    """All titles, ordered by normalized title and key.

    Attributes:
        item_idx: (n_items,) positions of the items in the catalogue.
        keys: (n_items,) their keys.
        text: the normalized titles, each ended by a line feed: searching one text is faster than searching 62,000.
        starts: (n_items + 1,) where each title begins in the text.
    """

    item_idx: NDArray[np.int64]
    keys: NDArray[np.int64]
    text: str
    starts: NDArray[np.int64]

    def search(self, words: str, after: str | None = None) -> Iterator[int]:
        """Yield the positions, in this index, of the titles that contain all words; of all titles if there are none.

        Args:
            after: a `cursor`: only titles after it.

        Raises:
            InputError: the cursor is not valid.
        """
        wanted = sorted(normalize_title(words).split(), key=len, reverse=True)
        start = 0 if not after else bisect_right(range(len(self.keys)), _read_cursor(after), key=self._entry)
        for position in self._containing(wanted[0] if wanted else "", start):
            title, _ = self._entry(position)
            if all(word in title for word in wanted[1:]):
                yield position

    def cursor(self, position: int) -> str:
        """Return the text after which `search` continues.

        It holds title and key, so no other item is repeated or skipped if items are added or renamed in between.
        """
        return base64.urlsafe_b64encode(json.dumps(self._entry(position)).encode()).decode()

    def _entry(self, position: int) -> tuple[str, int]:
        """Return normalized title and key."""
        start, end = self.starts[position : position + 2].tolist()
        return self.text[start : end - 1], int(self.keys[position])

    def _containing(self, word: str, start: int) -> Iterator[int]:
        """Yield the positions, from `start` on, of the titles that contain a word; of all titles if it is empty."""
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
    """Return the index of the items of a catalogue, in their order there."""
    titles = [normalize_title(item.title or "") for item in items]
    order = sorted(range(len(items)), key=lambda idx: (titles[idx], items[idx].item_key))
    lines = [titles[idx] + "\n" for idx in order]
    return TitleIndex(
        item_idx=np.array(order, np.int64),
        keys=np.array([items[idx].item_key for idx in order], np.int64),
        text="".join(lines),
        starts=np.fromiter(accumulate(map(len, lines), initial=0), np.int64, len(lines) + 1),
    )


def normalize_title(text: str) -> str:
    """Return text for comparing: without case, accents and line feeds."""
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
    raise InputError(f"cursor {cursor[:80]!r} is not the next_cursor of a page: start without a cursor")
