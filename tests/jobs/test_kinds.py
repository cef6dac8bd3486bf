"""Every kind of feedback from a file to lists: load, night, lists, popularity, evaluation, on planted tastes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from jobs import nightly as night
from jobs.evaluate import evaluate
from jobs.load import load
from jobs.nightly import nightly
from jobs.recommend import UserQuery, popular, recommend
from recsys.data.rating_scale import relevant_from
from recsys.database.engine import reading
from recsys.database.models import live_numbers, version
from recsys.results import Objective
from recsys.settings import Settings

N_USERS, N_ITEMS, N_CROWDS, N_EACH = 120, 60, 3, 14

Random = np.random.Generator


@dataclass(frozen=True)
class Kind:
    """One kind of feedback.

    Attributes:
        header: of the file.
        liked, disliked: return the value of an item that a user likes or dislikes; `None`: such rows are not written.
        scale: of the trainings.
    """

    header: str
    liked: Callable[[Random], str]
    disliked: Callable[[Random], str] | None
    scale: tuple[float, float]
    is_implicit: bool = False


def choice(*values: str) -> Callable[[Random], str]:
    return lambda random: str(random.choice(values))


KINDS = {
    "no rating": Kind("user_id,item_id", choice(""), None, (0, 1), True),
    "counts": Kind(
        "user_id,item_id,plays", lambda random: str(int(random.lognormal(3, 1.5)) + 1), choice("1"), (0, 1), True
    ),
    "money": Kind(
        "user_id,item_id,amount", lambda random: f"{random.lognormal(3, 1):.2f}", choice("0.99"), (0, 1), True
    ),
    "unary": Kind("user_id,item_id,rating", choice("1"), None, (0, 1), True),
    "thumbs": Kind("user_id,item_id,rating", choice("1"), choice("0"), (0, 1)),
    "signed": Kind("user_id,item_id,rating", choice("1"), choice("-1"), (-1, 1)),
    "percent": Kind(
        "user_id,item_id,score",
        lambda random: str(random.integers(75, 101)),
        lambda random: str(random.integers(0, 50)),
        (0, 100),
    ),
    "half stars": Kind("user_id,item_id,stars", choice("4", "4.5", "5"), choice("0.5", "1.5", "2"), (0.5, 5)),
    "one to ten": Kind("user_id,item_id,rating", choice("8", "9", "10"), choice("1", "3", "5"), (1, 10)),
}
SHORT = ("counts",)


def write(path: Path, kind: Kind) -> None:
    """Write feedback of users in crowds: each likes the items of the own crowd, and meets a few others.

    Some items of each crowd are popular, so that popularity is a baseline to be reckoned with.
    """
    random = np.random.default_rng(3)
    popularity = 1 / (np.arange(N_ITEMS) // N_CROWDS + 4)
    lines = [kind.header]
    for user in range(N_USERS):
        own = np.arange(N_ITEMS) % N_CROWDS == user % N_CROWDS
        chance = popularity * np.where(own, 1, 0.12 if kind.disliked is None else 0.3)
        for item in random.choice(N_ITEMS, N_EACH, replace=False, p=chance / chance.sum()):
            value = kind.liked if own[item] or kind.disliked is None else kind.disliked
            lines.append(f"u{user},i{item},{value(random)}".removesuffix(","))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in KINDS]
)
def test_a_kind_of_feedback_leads_to_lists_that_beat_popularity(
    name: str, sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night, "has_extra", lambda extra: False)  # without a map of the items
    kind, path, settings = KINDS[name], tmp_path / "feedback.csv", Settings(checkpoints=tmp_path / "checkpoints")
    write(path, kind)
    report = load(sqlite_engine, path, settings, rejects_file=tmp_path / "rejects.txt")
    assert report.rejected == 0
    assert report.kind == ("implicit" if kind.is_implicit else "explicit")
    assert report.inserted == N_USERS * N_EACH

    done = nightly(sqlite_engine, settings, device="cpu")
    status = {each.objective: each.status for each in done.objectives}
    assert status == {"rating": "skipped" if kind.is_implicit else "published", "ranking": "published"}
    with reading(sqlite_engine) as connection:
        live = live_numbers(connection)
        ranking = version(connection, live["ranking"]).training
    assert ranking.rating_scale == kind.scale
    assert ranking.metrics["ndcg"] > ranking.baselines["popular"]["ndcg"] + 0.05

    own, query = [], UserQuery(n=3)
    for user in range(0, N_USERS, 6):
        answer = recommend(sqlite_engine, f"u{user}", query)
        assert (answer.source, len(answer.items)) == ("model", 3)
        own += [int(item.item_id[1:]) % N_CROWDS == user % N_CROWDS for item in answer.items]
    assert np.mean(own) > 0.6

    by_bias = popular(sqlite_engine, "bias", 5, "desc")
    assert len(by_bias.items) == 5
    if kind.is_implicit:
        assert (by_bias.score_kind, by_bias.items[0].item_id) == ("count", popular_item(path))
    else:
        assert by_bias.score_kind == "bias"

    objectives: list[Objective] = ["ranking"] if kind.is_implicit else ["ranking", "rating"]
    for objective in objectives:
        evaluated = evaluate(path, None, settings, objective, split="hash", device="cpu")
        metric, baseline, sign = ("ndcg", "popular", 1) if objective == "ranking" else ("rmse", "bias", -1)
        assert sign * (evaluated.metrics[metric] - evaluated.baselines[baseline][metric]) > 0
        if objective == "ranking":
            assert evaluated.relevant_from == relevant_from(kind.scale)


def popular_item(path: Path) -> str:
    return Counter(line.split(",")[1] for line in path.read_text().splitlines()[1:]).most_common(1)[0][0]
