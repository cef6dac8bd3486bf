"""`recsys recommend`, `recsys similar` and `recsys popular`: the lists that the service answers with."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import CountOption, JsonOption, OrderName, PopularByName, open_database
from jobs.cli.stopping import stoppable


@stoppable("no list was written")
def recommend_command(
    user_id: Annotated[str | None, typer.Argument(metavar="USER_ID", help="Id of a user, as loaded.")] = None,
    n: CountOption = 10,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="List items that the user has rated, too.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the parts of each score, and the ratings that raised it.")
    ] = False,
    all: Annotated[bool, typer.Option("--all", help="Write the lists of all users to a Parquet file.")] = False,
    out: Annotated[Path, typer.Option(help="The file that --all writes.")] = Path("lists.parquet"),
    json: JsonOption = False,
) -> None:
    """Print the best items for a user, or write the lists of all users to a file.

    An unknown user gets the items with the most ratings. The file of --all has the columns user_id, rank, item_id,
    score and source.

        recsys recommend 196
        recsys recommend 196 --explain
        recsys recommend --all --out lists.parquet
    """
    from jobs.cli.show import show
    from jobs.recommend import recommend, recommend_all
    from recsys.serving.lists import ListQuery

    if all == (user_id is not None):
        raise typer.BadParameter("give the id of one user, or --all for the lists of all users")
    engine, _ = open_database()
    query = ListQuery(n=n, exclude_seen=not include_seen)
    if user_id is None:
        show(recommend_all(engine, out, query), json)
    else:
        show(recommend(engine, user_id, query, explain=explain), json)


def similar_command(
    item_id: Annotated[str, typer.Argument(metavar="ITEM_ID", help="Id of an item, as in your files.")],
    n: CountOption = 10,
    json: JsonOption = False,
) -> None:
    """Print the items that the same people like.

    Items with few ratings come last: their place is mostly chance.

        recsys similar 50
        recsys similar 50 --n 20 --json
    """
    from jobs.cli.show import show
    from recsys.database.engine import reading
    from recsys.serving.encode import to_item_list
    from recsys.serving.searches import run_searches
    from recsys.serving.snapshot import load_recommender

    engine, _ = open_database()
    with reading(engine) as connection:
        recommender = load_recommender(connection)
    search = recommender.similar.search(item_id, n)
    ranked = recommender.similar.finish(search, run_searches([search])[0])
    show(to_item_list(recommender.catalogue, ranked), json)


def popular_command(
    by: Annotated[
        PopularByName,
        typer.Option(
            help="`bias`: item bias of the rating model; `count`: number of ratings; `mean`: mean rating; `trending`: "
            "ratings of the last days."
        ),
    ] = "bias",
    order: Annotated[OrderName, typer.Option(help="`desc`: highest first; `asc`: lowest first.")] = "desc",
    min_ratings: Annotated[
        int | None,
        typer.Option(min=0, help="Fewest ratings of a listed item. Default: 10; 0 with --by count."),
    ] = None,
    half_life_days: Annotated[
        float, typer.Option(min=0.01, max=3650, help="Age in days at which a rating counts half in a trend.")
    ] = 7.0,
    n: CountOption = 10,
    json: JsonOption = False,
) -> None:
    """Print items by popularity: by bias, number of ratings, mean rating or trend.

    The bias is the part of an item's score that does not depend on the user. Without a live rating
    model it is not known, and the list is one by number of ratings.

        recsys popular
        recsys popular --by count
        recsys popular --by trending --half-life-days 3
        recsys popular --by mean --order asc --min-ratings 50
    """
    from jobs.cli.show import show
    from recsys.database.engine import reading
    from recsys.serving.encode import to_item_list
    from recsys.serving.snapshot import load_recommender
    from recsys.serving.trending import read_trending

    engine, _ = open_database()
    trending, fallback = None, None
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        if by == "trending":
            trending, fallback = read_trending(connection, recommender, half_life_days, order)
    ranked = recommender.popular(by, n, order, min_ratings, trending=trending)
    show(to_item_list(recommender.catalogue, ranked._replace(fallback=fallback or ranked.fallback)), json)
