"""`recsys train` and `recsys evaluate` beyond the main job: both architectures, metadata, splits, checkpoints."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from jobs import pipeline
from jobs.train import train
from jobs.training_data import ratings_to_train_on
from recsys.data import sample
from recsys.data.encoding import collect
from recsys.data.rows import ItemRow
from recsys.database.engine import reading
from recsys.database.items import upsert_items
from recsys.database.leases import TRAINING, lease
from recsys.database.models import load_factors
from recsys.database.ratings import upsert_ratings
from recsys.settings import Settings
from tests.jobs.cli.test_main import Recsys


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ratings")
    return sample.write(folder, sample.generate(n_users=100, n_items=60, n_ratings=2500, seed=1))


@pytest.fixture
def recsys(tmp_path: Path) -> Recsys:
    return Recsys(tmp_path, f"sqlite:///{tmp_path / 'recsys.db'}")


@pytest.fixture
def loaded(engine: Engine) -> Engine:
    made = sample.generate(n_users=120, n_items=60, n_ratings=3000, seed=1)
    upsert_items(engine, made.items)
    upsert_ratings(engine, collect([made.ratings]))
    return engine


def test_a_neural_version_is_trained_stored_and_served(recsys: Recsys, ratings: Path) -> None:
    recsys("load", str(ratings))
    for objective in ("rating", "ranking"):
        options = ("--objective", objective, "--architecture", "neural", "--set", "n_epochs=1")
        report = recsys.json("train", *options, "--force", "--reason", "-")
        assert (report["architecture"], report["published"]) == ("neural", True)
    recommended = recsys.json("recommend", "u0001")
    assert (recommended["source"], len(recommended["items"])) == ("model", 10)
    first = recommended["items"][0]["item_id"]
    assert first not in {item["item_id"] for item in recsys.json("similar", first)["items"]}
    assert recsys.json("popular", "--by", "bias")["source"] == "popularity"
    assert recsys("report").strip() == "report/report.html"


def test_an_item_version_is_trained_stored_and_served(recsys: Recsys, ratings: Path) -> None:
    recsys("load", str(ratings))
    report = recsys.json("train", "--architecture", "item")
    assert (report["architecture"], report["published"]) == ("item", True)
    assert report["refit"]["overlap"] > 0.7
    model = recsys.json("models", "show", str(report["model_version"]))
    assert model["configuration"]["item_l2"] is None
    assert set(model["configuration"]["found"]) == {"item_l2", "item_power", "popularity"}
    recommended = recsys.json("recommend", "u0001", "--explain")
    assert (recommended["source"], len(recommended["items"])) == ("model", 10)
    first = recommended["items"][0]
    assert first["explanation"]["item_weights"] == pytest.approx(first["explanation"]["all_contributions"])
    assert first["item_id"] not in {item["item_id"] for item in recsys.json("similar", first["item_id"])["items"]}
    assert recsys.json("recommend", "--all", "--out", "lists.parquet")["users"] == 100
    assert recsys("report").strip() == "report/report.html"


def test_items_that_nobody_rated_have_a_vector_from_their_metadata(loaded: Engine) -> None:
    with reading(loaded) as connection:
        known = ratings_to_train_on(connection)
    assert known.item_features is not None
    category = next(name for name in known.item_features.names if name.startswith("category: "))
    new = ItemRow("brand new", "Brand New (1999)", (category.removeprefix("category: "),), 1999)
    upsert_items(loaded, [new])
    with reading(loaded) as connection:
        ratings = ratings_to_train_on(connection)
    assert ratings.fingerprint() != known.fingerprint()  # a new item is a reason to train
    with lease(loaded, TRAINING) as held:
        report = train(loaded, Settings(), held, "ranking", overrides={"n_epochs": 3}, device="cpu")
    with reading(loaded) as connection:
        factors = load_factors(connection, report.model_version)
    assert factors.n_items == known.n_items + 1
    assert np.linalg.norm(factors.item_factors[-1]) > 0  # its key is the highest


def test_a_training_goes_on_from_its_checkpoint_which_is_gone_when_it_is_stored(
    loaded: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(pipeline, "say", said.append)
    overrides = {"n_epochs": 4}
    settings = Settings(checkpoints=tmp_path / "aside")
    with lease(loaded, TRAINING) as held:
        whole = train(loaded, settings, held, "rating", overrides=overrides, device="cpu")
        assert list(settings.checkpoints.iterdir()) == []

        def interrupted(*_: object, **__: object) -> int:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(pipeline, "store", interrupted)
            train(loaded, settings, held, "rating", overrides=overrides, device="cpu")
        # The last states of the training and of the refit, if the gate let it come to one.
        kept = min(settings.checkpoints.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        stale = kept.with_name("rating-dot-0123456789abcdef.safetensors")
        stale.write_bytes(b"of other ratings")
        said.clear()
        again = train(loaded, settings, held, "rating", overrides=overrides, device="cpu")
    assert f"rating: continuing from the checkpoint {kept}" in said
    assert list(settings.checkpoints.iterdir()) == []
    with reading(loaded) as connection:
        first, second = (load_factors(connection, report.model_version) for report in (whole, again))
    assert np.array_equal(first.user_factors, second.user_factors)
    assert np.array_equal(first.item_factors, second.item_factors)


@pytest.mark.parametrize("split", ["last-tenth", "hash", "random", "time-cut", "leave-last-out"])
def test_evaluate_holds_out_by_any_split(recsys: Recsys, ratings: Path, split: str) -> None:
    call = ("evaluate", "--train", str(ratings), "--split", split, "--objective", "rating", "--n-epochs", "2")
    report = recsys.json(*call)
    assert report["metrics"]["rmse"] < report["baselines"]["popular"]["rmse"]
    assert (report["known_share"] == 1) == (split != "time-cut")


def test_evaluate_trains_with_what_is_said_of_items(recsys: Recsys, ratings: Path) -> None:
    lines = (ratings / "ratings.csv").read_text().splitlines()
    (recsys.folder / "train.csv").write_text("\n".join([lines[0], *lines[1::2]]))
    (recsys.folder / "test.csv").write_text("\n".join([lines[0], *lines[2::2]]))
    call = ("evaluate", "--train", "train.csv", "--test", "test.csv", "--objective", "rating", "--n-epochs", "2")
    without, with_items = (
        recsys.json(*call, *more)["metrics"] for more in ((), ("--items", str(ratings / "items.csv")))
    )
    assert without != with_items


def test_too_few_ratings_to_split_is_said(recsys: Recsys) -> None:
    (recsys.folder / "few.csv").write_text("user_id,item_id,rating\nu,i,3\n")
    said = recsys("evaluate", "--train", "few.csv", "--split", "leave-last-out", code=1)
    assert "too few ratings to hold any out by leave-last-out" in said


def test_cuda_without_cuda_and_parts_of_no_batch_are_refused(recsys: Recsys, ratings: Path) -> None:
    import torch

    recsys("load", str(ratings))
    if not torch.cuda.is_available():
        assert "use --device cpu or auto" in recsys("train", "--device", "cuda", code=1)
    assert "accumulate" in recsys("train", "--accumulate", "0", code=2)
    assert recsys.json("train", "--n-epochs", "1", "--accumulate", "3", "--no-publish")["published"] is False
