"""The public face: `Learner`, and that it answers as the service does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

import recsys
from recsys import InputError, Learner, NotFoundError, RatingData, hold_out, load_ratings
from recsys.data import sample
from recsys.database.engine import reading
from recsys.database.models import live_numbers
from recsys.errors import NoModelError
from recsys.results import Objective
from tests.api.conftest import serving

SETTINGS: dict[str, Any] = {"n_epochs": 2, "n_factors": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings and films as files."""
    path = tmp_path_factory.mktemp("ratings")
    sample.write(path, sample.generate(n_users=150, n_items=80, n_ratings=4000))
    return path


@pytest.fixture(scope="module")
def data(folder: Path) -> RatingData:
    return load_ratings(folder)


@pytest.fixture(scope="module", params=["ranking", "rating"])
def learner(request: pytest.FixtureRequest, data: RatingData) -> Learner:
    return Learner.fit(data, objective=request.param, device="cpu", **SETTINGS)


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def rows(answer: dict[str, Any]) -> list[tuple[object, object, object]]:
    return [(item["item_id"], item["title"], item["score"]) for item in answer["items"]]


def frame_rows(frame: pd.DataFrame) -> list[tuple[object, object, object]]:
    return list(frame[["item_id", "title", "score"]].itertuples(index=False, name=None))


def test_tables_and_figures_are_those_of_the_model(learner: Learner, data: RatingData) -> None:
    table = learner.table.items()
    assert table.item_id.tolist() == [data.items[key].item_id for key in learner.factors.item_keys.tolist()]
    user_id = next(iter(data.user_ids.values()))
    listed = learner.explain(user_id, 1).items[0]
    parts = learner.table.explanation(user_id)
    assert parts.value.sum() == pytest.approx(listed.score, abs=2e-5)
    assert learner.plot.explanation(user_id).data[0].x[-1] == listed.score
    assert learner.table.user(user_id).rating.is_monotonic_decreasing
    assert learner.table.lists()["users"] == data.ratings.n_users
    assert learner.table.compare(learner.view).overlap.min() == 1
    assert len(learner.plot.map("category:Drama").data[0].x) == learner.factors.n_items
    if learner.factors.objective == "rating":
        assert learner.table.residuals().n.sum() == data.ratings.n_ratings


def test_a_learning_rate_and_a_sweep_are_found_on_ratings_held_out_of_its_own(learner: Learner) -> None:
    before = learner.factors.item_factors.copy()
    found = learner.lr_find(n_steps=40)
    assert found.used == learner.config["learning_rate"]
    assert len(found.table) == len(found.plot().data[0].x) <= 40
    assert f"valley: {found.found.valley:.2g}" in [trace.name for trace in found.plot().data]
    sweep = learner.sweep("l2", "1e-2:1e2", n_epochs=1)
    assert sweep.table.index.tolist() == [0.01, 0.1, 1, 10, 100]
    measured = [row.metric for row in (*sweep.rows, sweep.used) if row.metric is not None]
    best = min if learner.factors.objective == "rating" else max
    assert sweep.best.metric == best(measured)
    assert list(sweep.plot().data[0].y) == sweep.table[sweep.metric].tolist()
    np.testing.assert_array_equal(learner.factors.item_factors, before)


