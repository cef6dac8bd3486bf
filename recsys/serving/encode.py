"""Lists as results, and as JSON written directly from positions and scores."""

import json
from collections.abc import Sequence

from recsys.results import ItemList, ListedItem
from recsys.scoring.search import TopN
from recsys.serving.catalogue import Catalogue
from recsys.serving.searches import RankedItems


def to_item_list(catalogue: Catalogue, ranked: RankedItems) -> ItemList:
    """Return a list as a result."""
    stored = catalogue.items
    items = [
        ListedItem(item_id=stored[idx].item_id, title=stored[idx].title, score=score)
        for idx, score in zip(ranked.best.item_idx.tolist(), ranked.best.scores.tolist(), strict=True)
    ]
    return ItemList(model_version=ranked.model_version, source=ranked.source, items=items, fallback=_fallback(ranked))


def to_json(catalogue: Catalogue, ranked: RankedItems) -> bytes:
    """Return the JSON of `to_item_list`, several times as fast."""
    number = b"null" if ranked.model_version is None else b"%d" % ranked.model_version
    return b'{"model_version":%b,%b}' % (number, _list_json(catalogue, ranked))


def to_json_lists(
    catalogue: Catalogue, model_version: int | None, user_ids: Sequence[str | None], lists: Sequence[RankedItems]
) -> bytes:
    """Return the lists of several users as the JSON of `UserLists`."""
    number = b"null" if model_version is None else b"%d" % model_version
    parts = [
        b'{"user_id":%b,%b}' % (json.dumps(user_id).encode(), _list_json(catalogue, ranked))
        for user_id, ranked in zip(user_ids, lists, strict=True)
    ]
    return b'{"model_version":%b,"lists":[%b]}' % (number, b",".join(parts))


def _list_json(catalogue: Catalogue, ranked: RankedItems) -> bytes:
    """Return source, items and fallback of a list as members of a JSON object."""
    members = b'"source":"%b","items":[%b]' % (ranked.source.encode(), _items_json(catalogue, ranked.best))
    reason = _fallback(ranked)
    return members if reason is None else b'%b,"fallback":%b' % (members, json.dumps(reason).encode())


def _items_json(catalogue: Catalogue, best: TopN) -> bytes:
    prefix = catalogue.json_prefix
    pairs = zip(best.item_idx.tolist(), best.scores.tolist(), strict=True)
    return b",".join([b"%b%a}" % (prefix(idx), score) for idx, score in pairs])


def _fallback(ranked: RankedItems) -> str | None:
    return ranked.fallback if ranked.source == "popularity" else None
