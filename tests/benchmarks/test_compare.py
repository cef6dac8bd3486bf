"""The comparison with this environment in place of the peers': models of other libraries fail in it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import data
from benchmarks.compare import (
    MEMORY,
    SECONDS,
    TARGETS,
    Comparison,
    Plan,
    compare_models,
    preface,
    run_plan,
    time_to_quality,
)
from benchmarks.metrics import ranking_metrics, rating_metrics
from benchmarks.ours import FAST, config_of
from benchmarks.report import (
    ModelFigures,
    Section,
    comparison_table,
    format_figure,
    format_range,
    markdown_document,
)
from benchmarks.runner import Runner
from tests.benchmarks.made import case


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(Path(sys.executable), tmp_path, 1, 9, Console(quiet=True))


@pytest.mark.long
def test_each_run_is_a_process_and_a_missing_library_is_named(runner: Runner, tmp_path: Path) -> None:
    path = case().save(tmp_path / "made.npz")
    rating = Comparison("Ratings, made", "", ["rating", "cmfrec"], {0: [path]}, rating_metrics)
    lists = Comparison("Lists, made", "", ["ranking", "ease", "most-popular"], {0: [path]}, ranking_metrics)
    text = markdown_document("Made", preface(runner), run_plan(Plan([rating, lists], None, path, [0], None), runner))
    assert "|  | **ours** | cmfrec |\n" in text
    assert "cmfrec failed: ModuleNotFoundError: No module named 'cmfrec'" in text
    assert "|  | **ours, dot** | EASE | most popular |\n" in text
    assert "ratings/s**" in text
    assert str(tmp_path) not in text


def test_a_seed_counts_as_the_mean_over_its_folds(runner: Runner, tmp_path: Path) -> None:
    paths = [case(seed=seed).save(tmp_path / f"{seed}.npz") for seed in (0, 1)]

    def measured(parts: dict[int, list[Path]]) -> list[float]:
        comparison = Comparison("", "", ["most-popular"], parts, ranking_metrics)
        return compare_models(comparison, runner)["most-popular"].values["NDCG@10"]

    each = measured({0: paths[:1], 1: paths[1:]})
    assert measured({0: paths}) == pytest.approx([np.mean(each)])


def test_a_figure_is_the_median_and_its_format_range() -> None:
    assert format_range([0.9102, 0.9091, 0.9085], "RMSE") == ".9091 (.9085–.9102)"
    assert format_range([0.91, 0.91], "RMSE") == ".9100"
    assert [format_figure(value, SECONDS) for value in (0.123, 12.34, 123.4)] == ["0.12", "12.3", "123"]
    assert format_figure(1234.5, MEMORY) == "1,234"


def test_models_are_columns_and_figures_rows() -> None:
    ours, theirs, broken = ModelFigures("ours"), ModelFigures("theirs"), ModelFigures("broken", failure="no compiler")
    ours.add({"RMSE": 0.85, SECONDS: 3.0})
    ours.add({"RMSE": 0.86, SECONDS: 5.0})
    theirs.add({"RMSE": 0.87, SECONDS: 1.5})
    assert comparison_table([ours, theirs, broken]).splitlines() == [
        "|  | ours | theirs | broken |",
        "|---|---|---|---|",
        "| RMSE | .8550 (.8500–.8600) | .8700 | – |",
        "| training, s | 4.00 (3.00–5.00) | 1.50 | – |",
        "",
        "broken failed: no compiler",
    ]


def test_a_document_is_title_preface_and_sections() -> None:
    text = markdown_document("Title", "About.", [Section("One", "Note.", "Body."), Section("Two", "", "Rest.")])
    assert text == "# Title\n\nAbout.\n\n## One\n\nNote.\n\nBody.\n\n## Two\n\nRest.\n"


def test_time_to_quality_shows_whether_every_seed_reached_it() -> None:
    fast = {name: ModelFigures(name) for name in FAST}
    rating_models = {peer: ModelFigures(peer) for peer, _ in TARGETS.values()}
    for name, (peer, target) in TARGETS.items():
        late = 0.01 if name == "cmfrec" else -0.001
        for seconds, error in ((1.0, -0.002), (2.0, late), (3.0, -0.001)):
            fast[name].add({"RMSE": target + error, SECONDS: seconds})
        rating_models[peer].add({"RMSE": target, SECONDS: 4.0})
    rows = {line.split(",")[0].strip("| "): line for line in time_to_quality(fast, rating_models).body.splitlines()[2:]}
    assert rows["cmfrec"].split(" | ")[1] == "no"
    assert rows["surprise-svd"].split(" | ")[1] == "yes"
    assert rows["surprise-svd"].endswith(" 2.00 |")


def test_every_run_of_ours_has_settings() -> None:
    for name in ("rating", "ranking", "throughput", "large", "large-implicit", *FAST):
        assert config_of(name, 800_000, 6_040).n_epochs >= 1


def test_missing_ratings_have_their_own_error(tmp_path: Path) -> None:
    with pytest.raises(data.DataMissingError, match="--data"):
        data.ml_1m(tmp_path)
    with pytest.raises(data.DataMissingError, match=r"ml-100k\.zip"):
        data.ml_100k(1, tmp_path)


@pytest.mark.shared_data
def test_the_splits_are_those_of_the_references(shared_data: Path) -> None:
    one_million = data.ml_1m(shared_data)
    assert (len(one_million.user), len(one_million.test_user)) == (800_167, 200_042)
    assert len(one_million.list_users) == 5_983
    u1, random = data.ml_100k(1, shared_data), data.ml_100k_random(0, shared_data)
    assert (len(u1.user), len(u1.test_user)) == (len(random.user), len(random.test_user)) == (80_000, 20_000)
