"""Run in the environment of the generator: the made client asks a real server. Arguments: its folder, the URL."""

import sys

sys.path.insert(0, sys.argv[1])

from recsys_client import Client
from recsys_client.api.items import item_v1_items_item_id_get as get_item
from recsys_client.api.lists import recommend_v1_users_user_id_recommendations_get as recommend
from recsys_client.api.ratings import post_ratings_v1_ratings_post as post_ratings
from recsys_client.models import ItemList, NotFoundProblem, PostedRatings, RateReport
from recsys_client.models import PostedRatingsPostedRating as PostedRating

with Client(base_url=sys.argv[2]) as client:
    answer = recommend.sync(client=client, user_id="u1", n=2)
    assert isinstance(answer, ItemList), answer
    assert [(item.item_id, item.score) for item in answer.items] == [("b", 2.0), ("c", 0.5)]
    assert (answer.model_version, answer.source) == (1, "model")

    odd = recommend.sync(client=client, user_id="s/1 ü")
    assert isinstance(odd, ItemList), odd
    assert [item.item_id for item in odd.items] == ["c", "a", "d/ä", "e"]

    rows = [PostedRating(user_id="u1", item_id="b", rating=4.0), PostedRating(user_id="u1", item_id="zzz", rating=4.0)]
    report = post_ratings.sync(client=client, body=PostedRatings(ratings=rows))
    assert isinstance(report, RateReport), report
    assert (report.inserted, report.rejected, report.errors[0].index) == (1, 1, 1)
    following = recommend.sync(client=client, user_id="u1")
    assert isinstance(following, ItemList), following
    assert "b" not in [item.item_id for item in following.items]

    missing = get_item.sync_detailed(client=client, item_id="zzz")
    assert missing.status_code == 404, missing
    assert isinstance(missing.parsed, NotFoundProblem), missing
    assert missing.parsed.detail.startswith("there is no item 'zzz'")
sys.stdout.write("asked\n")
