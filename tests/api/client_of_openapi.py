"""Run in the environment of the generator: the made client asks a real server. Arguments: its folder, the URL."""

import sys

sys.path.insert(0, sys.argv[1])

from recsys_client import Client
from recsys_client.api.items import get_item, list_categories, post_items, put_item, search_items
from recsys_client.api.lists import popular, predict, recommend, recommend_many, similar, similar_to_many
from recsys_client.api.models import get_model, list_models, publish_version, rollback
from recsys_client.api.ratings import delete_rating, erase_user, list_ratings, post_ratings
from recsys_client.api.runs import get_run, list_runs
from recsys_client.models import (
    Categories,
    Item,
    ItemList,
    ItemPage,
    ItemsReport,
    ListsBody,
    ListUser,
    ModelDetail,
    ModelSummaries,
    ModelSummary,
    NotFoundProblem,
    PopularBy,
    PostedItem,
    PostedItems,
    PostedRating,
    PostedRatings,
    Predictions,
    Publish,
    PutItem,
    RateReport,
    RecommendFieldsItem,
    RollBack,
    RollBackObjective,
    RunDetail,
    RunSummaries,
    SimilarBody,
    UserLists,
    UserRatings,
    VisitorRating,
)
from recsys_client.types import Unset


def ids(answer: object) -> list[str]:
    assert isinstance(answer, ItemList), answer
    return [item.item_id for item in answer.items]


with Client(base_url=sys.argv[2]) as client:
    # Lists
    answer = recommend.sync(client=client, user_id="u1", n=2)
    assert isinstance(answer, ItemList), answer
    assert [(item.item_id, item.score) for item in answer.items] == [("b", 2.0), ("c", 0.5)]
    assert (answer.model_version, answer.source, answer.score_kind) == (1, "model", "logit")
    assert isinstance(answer.next_cursor, str)
    assert ids(recommend.sync(client=client, user_id="u1", n=2, cursor=answer.next_cursor)) == ["e", "d/ä"]
    assert ids(recommend.sync(client=client, user_id="s/1 ü")) == ["c", "a", "d/ä", "e"]

    filtered = recommend.sync(
        client=client,
        user_id="u1",
        not_category=["Drama", "none"],
        year_from=1980,
        fields=list(RecommendFieldsItem),
    )
    assert ids(filtered) == ["b", "d/ä"]
    assert isinstance(filtered, ItemList)
    assert (filtered.items[0].year, filtered.items[0].categories) == (1985, ["Sci-Fi"])
    assert isinstance(filtered.items[0].prediction, float)
    assert not isinstance(filtered.ignored, Unset)
    assert [(part.where, part.value) for part in filtered.ignored] == [("not_category", "none")]

    lists = recommend_many.sync(
        client=client,
        body=ListsBody(
            users=[
                ListUser(user_id="u1"),
                ListUser(ratings=[VisitorRating(item_id="a", rating=5), VisitorRating(item_id="c", event="view")]),
            ],
            n=1,
            exclude=["b"],
        ),
    )
    assert isinstance(lists, UserLists), lists
    assert [(one.user_id, one.source) for one in lists.lists] == [("u1", "model"), (None, "fold_in")]
    assert lists.lists[0].items[0].item_id == "c"

    assert ids(similar.sync(client=client, item_id="a", n=1)) == ["b"]
    assert "c" not in ids(similar.sync(client=client, item_id="a", exclude_seen_by="u2"))
    assert ids(similar_to_many.sync(client=client, body=SimilarBody(item_ids=["a", "c"], n=1))) == ["e"]
    assert ids(popular.sync(client=client, by=PopularBy.COUNT, n=2)) == ["a", "c"]
    assert ids(popular.sync(client=client, by=PopularBy.TRENDING, n=1)) == ["a"]
    predicted = predict.sync(client=client, user_id="u1", item_id=["a", "zzz"])
    assert isinstance(predicted, Predictions), predicted
    assert ([each.item_id for each in predicted.items], predicted.unknown) == (["a"], ["zzz"])

    # Items
    categories = list_categories.sync(client=client)
    assert isinstance(categories, Categories), categories
    assert ("Sci-Fi", 3) in [(each.name, each.n_items) for each in categories.categories]
    rows = [PostedItem(item_id="x", title="Xanadu (1980)", categories=["Musical"]), PostedItem(item_id="a", year=1979)]
    report = post_items.sync(client=client, body=PostedItems(items=rows))
    assert isinstance(report, ItemsReport), report
    assert (report.inserted, report.unchanged, report.rejected) == (1, 1, 0)
    put = put_item.sync(client=client, item_id="y", body=PutItem(title="Yojimbo (1961)"))
    assert isinstance(put, Item), put
    found = search_items.sync(client=client, title="yojimbo")
    assert isinstance(found, ItemPage), found
    assert [item.item_id for item in found.items] == ["y"]
    missing = get_item.sync_detailed(client=client, item_id="zzz")
    assert missing.status_code == 404, missing
    assert isinstance(missing.parsed, NotFoundProblem), missing
    assert missing.parsed.detail.startswith("there is no item 'zzz'")

    # Ratings and events
    posted = [
        PostedRating(user_id="u1", item_id="b", rating=4.0, rated_at=1_700_000_000),
        PostedRating(user_id="u1", item_id="zzz", rating=4.0),
        PostedRating(user_id="u1", item_id="c", event="view"),
    ]
    rated = post_ratings.sync(client=client, body=PostedRatings(ratings=posted))
    assert isinstance(rated, RateReport), rated
    assert (rated.inserted, rated.rejected, rated.errors[0].index) == (2, 1, 1)
    assert not {"b", "c"} & set(ids(recommend.sync(client=client, user_id="u1")))
    page = list_ratings.sync(client=client, user_id="u1", limit=1)
    assert isinstance(page, UserRatings), page
    assert (page.ratings[0].item_id, isinstance(page.next_cursor, str)) == ("c", True)
    assert delete_rating.sync_detailed(client=client, user_id="u1", item_id="b").status_code == 204
    assert "b" in ids(recommend.sync(client=client, user_id="u1"))
    assert erase_user.sync_detailed(client=client, user_id="u1").status_code == 200

    # Versions and runs
    versions = list_models.sync(client=client)
    assert isinstance(versions, ModelSummaries), versions
    assert {version.number for version in versions.models} == {1, 2, 3}
    one = get_model.sync(client=client, number=3)
    assert isinstance(one, ModelDetail), one
    published = publish_version.sync(client=client, number=3, body=Publish(reason="another"))
    assert isinstance(published, ModelSummary), published
    back = rollback.sync(client=client, body=RollBack(objective=RollBackObjective.RANKING, reason="back"))
    assert isinstance(back, ModelSummary), back
    assert back.number == 1
    runs = list_runs.sync(client=client, n=5, job="nightly")
    assert isinstance(runs, RunSummaries), runs
    run = get_run.sync(client=client, number=runs.runs[0].run)
    assert isinstance(run, RunDetail), run
    assert [step.step for step in run.steps] == ["load"]
sys.stdout.write("asked\n")