@pytest.mark.parametrize("architecture", ["dot", "neural"])
def test_answers_equal_those_of_the_service_bit_for_bit(engine: Engine, data: RatingData, architecture: Any) -> None:
    learners: dict[Objective, Learner] = {}
    for objective in ("ranking", "rating"):
        learners[objective] = Learner.fit(
            data, objective=objective, architecture=architecture, device="cpu", n_epochs=2
        )
        learners[objective].publish(url_of(engine))
    ranking, rating = learners["ranking"], learners["rating"]
    users = sorted(data.user_ids.values())[:25]
    items = [item.item_id for item in data.items.values()][:20]

    def round6(values: list[float]) -> list[float]:  # as JSON has them
        return [round(value, 6) for value in values]

    with serving(url_of(engine)) as client:
        for user in [*users, "unknown"]:
            answer = client.get(f"/v1/users/{user}/recommendations", params={"n": 15}).json()
            assert rows(answer) == frame_rows(ranking.recommend(user, 15))
            filtered = {"exclude": items[:3], "min_ratings": 20, "exclude_seen": False, "category": ["Drama"]}
            answer = client.get(f"/v1/users/{user}/recommendations", params=filtered).json()
            expected = ranking.recommend(
                user, exclude=items[:3], min_ratings=20, exclude_seen=False, categories=["Drama"]
            )
            assert rows(answer) == frame_rows(expected)
            answer = client.get(f"/v1/users/{user}/predictions", params={"item_id": items}).json()
            predicted = [row["prediction"] for row in answer["items"]]
            assert predicted == round6(rating.predict(user, items)["prediction"].tolist())
            explained = client.get(f"/v1/users/{user}/recommendations", params={"n": 2, "explain": True}).json()
            assert explained["items"] == json.loads(ranking.explain(user, 2).model_dump_json())["items"]
        for item in items:
            answer = client.get(f"/v1/items/{item}/similar").json()
            assert rows(answer) == frame_rows(ranking.similar(item))
        for by in ("bias", "count", "mean"):
            answer = client.get("/v1/popular", params={"by": by, "order": "asc"}).json()
            assert rows(answer) == frame_rows(rating.popular(by, order="asc"))  # type: ignore[arg-type]
        visitor = {items[0]: 5.0, items[5]: 2.0}
        body = {"users": [{"ratings": [{"item_id": item, "rating": value} for item, value in visitor.items()]}]}
        answer = client.post("/v1/recommendations", json=body).json()["lists"][0]
        assert rows(answer) == frame_rows(ranking.recommend(ratings=visitor))


def test_saved_and_loaded_is_the_same(learner: Learner, tmp_path: Path) -> None:
    learner.save(tmp_path / "model")
    loaded = Learner.load(tmp_path / "model")
    user = next(iter(learner.data.user_ids.values()))
    assert loaded.recommend(user).equals(learner.recommend(user))
    assert loaded.recommend(ratings={"i0001": 5}).equals(learner.recommend(ratings={"i0001": 5}))
    assert loaded.explain(user) == learner.explain(user)
    assert loaded.data.ratings.fingerprint().split("-")[:2] == learner.data.ratings.fingerprint().split("-")[:2]
    assert (loaded.config, loaded.rating_scale) == (learner.config, learner.rating_scale)
    assert repr(loaded) == repr(learner)


@pytest.mark.parametrize("name", ["factors.safetensors", "weights.safetensors", "ratings.parquet", "learner.json"])
def test_a_damaged_file_is_refused(learner: Learner, tmp_path: Path, name: str) -> None:
    learner.save(tmp_path / "model")
    path = tmp_path / "model" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 if name != "learner.json" else 0x80
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        Learner.load(tmp_path / "model")
    path.unlink()
    with pytest.raises(InputError, match="holds no saved model"):
        Learner.load(tmp_path / "model")


def test_one_user_several_users_and_a_visitor(learner: Learner) -> None:
    users = list(learner.data.user_ids.values())[:3]
    several = learner.recommend(users, 4)
    assert several.columns.tolist() == ["user_id", "rank", "item_id", "title", "score"]
    for user in users:
        one = several[several.user_id == user]
        assert one["rank"].tolist() == [1, 2, 3, 4]
        assert frame_rows(one) == frame_rows(learner.recommend(user, 4))
    assert len(learner.recommend([], 4)) == 0
    seen = {"i0001": 5.0, "i0002": 4.0}
    assert not set(learner.recommend(ratings=seen, n=80).item_id) & set(seen)
    assert learner.fold_in(seen).vector.shape == (learner.factors.n_factors,)
    with pytest.raises(NotFoundError, match="knows none of these items"):
        learner.fold_in({"no such item": 1.0})
    with pytest.raises(InputError, match="either a user"):
        learner.recommend()
    with pytest.raises(NotFoundError, match="no such item"):
        learner.similar("no such item")


def test_a_list_has_no_item_that_the_user_rated(learner: Learner) -> None:
    ratings = learner.data.ratings
    for user in range(0, ratings.n_users, 20):
        rated = {
            learner.data.items[key].item_id for key in ratings.item_keys[ratings.item_idx[ratings.user_idx == user]]
        }
        listed = learner.recommend(learner.data.user_ids[int(ratings.user_keys[user])], 80)
        assert not rated & set(listed.item_id)


