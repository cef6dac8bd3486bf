"""The record of publications: what was live when, and what a rollback returns to."""

from typing import NamedTuple

from sqlalchemy import Connection, select

from recsys.database import schema
from recsys.results import Objective


class Publication(NamedTuple):
    """A version went live.

    Attributes:
        action: `publish` or `rollback`.
        published_at: Unix milliseconds in UTC.
    """

    objective: str
    number: int
    replaced_number: int | None
    action: str
    reason: str
    published_at: int


def read_publications(connection: Connection, limit: int = 50) -> list[Publication]:
    """Return the latest publications."""
    table = schema.publications
    columns = [table.c[name] for name in Publication._fields]
    rows = connection.execute(select(*columns).order_by(table.c.publication_key.desc()).limit(limit))
    return [Publication(*row) for row in rows]


def previously_published(connection: Connection, objective: Objective) -> list[int]:
    """Return the stored versions that rollbacks would make live one after the other; the first is the next one."""
    published = schema.publications.c
    history = connection.execute(
        select(published.number, published.action)
        .where(published.objective == objective)
        .order_by(published.publication_key)
    )
    stack: list[int] = []  # the live version last
    for number, action in history:
        if action == "publish":
            stack.append(number)
        else:
            while stack and stack[-1] != number:
                stack.pop()
    models = schema.models.c
    stored = set(connection.scalars(select(models.number).where(models.status == "ready")))
    earlier = [number for number in stack[:-1] if number in stored and number != stack[-1]]
    return list(dict.fromkeys(reversed(earlier)))


def was_published(connection: Connection, number: int) -> bool:
    """Return whether a version has ever been live."""
    published = schema.publications.c.number
    return connection.scalar(select(published).where(published == number).limit(1)) is not None
