"""Pages of findings, and the templates that all pages use."""

import re
import tomllib
from pathlib import Path

import jinja2
import numpy as np
import pytest

from recsys.analysis import page
from recsys.analysis.findings import finding_page, learning_rate_figure, sweep_figure, tuning_figure

ROOT = Path(__file__).parents[2]
HOSTILE = "</script><script>alert(1)</script> <b>\"Ω' & 🎬</b>"


class TestTemplates:
    def test_the_package_contains_every_template(self) -> None:
        package = ROOT / "recsys"
        patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["recsys"]
        packaged = {path for pattern in patterns for path in package.glob(pattern)}
        templates = set((package / "analysis" / "templates").iterdir())
        assert len(templates) >= 5
        assert templates <= packaged

    def test_every_template_compiles(self) -> None:
        environment = page.environment()
        for name in environment.list_templates():
            environment.get_template(name)

    def test_an_undefined_value_is_an_error(self) -> None:
        with pytest.raises(jinja2.UndefinedError, match="'figure' is undefined"):
            page.render("finding.html.j2", title="", how="", header=[], rows=[], best=None)


class TestFindingPage:
    def test_every_text_is_escaped(self) -> None:
        figure = sweep_figure(HOSTILE, [0.1, 1.0], [0.5, None], HOSTILE, 0.4)
        plain = sweep_figure("field", [0.1, 1.0], [0.5, None], "metric", 0.4)
        document = finding_page(HOSTILE, HOSTILE, figure, [HOSTILE], [[HOSTILE]], 0)
        assert "<script>alert" not in document
        assert "<b>" not in document[document.index("<body>") :]
        assert document.count("<script") == finding_page("", "", plain, [""], [[""]], 0).count("<script")

    def test_the_best_row_is_marked(self) -> None:
        figure = tuning_figure([0.5, None, 0.6], "ndcg", higher_is_better=True)
        document = finding_page("title", "how", figure, ["trial"], [["first"], ["second"]], 1)
        assert re.findall(r'<td class="best">(\w+)</td>', document) == ["second"]
        assert "<td>first</td>" in document

    def test_no_row_is_marked_without_a_best_one(self) -> None:
        figure = tuning_figure([0.5], "ndcg", higher_is_better=True)
        assert 'class="best"' not in finding_page("title", "how", figure, ["trial"], [["first"]], None)

    def test_the_same_finding_gives_the_same_text(self) -> None:
        rates, losses = np.array([0.1, 1.0]), np.array([2.0, 1.0])
        figure = learning_rate_figure(rates, losses, losses, {"valley": 0.5})
        first, second = (finding_page("title", "how", figure, ["a"], [["b"]], None) for _ in range(2))
        assert first == second


class TestFindingFigures:
    def test_the_best_trial_so_far_skips_diverged_ones(self) -> None:
        figure = tuning_figure([0.5, None, 0.4, 0.6], "ndcg", higher_is_better=True)
        assert list(figure.data[1].y) == [0.5, 0.5, 0.5, 0.6]
        figure = tuning_figure([0.5, None, 0.4, 0.6], "rmse", higher_is_better=False)
        assert list(figure.data[1].y) == [0.5, 0.5, 0.4, 0.4]

    def test_marked_learning_rates_lie_on_the_smoothed_loss(self) -> None:
        rates, smoothed = np.array([0.01, 0.1, 1.0]), np.array([3.0, 2.0, 1.0])
        figure = learning_rate_figure(rates, smoothed, smoothed, {"valley": 0.1})
        assert list(figure.data[2].y) == [2.0]
