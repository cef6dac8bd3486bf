"""Name the parts of a request for a list that have no effect: unknown categories, attributes and ids."""

from collections.abc import Collection, Iterable, Iterator

from recsys.results import Ignored, Source
from recsys.serving.catalogue import Catalogue
from recsys.serving.filters import NO_FILTERS, Filters

MAX_IGNORED = 100
"""Most parts that an answer names."""


def ignored_parts(
    catalogue: Catalogue, filters: Filters, ids: Iterable[tuple[str, Collection[str]]] = ()
) -> tuple[Ignored, ...]:
    """Return the parts of a request that have no effect, at most `MAX_IGNORED`.

    Args:
        ids: name of a parameter, and the item ids that it has.
    """
    found: list[Ignored] = []
    if filters is not NO_FILTERS:
        found += _unknown_names(catalogue, filters)
    for where, item_ids in ids:
        unknown = [item_id for item_id in dict.fromkeys(item_ids) if item_id not in catalogue.idx_of]
        for item_id in unknown[:MAX_IGNORED]:
            reason = "there is no such item"
            if "," in item_id and any(part.strip() in catalogue.idx_of for part in item_id.split(",")):
                reason += f": repeat {where} for each id, a comma is part of an id"
            found.append(Ignored(where=where, value=item_id, reason=reason))
    return tuple(found[:MAX_IGNORED])


def ignored_diversity(diversity: float, sources: Iterable[Source]) -> tuple[Ignored, ...]:
    """Return that `diversity` has no effect on lists by popularity, where some of the lists are."""
    if not diversity or "popularity" not in sources:
        return ()
    reason = "a list by popularity is in the order of popularity"
    return (Ignored(where="diversity", value=f"{diversity:g}", reason=reason),)


def _unknown_names(catalogue: Catalogue, filters: Filters) -> Iterator[Ignored]:
    known = catalogue.idx_by_category
    for where, names in (("category", filters.categories), ("not_category", filters.not_categories)):
        for name in names:
            if name not in known:
                reason = "no item is in this category: see GET /v1/categories"
                if "," in name and any(part.strip() in known for part in name.split(",")):
                    reason = f"no item is in this category: repeat {where} for each one, a comma is part of a name"
                yield Ignored(where=where, value=name, reason=reason)
    for condition in filters.attributes:
        if condition.name not in catalogue.attributes.names:
            text = f"{condition.name}{condition.operator}{condition.value}"
            yield Ignored(where="attribute", value=text, reason="no item has this attribute, so none is listed")
