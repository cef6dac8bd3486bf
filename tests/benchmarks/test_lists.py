"""Lists on many kinds of data: the split, the tables, and our portfolio in this environment."""

import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import peers
from benchmarks.lists import compare_lists, format_difference, format_share, kept_sections, split_case
from benchmarks.ours import train_portfolio
from benchmarks.published import Protocol, measure, whole_catalogue
from benchmarks.report import Section, markdown_document
from benchmarks.runner import Runner
from benchmarks.stability import generated, stars
from tests.benchmarks.made import case


def test_a_tenth_is_held_out_and_relevant_ones_are_the_test_part() -> None:
    columns = generated(60, 50, 1500, steepness=0.5, seed=1, values=stars)
    explicit, implicit = (split_case(columns, is_implicit=is_implicit) for is_implicit in (False, True))
    assert 0.05 < len(implicit.test_user) / len(columns[0]) < 0.15
    assert 0 < len(explicit.test_user) < len(implicit.test_user)
    assert explicit.relevant.all()
    assert implicit.is_implicit
    assert len(explicit.user) == len(implicit.user)


def test_peers_and_ours_share_a_table(tmp_path: Path) -> None:
    runner = Runner(Path(sys.executable), tmp_path, 1, 3, Console(quiet=True))
    section = compare_lists("Made, small", case(), ["most-popular", "rp3-beta", "implicit-als"], runner)
    lines = section.body.splitlines()
    assert lines[0].startswith("|  | NDCG@10 | most popular − this | lower bound |")
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| most popular", "| RP3β"]
    assert "implicit ALS failed" in section.body


def test_the_portfolio_is_chosen_trained_and_measured() -> None:
    given = case(n_users=60)
    _, factors, choice = train_portfolio(given, seed=0)
    assert choice.architecture in choice.measured
    found = measure(Protocol(given), factors)
    assert 0 < found["NDCG@20"] <= 1
    negatives = np.random.default_rng(0).integers(0, 50, (len(given.test_user), 99))
    assert set(measure(Protocol(given, negatives), factors)) == {"HR@10", "NDCG@10"}


def test_cosine_and_rp3_are_their_formulas() -> None:
    given = case()
    X = np.zeros((given.n_users, given.n_items), np.float32)
    X[given.user, given.item] = 1
    items, users = np.maximum(X.sum(0), 1), np.maximum(X.sum(1), 1)
    of_users = given.list_users
    walks = ((X / items) @ X.T / users) @ X / items**0.4
    similar = (X.T @ X) / np.sqrt(np.outer(items, items))
    np.fill_diagonal(similar, 0)
    found = {"rp3-beta": peers.rp3_lists(given, 0.4), "cosine": peers.cosine(given, 0)[1]}
    for (name, lists), scores in zip(found.items(), (walks, X @ similar), strict=True):
        expected = np.where((X > 0) | (X.sum(0) == 0), -np.inf, scores)[of_users]
        best = np.take_along_axis(expected, lists, 1)
        assert best == pytest.approx(-np.sort(-expected, axis=1)[:, :10], rel=1e-4), name


def test_figures_of_published_protocols_by_hand() -> None:
    given = case()
    user = given.list_users
    perfect, n_wanted = np.full((len(user), 20), -1), []
    for row, one in enumerate(user):
        wanted = given.test_item[(given.test_user == one) & given.relevant]
        perfect[row, : min(len(wanted), 20)] = wanted[:20]
        n_wanted.append(len(wanted))
    found = whole_catalogue(given, perfect)
    assert found["NDCG@20"] == pytest.approx(1)
    assert max(n_wanted) > 20
    assert found["Recall@20"] == pytest.approx(np.mean([min(n, 20) / n for n in n_wanted]))  # over all of them


def test_differences_are_paired() -> None:
    ours, theirs = np.array([0.5, 0.6, 0.7, 0.4]), np.array([0.4, 0.5, 0.6, 0.3])
    assert format_difference(ours - theirs) == "+.1000 ± .0000"
    assert format_difference(theirs - ours) == "−.1000 ± .0000"
    assert format_share(ours, theirs) == "+22.2 %"
    assert format_share(theirs, theirs) == "+0.0 %"


def test_sections_that_are_not_run_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    assert kept_sections(path, []) == {}
    path.write_text(markdown_document("T", "P", [Section("flat", "Note.", "| a |"), Section("steep", "", "| b |")]))
    assert kept_sections(path, ["steep"]) == {"flat": Section("flat", "", "Note.\n\n| a |")}
