"""Lists as results, and as JSON written directly from positions and scores."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recsys.results import Explanation, Ignored, ItemList, ListedItem
from recsys.serving.catalogue import Catalogue, year_of
from recsys.serving.searches import RankedItems

MAX_KEPT = 100_000
"""Items whose metadata are kept as JSON, about 20 MB of them."""

MetadataField = Literal["year", "categories", "attributes"]


@dataclass(frozen=True, slots=True)
class ItemDetails:
    """What the items of a list have besides title and score.

    Attributes:
        fields: metadata of the items.
        predictions: (n,) the ratings that the user would give; `None`: none were asked for.
        explanations: of each item; `None`: none were asked for.
    """

    fields: frozenset[MetadataField] = frozenset()
    predictions: NDArray[np.float64] | None = None
    explanations: Sequence[Explanation] | None = None


PLAIN = ItemDetails()


def metadata_fields(fields: Collection[str]) -> frozenset[MetadataField]:
    """Return those of the fields that are metadata."""
    return frozenset(name for name in get_args(MetadataField) if name in fields)


def to_item_list(catalogue: Catalogue, ranked: RankedItems, details: ItemDetails = PLAIN) -> ItemList:
    """Return a list as a result."""
    items = [
        ListedItem(
            item_id=catalogue.items[idx].item_id,
            title=catalogue.items[idx].title,
            score=score,
            **_metadata(catalogue, idx, details.fields),
            prediction=None if details.predictions is None else float(details.predictions[at]),
            explanation=None if details.explanations is None else details.explanations[at],
        )
        for at, (idx, score) in enumerate(zip(ranked.best.item_idx.tolist(), ranked.best.scores.tolist(), strict=True))
    ]
    return ItemList(
        model_version=ranked.model_version,
        source=ranked.source,
        score_kind=ranked.score_kind,
        items=items,
        next_cursor=ranked.next_cursor,
        fallback=ranked.fallback if ranked.source == "popularity" else None,
        ignored=list(ranked.ignored) or None,
        notice=ranked.notice,
    )


def to_json(catalogue: Catalogue, ranked: RankedItems, details: ItemDetails = PLAIN) -> bytes:
    """Return the JSON of `to_item_list`, several times as fast. Metadata that was asked for is null where unknown."""
    number = b"null" if ranked.model_version is None else b"%d" % ranked.model_version
    cursor = b"null" if ranked.next_cursor is None else b'"%b"' % ranked.next_cursor.encode()
    members = [b'"model_version":%b,%b,"next_cursor":%b' % (number, _list_json(catalogue, ranked, details), cursor)]
    if ranked.ignored:
        members.append(_ignored_json(ranked.ignored))
    if ranked.notice is not None:
        members.append(b'"notice":%b' % json.dumps(ranked.notice).encode())
    return b"{%b}" % b",".join(members)


def to_json_lists(
    catalogue: Catalogue,
    model_version: int | None,
    user_ids: Sequence[str | None],
    lists: Sequence[RankedItems],
    details: Sequence[ItemDetails] | None = None,
    ignored: Sequence[Ignored] = (),
) -> bytes:
    """Return the lists of several users as the JSON of `UserLists`."""
    number = b"null" if model_version is None else b"%d" % model_version
    parts = [
        b'{"user_id":%b,%b}' % (json.dumps(user_id).encode(), _list_json(catalogue, ranked, detail))
        for user_id, ranked, detail in zip(user_ids, lists, details or [PLAIN] * len(lists), strict=True)
    ]
    rest = b"," + _ignored_json(ignored) if ignored else b""
    return b'{"model_version":%b,"lists":[%b]%b}' % (number, b",".join(parts), rest)


def _list_json(catalogue: Catalogue, ranked: RankedItems, details: ItemDetails) -> bytes:
    """Return source, kind of scores, items and fallback of a list as members of a JSON object."""
    members = b'"source":"%b","score_kind":"%b","items":[%b]' % (
        ranked.source.encode(),
        ranked.score_kind.encode(),
        _items_json(catalogue, ranked, details),
    )
    if ranked.fallback is None or ranked.source != "popularity":
        return members
    return b'%b,"fallback":%b' % (members, json.dumps(ranked.fallback).encode())


def _items_json(catalogue: Catalogue, ranked: RankedItems, details: ItemDetails) -> bytes:
    prefix, known, best = catalogue.json_prefix, catalogue.json_prefixes.get, ranked.best
    pairs = zip(best.item_idx.tolist(), best.scores.tolist(), strict=True)
    if details is PLAIN:
        return b",".join([b"%b%a}" % (known(idx) or prefix(idx), score) for idx, score in pairs])
    items = []
    for at, (idx, score) in enumerate(pairs):
        item = b"%b%a" % (prefix(idx), score)
        if details.fields:
            item += b",%b" % _metadata_json(catalogue, idx, details.fields)
        if details.predictions is not None:
            item += b',"prediction":%a' % round(float(details.predictions[at]), 6)
        if details.explanations is not None:
            item += b',"explanation":%b' % details.explanations[at].model_dump_json().encode()
        items.append(item + b"}")
    return b",".join(items)


def _metadata_json(catalogue: Catalogue, idx: int, fields: frozenset[MetadataField]) -> bytes:
    """Return metadata of an item as the members of a JSON object; attributes may be large, and are not kept."""
    text = catalogue.json_metadata.get((idx, fields))
    if text is None:
        text = json.dumps(_metadata(catalogue, idx, fields), separators=(",", ":"))[1:-1].encode()
        if "attributes" not in fields:
            if len(catalogue.json_metadata) >= MAX_KEPT:
                catalogue.json_metadata.clear()
            catalogue.json_metadata[idx, fields] = text
    return text


def _metadata(catalogue: Catalogue, idx: int, fields: frozenset[MetadataField]) -> dict[str, Any]:
    """Return those metadata of an item that were asked for."""
    stored = catalogue.items[idx]
    metadata: dict[str, Any] = {}
    if "year" in fields:
        metadata["year"] = year_of(stored)
    if "categories" in fields:
        metadata["categories"] = list(stored.categories)
    if "attributes" in fields:
        metadata["attributes"] = {name: value for name, value in stored.attributes.items() if name != "year"}
    return metadata


def _ignored_json(ignored: Sequence[Ignored]) -> bytes:
    return b'"ignored":%b' % json.dumps([each.model_dump() for each in ignored]).encode()
