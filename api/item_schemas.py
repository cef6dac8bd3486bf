"""Query parameters and bodies of requests about items; `api.schemas` has all others."""

import json
from typing import Annotated

from pydantic import Field, FiniteFloat, SkipValidation, StrictBool, StringConstraints, field_validator

from api.routing import Params
from api.schemas import Body, Text

MAX_ATTRIBUTES = 100
MAX_NAME_LENGTH = 200
MAX_TEXT_LENGTH = 10_000
MAX_LIST_LENGTH = 1000
MAX_ATTRIBUTE_BYTES = 64 << 10
"""All attributes of one item as JSON. Every server holds those of all items in memory."""

AttributeName = Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)]
AttributeText = Annotated[str, StringConstraints(max_length=MAX_TEXT_LENGTH)]
AttributeList = Annotated[list[AttributeText], Field(max_length=MAX_LIST_LENGTH)]


class PutItem(Body):
    """Fields that are left out keep their values; null removes the title or the year."""

    title: Annotated[str, StringConstraints(max_length=1000)] | None = Field(
        default=None, examples=["Star Wars (1977)"]
    )
    categories: list[Annotated[str, StringConstraints(min_length=1, max_length=200)]] = Field(
        default=[], max_length=100, examples=[["Action", "Sci-Fi"]]
    )
    year: int | None = Field(default=None, strict=True, ge=-10_000, le=10_000, examples=[1977])
    attributes: dict[AttributeName, AttributeText | int | FiniteFloat | bool | AttributeList] = Field(
        default={},
        max_length=MAX_ATTRIBUTES,
        description=f"Other metadata, up to {MAX_ATTRIBUTE_BYTES:,} bytes as JSON; replaces all present attributes.",
    )
    hidden: StrictBool = Field(default=False, description="Whether the item is left out of all lists.")

    @field_validator("attributes")
    @classmethod
    def _has_bounded_size(cls, attributes: dict[str, object]) -> dict[str, object]:
        n_bytes = len(json.dumps(attributes, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if n_bytes > MAX_ATTRIBUTE_BYTES:
            raise ValueError(
                f"the attributes have {n_bytes:,} bytes as JSON: expected at most {MAX_ATTRIBUTE_BYTES:,}; "
                "keep long texts elsewhere, and their address here"
            )
        return attributes


class PostedItem(PutItem):
    # The error of such a row says more than that of pydantic.
    item_id: str = Field(examples=["50"], json_schema_extra={"minLength": 1})


class PostedItems(Body):
    items: list[SkipValidation[PostedItem]] = Field(min_length=1, max_length=1000)  # see `validated_rows`


class ItemsParams(Params):
    title: Text = Field(
        default="", description="Words of the title, in any order; case and accents are ignored.", examples=["star"]
    )
    limit: int = Field(default=50, ge=1, le=1000)
    cursor: Text | None = Field(default=None, description="`next_cursor` of the previous page.")
