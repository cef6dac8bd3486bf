"""`recsys capacity`: what a number of users, items and ratings needs."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import JsonOption


def capacity_command(
    users: Annotated[str, typer.Option(metavar="N", help="Users, such as 162000, 1M or 100M.")],
    items: Annotated[str, typer.Option(metavar="N", help="Items.")],
    ratings: Annotated[str, typer.Option(metavar="N", help="Ratings and events.")],
    n_factors: Annotated[int, typer.Option(min=1, help="Factors of the models.")] = 64,
    lists_per_second: Annotated[float, typer.Option(min=0.001, help="Lists that the service makes.")] = 100.0,
    costs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Costs of your machine, as `python -m benchmarks.capacity --json FILE` has."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compute disk, memory and time from measured costs of a rating, a user and an item.

    Needs no database. Each line says what it assumes.

        recsys capacity --users 162k --items 62k --ratings 25M
        recsys capacity --users 100M --items 10M --ratings 10G --lists-per-second 1000
    """
    from jobs.capacity import Costs, Size, parse_count, plan_capacity
    from jobs.cli.show import show

    size = Size(parse_count(users), parse_count(items), parse_count(ratings))
    measured = Costs() if costs is None else Costs.read(costs)
    show(plan_capacity(size, measured, n_factors=n_factors, lists_per_second=lists_per_second), json)
