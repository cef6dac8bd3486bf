"""Options that filter lists: those of the HTTP API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recsys.serving.filters import Filters

CategoryOption = Annotated[
    list[str] | None,
    typer.Option("--category", help="List only items of this category; repeated: of any of these categories."),
]
NotCategoryOption = Annotated[
    list[str] | None,
    typer.Option("--not-category", help="List no item of this category; repeated: of none of these."),
]
YearFromOption = Annotated[int | None, typer.Option("--year-from", help="First year of a listed item.")]
YearToOption = Annotated[int | None, typer.Option("--year-to", help="Last year of a listed item.")]
AttributeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute",
        metavar="CONDITION",
        help="A condition on an attribute, such as 'colour=red' or 'price<=20', in quotes; repeated: all of them, but "
        "any of several values of one attribute.",
    ),
]
MinRatingsOption = Annotated[
    int, typer.Option("--min-ratings", min=0, help="Smallest number of ratings of a listed item.")
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="ITEM_ID", help="Exclude this item; repeated for several.")
]
FieldsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        metavar="NAME",
        help="Show this of every item, beside its title: `year`, `categories` or `attributes`, and `prediction` in the "
        "list of a user. Repeat it for several.",
    ),
]
CursorOption = Annotated[
    str | None, typer.Option("--cursor", help="Continue a list: `next_cursor` of the JSON of the page before.")
]


def filters_of(
    category: list[str] | None,
    not_category: list[str] | None,
    year_from: int | None,
    year_to: int | None,
    attribute: list[str] | None,
    min_ratings: int = 0,
) -> Filters:
    """Return the filters that the options name.

    Raises:
        BadParameter: a condition on an attribute cannot be read.
    """
    from recsys.serving.filters import Filters, parse_condition

    try:
        conditions = tuple(map(parse_condition, attribute or ()))
    except ValueError as error:
        raise typer.BadParameter(f"--attribute: {error}") from error
    return Filters(
        categories=tuple(category or ()),
        not_categories=tuple(not_category or ()),
        year_from=year_from,
        year_to=year_to,
        attributes=conditions,
        min_ratings=min_ratings,
    )


def check_fields(
    fields: list[str] | None, possible: tuple[str, ...] = ("year", "categories", "attributes")
) -> list[str]:
    """Return the fields.

    Raises:
        BadParameter: one of them does not exist.
    """
    for name in fields or ():
        if name not in possible:
            raise typer.BadParameter(f"--field {name}: expected one of {', '.join(possible)}")
    return fields or []