def test_an_objective_answers_what_it_can(data: RatingData) -> None:
    ranking = Learner.fit(data, device="cpu", **SETTINGS)
    with pytest.raises(NoModelError, match="rating"):
        ranking.predict("u0001", "i0001")
    with pytest.raises(NoModelError, match="rating"):
        ranking.popular("bias")


def test_evaluation_aligns_by_id(data: RatingData, folder: Path) -> None:
    """Test ratings from elsewhere, whose keys mean other users and items, are measured under the right ids."""
    held_out = hold_out(data.ratings, "random", seed=3)
    learner = Learner.fit(data.select(~held_out), objective="rating", device="cpu", **SETTINGS)
    report = learner.evaluate(data.select(held_out))
    test = data.select(held_out).ratings
    frame = pd.DataFrame(
        {
            "user": [data.user_ids[key] for key in test.user_keys[test.user_idx]],
            "item": [data.items[key].item_id for key in test.item_keys[test.item_idx]],
            "rating": test.rating.astype(float),
        }
    )
    elsewhere = learner.evaluate(frame.sample(frac=1, random_state=1))
    assert elsewhere.metrics == pytest.approx(report.metrics, rel=1e-6)
    assert elsewhere.known_share == report.known_share
    strangers = replace_ids(frame)
    assert learner.evaluate(strangers).metrics["rmse"] != pytest.approx(report.metrics["rmse"], rel=1e-6)


def replace_ids(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(user="new " + frame.user)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_ratings_from_data_frames(data: RatingData, library: str) -> None:
    ratings = data.ratings
    columns = {
        "user_id": [data.user_ids[key] for key in ratings.user_keys[ratings.user_idx].tolist()],
        "item_id": [data.items[key].item_id for key in ratings.item_keys[ratings.item_idx].tolist()],
        "rating": ratings.rating.tolist(),
    }
    module = pytest.importorskip(library)
    read = load_ratings(module.DataFrame(columns))
    assert (read.ratings.n_ratings, read.ratings.n_users) == (ratings.n_ratings, ratings.n_users)
    learner = Learner.fit(module.DataFrame(columns), device="cpu", **SETTINGS)
    assert len(learner.recommend(columns["user_id"][0])) == 10


def test_ratings_from_a_database(engine: Engine, data: RatingData) -> None:
    learner = Learner.fit(data, device="cpu", **SETTINGS)
    assert learner.publish(url_of(engine)) == 1
    with reading(engine) as connection:
        assert live_numbers(connection) == {"ranking": 1}
    read = load_ratings(url_of(engine))
    assert read.ratings.fingerprint().split("-")[:2] == data.ratings.fingerprint().split("-")[:2]
    assert sorted(read.user_ids.values()) == sorted(data.user_ids.values())
    titles = {item.item_id: item.title for item in data.items.values()}
    assert {item.item_id: item.title for item in read.items.values()} == titles


def test_a_database_that_is_not_there_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(recsys.RecsysError):
        load_ratings(f"sqlite:///{tmp_path / 'none.db'}")
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_lists(data: RatingData) -> None:
    first, second = (Learner.fit(data, device="cpu", seed=5, **SETTINGS) for _ in range(2))
    assert np.array_equal(first.factors.item_factors, second.factors.item_factors)
    assert np.array_equal(first.factors.user_factors, second.factors.user_factors)


def test_the_public_names_are_documented_with_an_example() -> None:
    names = [name for name in recsys.__all__ if name != "__version__"]
    assert 10 <= len(names) <= 15
    for name in names:
        assert ">>>" in (getattr(recsys, name).__doc__ or ""), name
    for name in (
        "recommend",
        "similar",
        "popular",
        "predict",
        "evaluate",
        "fold_in",
        "explain",
        "save",
        "load",
        "publish",
    ):
        assert ">>>" in (getattr(Learner, name).__doc__ or ""), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        recsys.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "['torch', 'sqlalchemy', 'pandas', 'numpy', 'pyarrow', 'pydantic']"
    code = f"import sys, recsys; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
