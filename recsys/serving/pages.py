"""Pages of lists: a cursor carries the items that were listed, so that no item is listed twice.

A page is the list of the items that no page before had. So it respects every rating, every hidden item and every new
version since the page before, and items do not repeat whatever changes in between. After `MAX_SHOWN` items the cursor
would become too long for a URL: then it carries the last item only, and the list continues after its present place.
"""

import base64
import struct
import zlib
from binascii import b2a_base64
from operator import sub
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InputError
from recsys.scoring.search import TopN
from recsys.serving.catalogue import Catalogue
from recsys.serving.searches import RankedItems

ListKind = Literal["recommendations", "similar", "popular"]

MAX_SHOWN = 2000
"""Most items that a cursor carries: about 3,000 characters."""

_MAX_PLAIN = 25
"""Most items that a cursor carries uncompressed: compression takes longer than all the rest. An upper-case letter of
the kind of list says that the items are compressed."""

NEW_VERSION = "another model version went live since the last page: the items are in its order, none is repeated"
AFTER_LAST = (
    f"more than {MAX_SHOWN:,} items were listed: the list continues after the last one, and an item whose score "
    "changed since may be missing or repeated"
)

_KINDS: dict[ListKind, bytes] = {"recommendations": b"r", "similar": b"s", "popular": b"p"}
_HEADER = struct.Struct("<cqqq")
_PLAIN_CURSORS = [struct.Struct(f"<cqqq{n}q") for n in range(_MAX_PLAIN + 1)]
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_NO_ITEMS = np.empty(0, np.int64)


class Start(NamedTuple):
    """Where a page starts.

    Attributes:
        kind: of the list.
        shown: (n_shown,) positions of the items of the pages before, to be left out.
        keys: (n_shown,) their keys, ascending.
        n_listed: number of items of all pages before.
        last: position of the last item, if not all items are in `shown`: the list continues after it.
        model_version: of the page before; `None` on the first page, and where no version was used.
    """

    kind: ListKind
    shown: NDArray[np.int64] = _NO_ITEMS
    keys: NDArray[np.int64] = _NO_ITEMS
    n_listed: int = 0
    last: int | None = None
    model_version: int | None = None


def start_page(catalogue: Catalogue, kind: ListKind, cursor: str | None) -> Start:
    """Return where a page starts.

    Args:
        cursor: `next_cursor` of the page before; `None` or empty: the first page.

    Raises:
        InputError: the cursor is not one of such a list.
    """
    if not cursor:
        return Start(kind)
    wrong = InputError(f"cursor {cursor[:80]!r} is not the next_cursor of such a list: start without a cursor")
    try:
        content = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), b"-_", validate=True)
        letter, version, n_listed, last_key = _HEADER.unpack_from(content)
        packed = content[_HEADER.size :]
        is_whole = True
        if letter.isupper():
            unpack = zlib.decompressobj()
            packed = unpack.decompress(packed, 8 * MAX_SHOWN)
            is_whole = unpack.eof and not unpack.unconsumed_tail and not unpack.unused_data
        steps = np.frombuffer(packed, "<i8")
    except (ValueError, struct.error, zlib.error) as error:
        raise wrong from error
    keys = np.cumsum(steps)
    if (
        letter.lower() != _KINDS[kind]
        or not is_whole
        or (steps <= 0).any()
        or (keys <= 0).any()
        or n_listed < len(keys)
    ):
        raise wrong
    last = None
    if n_listed > len(keys):
        (last,) = catalogue.positions(np.array([last_key])).tolist()
        if last < 0:
            raise wrong
    idx = catalogue.positions(keys)
    return Start(kind, idx[idx >= 0], keys, n_listed, last, None if version < 0 else version)


def as_page(catalogue: Catalogue, ranked: RankedItems, n: int, start: Start) -> RankedItems:
    """Return the page of a list that was searched for `n` + 1 items: its first `n`, and a cursor if there are more."""
    notice = None
    if start.last is not None:
        notice = AFTER_LAST
    elif start.model_version is not None and start.model_version != ranked.model_version:
        notice = NEW_VERSION
    best = ranked.best
    if len(best.item_idx) <= n:
        return ranked if notice is None else ranked._replace(notice=notice)
    best = TopN(best.item_idx[:n], best.scores[:n])
    listed: list[int] = catalogue.item_keys[best.item_idx].tolist()
    n_listed = start.n_listed + n
    keys: list[int] = []
    if n_listed <= MAX_SHOWN:
        keys = sorted([*start.keys.tolist(), *listed] if start.n_listed else listed)
    steps = map(sub, keys, [0, *keys[:-1]])
    version = -1 if ranked.model_version is None else ranked.model_version
    letter, n_keys = _KINDS[start.kind], len(keys)
    if n_keys <= _MAX_PLAIN:
        content = _PLAIN_CURSORS[n_keys].pack(letter, version, n_listed, listed[-1], *steps)
    else:
        packed = zlib.compress(struct.pack(f"<{n_keys}q", *steps), 1)
        content = _HEADER.pack(letter.upper(), version, n_listed, listed[-1]) + packed
    cursor = b2a_base64(content, newline=False).translate(_URL_SAFE).rstrip(b"=").decode()
    return RankedItems(
        ranked.model_version,
        ranked.source,
        best,
        ranked.fallback,
        ranked.score_kind,
        ranked.ignored,
        cursor,
        notice,
    )
