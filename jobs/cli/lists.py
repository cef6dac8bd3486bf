"""`recsys recommend`, `similar`, `popular` and `items`: the lists that the service answers with."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.filter_options import (
    AttributeOption,
    CategoryOption,
    CursorOption,
    ExcludeOption,
    FieldsOption,
    MinRatingsOption,
    NotCategoryOption,
    YearFromOption,
    YearToOption,
    check_fields,
    filters_of,
)
from jobs.cli.options import CountOption, JsonOption, OrderName, PopularByName, open_database
from jobs.cli.stopping import stoppable


@stoppable("no list was written")
def recommend_command(
    user_id: Annotated[str | None, typer.Argument(metavar="USER_ID", help="Id of a user, as loaded.")] = None,
    n: CountOption = 10,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="List items that the user has rated, too.")
    ] = False,
    category: CategoryOption = None,
    not_category: NotCategoryOption = None,
    year_from: YearFromOption = None,
    year_to: YearToOption = None,
    attribute: AttributeOption = None,
    min_ratings: MinRatingsOption = 0,
    exclude: ExcludeOption = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option("--candidate", metavar="ITEM_ID", help="Choose from these items alone; repeated for several."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="`ranking`, `rating`, or the number of a live version. Default: the live ranking version."),
    ] = None,
    field: FieldsOption = None,
    diversity: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="0: the best items; up to 1: among five times as many of the best, items less alike."
        ),
    ] = 0.0,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the parts of each score, and the ratings that raised it.")
    ] = False,
    cursor: CursorOption = None,
    all: Annotated[bool, typer.Option("--all", help="Write the lists of all users to a file.")] = False,
    out: Annotated[
        Path,
        typer.Option(
            help="What --all writes: a Parquet file, CSV if its name ends with .csv, or a folder of Parquet files if "
            "it has no ending."
        ),
    ] = Path("lists.parquet"),
    share: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Write the I-th of N shares of the folder; start a process for each of them."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print the best items for a user, or write the lists of all users to a file.

    An unknown user gets the items with the most ratings. The file of --all has the columns user_id, rank, item_id,
    score and source. An id that begins with a dash goes after two dashes.

        recsys recommend 196
        recsys recommend 196 --category Comedy --not-category Horror
        recsys recommend 196 --year-from 1990 --attribute 'price<=20'
        recsys recommend 196 --explain
        recsys recommend -- -7
        recsys recommend --all --out lists.csv
        recsys recommend --all --out lists --share 1/2

    A folder has a file for each 65,536 users. Repeat a run that was interrupted, and it goes on where it stopped.
    """
    from jobs.cli.show import show
    from jobs.list_parts import Share, recommend_parts
    from jobs.recommend import UserQuery, recommend, recommend_all

    if all == (user_id is not None):
        raise typer.BadParameter("give the id of one user, or --all for the lists of all users")
    if all and (explain or field or cursor):
        raise typer.BadParameter("--explain, --field and --cursor are for the list of one user, not for --all")
    if all and out.suffix not in (".parquet", ".csv", ""):
        raise typer.BadParameter(f"--out {out}: expected a folder, or a name that ends with .parquet or .csv")
    if share is not None and not (all and out.suffix == ""):
        raise typer.BadParameter("--share is for --all with a folder: --out lists")
    query = UserQuery(
        n=n,
        exclude_seen=not include_seen,
        filters=filters_of(category, not_category, year_from, year_to, attribute, min_ratings),
        exclude=exclude or [],
        candidates=candidate,
        model=model,
        fields=check_fields(field, ("year", "categories", "attributes", "prediction")),
        cursor=cursor,
        explain=explain,
        diversity=diversity,
    )
    part = Share() if share is None else Share.parse(share)
    engine, _ = open_database()
    if user_id is not None:
        show(recommend(engine, user_id, query), json)
    elif out.suffix == "":
        show(recommend_parts(engine, out, query, part), json)
    else:
        show(recommend_all(engine, out, query), json)


def similar_command(
    item_ids: Annotated[
        list[str], typer.Argument(metavar="ITEM_ID...", help="Id of an item, as in your files, or ids of several.")
    ],
    n: CountOption = 10,
    category: CategoryOption = None,
    not_category: NotCategoryOption = None,
    year_from: YearFromOption = None,
    year_to: YearToOption = None,
    attribute: AttributeOption = None,
    min_ratings: MinRatingsOption = 0,
    exclude: ExcludeOption = None,
    exclude_seen_by: Annotated[
        str | None, typer.Option("--exclude-seen-by", metavar="USER_ID", help="Exclude what this user has rated.")
    ] = None,
    field: FieldsOption = None,
    cursor: CursorOption = None,
    json: JsonOption = False,
) -> None:
    """Print the items that the same people like; for several items, those with the highest mean similarity.

    Items with few ratings come last: their place is mostly chance. An id that begins with a dash goes after two dashes.

        recsys similar 50
        recsys similar 50 181 --exclude-seen-by 196
        recsys similar 50 --n 20 --json
        recsys similar -- -7
    """
    from jobs.cli.show import show
    from jobs.recommend import similar

    filters = filters_of(category, not_category, year_from, year_to, attribute, min_ratings)
    fields = check_fields(field)
    engine, _ = open_database()
    show(similar(engine, item_ids, n, filters, exclude or (), exclude_seen_by, fields, cursor), json)


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
        typer.Option(min=0, help="Fewest ratings of a listed item. Default: 10 by bias and mean, and else 0."),
    ] = None,
    half_life_days: Annotated[
        float, typer.Option(min=0.01, max=3650, help="Age in days at which a rating counts half in a trend.")
    ] = 7.0,
    n: CountOption = 10,
    category: CategoryOption = None,
    not_category: NotCategoryOption = None,
    year_from: YearFromOption = None,
    year_to: YearToOption = None,
    attribute: AttributeOption = None,
    field: FieldsOption = None,
    cursor: CursorOption = None,
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
    from jobs.recommend import popular

    filters = filters_of(category, not_category, year_from, year_to, attribute)
    fields = check_fields(field)
    engine, _ = open_database()
    show(popular(engine, by, n, order, min_ratings, filters, half_life_days, fields, cursor), json)


def items_command(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD...]", help="Words of the title, in any order; case and accents are ignored."),
    ] = None,
    n: CountOption = 10,
    cursor: CursorOption = None,
    json: JsonOption = False,
) -> None:
    """Find items by the words of their titles, and print their ids.

    Hidden items are left out.

        recsys items star wars
        recsys items --n 100 --json
    """
    from jobs.cli.show import show
    from recsys.database.engine import reading
    from recsys.serving.catalogue import read_catalogue

    engine, _ = open_database()
    with reading(engine) as connection:
        catalogue = read_catalogue(connection)
    show(catalogue.search(" ".join(words or ()), n, cursor), json)
