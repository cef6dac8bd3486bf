"""The report as a file, as text, and as a browser shows it."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.analysis.figures import MOST_POINTS, bias_against_ratings, item_map, short_name, training_curves
from recsys.analysis.labels import ItemLabels
from recsys.analysis.maps import ItemMap
from recsys.analysis.report import render, write_images, write_report
from recsys.analysis.view import ModelView
from recsys.errors import InputError, NoModelError
from recsys.factors import Factors, Side
from recsys.results import Objective

HOSTILE = "</script><script>alert(1)</script> <b>\"Ω' & 🎬</b> \u2028 ${x} %{y} &lt;"


def model(
    objective: Objective = "rating",
    number: int = 7,
    n_items: int = 40,
    n_factors: int = 5,
    titles: list[str | None] | None = None,
    **changes: Any,
) -> ModelView:
    rng = np.random.default_rng(number)
    factors = Factors(
        objective=objective,
        users=Side(np.arange(3), rng.normal(size=(3, n_factors)).astype(np.float32), np.zeros(3, np.float32)),
        items=Side(
            np.arange(n_items),
            rng.normal(size=(n_items, n_factors)).astype(np.float32),
            rng.normal(size=n_items).astype(np.float32),
        ),
        global_bias=0.3,
        rating_range=(0.5, 5.5) if objective == "rating" else None,
    )
    items = ItemLabels(
        item_ids=[f"i{i:04}" for i in range(n_items)],
        titles=titles or [f"Title {i} (19{i % 100:02})" for i in range(n_items)],
        categories=[[("Drama", "Comedy", "War")[i % 3], "Crime"] for i in range(n_items)],
        n_ratings=np.arange(n_items) * 7,
    )
    metric = "rmse" if objective == "rating" else "ndcg"
    made = ModelView(
        number=number,
        objective=objective,
        created_at=1_767_312_000_000,
        configuration={"n_factors": n_factors, "learning_rate": 0.005, "seed": None},
        metrics={metric: 0.8123, "mae": 0.6},
        baselines={"bias": {metric: 0.9001}, "popular": {metric: 0.7001}},
        history=[{"epoch": epoch, "train_loss": 1 / epoch, "valid": None, "seconds": 0.1} for epoch in (1, 2, 3)],
        factors=factors,
        items=items,
    )
    return replace(made, **changes)


def figures(document: str) -> dict[str, list[dict[str, Any]]]:
    """Element → traces, read out of the page as the browser would."""
    found = {}
    document = body(document)
    for call in re.finditer(r'Plotly\.newPlot\(\s*"([^"]+)",\s*', document):
        found[call[1]] = json.JSONDecoder().raw_decode(document, call.end())[0]
    return found


def body(document: str) -> str:
    """The page without plotly.js."""
    return document[document.index("<body>") :]


class TestWriteReport:
    def test_writes_one_file_into_a_new_folder(self, tmp_path: Path) -> None:
        path = write_report(tmp_path / "a" / "b", [model()])
        assert path == tmp_path / "a" / "b" / "report.html"
        assert path.read_text(encoding="utf-8") == render([model()])
        assert list(path.parent.iterdir()) == [path]

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_report(tmp_path, [model()])
        before = path.read_bytes()

        def full(_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("recsys.data.whole_file.os.fsync", full)
        with pytest.raises(InputError, match=r"report\.html cannot be written \(No space left on device\)"):
            write_report(tmp_path, [model(number=8)])
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("")
        with pytest.raises(InputError, match="choose another location with --out"):
            write_report(tmp_path / "out", [model()])

    def test_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(NoModelError, match="recsys train"):
            write_report(tmp_path, [])
        assert not list(tmp_path.iterdir())

    def test_labels_of_other_items_are_refused(self) -> None:
        with pytest.raises(ValueError, match="labels for 39 items, factors for 40"):
            replace(model(), items=model(n_items=39).items)


class TestRender:
    def test_the_same_models_give_the_same_text(self) -> None:
        assert render([model()]) == render([model()])

    def test_contains_plotly_once_and_refers_to_no_other_file(self) -> None:
        document = render([model(), model("ranking", 8)])
        assert len(document) < 6_000_000
        assert "default-src 'none'" in document
        outside_plotly = document[: document.index("<script>")] + body(document)
        addresses = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'>]*)", outside_plotly)
        assert set(addresses) == {"data:,", "#v7", "#v8"}
        assert document.count("<script>") == 1 + 5 + 2

    def test_shows_version_configuration_and_measures_beside_baselines(self) -> None:
        text = body(render([model()]))
        for expected in ("Rating model, version 7", "2026-01-02 00:00 UTC", "learning_rate", "0.005", "RMSE"):
            assert expected in text
        for expected in ("lower is better", "0.8123", "0.9001", "Bias only", "Most popular"):
            assert expected in text
        assert 'best">0.7001' in text
        assert 'best">0.8123' not in text

    def test_a_ranking_version_has_no_biases(self) -> None:
        assert set(figures(render([model("ranking", 8)]))) == {"v8-map", "v8-categories", "v8-curve1"}
        assert set(figures(render([model()]))) == {"v7-map", "v7-categories", "v7-bias", "v7-curve1"}

    def test_lists_of_biases_are_in_order_and_hold_items_with_enough_ratings(self) -> None:
        made = model()
        text = body(render([made]))
        lists = re.findall(r"<h4>(Highest|Lowest) bias</h4>.*?<ol>(.*?)</ol>", text, re.DOTALL)
        bias = np.where(made.items.n_ratings >= 10, made.factors.item_bias, np.nan)
        expected = {"Highest": np.argsort(-bias)[:10], "Lowest": np.argsort(bias)[:10]}
        assert [name for name, _ in lists] == ["Highest", "Lowest"]
        for name, entries in lists:
            titles = re.findall(r"<bdi>(.*?)</bdi>", entries)
            assert titles == [made.items.name(int(item)) for item in expected[name]]

    def test_bias_is_in_rating_points(self) -> None:
        made = model()
        span = 5.0
        highest = float(np.max(made.factors.item_bias[made.items.n_ratings >= 10]))
        points = span / (1 + np.exp(-0.3 - highest)) - span / (1 + np.exp(-0.3))
        assert f'<span class="value">{points:+.2f}</span>1. ' in render([made])

    def test_a_component_that_follows_popularity_says_so(self) -> None:
        made = model()
        item_factors = np.random.default_rng(0).normal(0, 0.01, (40, 3))
        item_factors[:, 0] += np.log1p(made.items.n_ratings)
        popular = replace(made.factors, items=replace(made.factors.items, factors=item_factors.astype(np.float32)))
        assert "mostly popularity (r = " in render([replace(made, factors=popular)])
        assert "mostly popularity" not in render([made])

    def test_every_text_is_escaped(self) -> None:
        hostile = model(
            titles=[HOSTILE] * 40,
            configuration={HOSTILE: HOSTILE},
            metrics={HOSTILE: 1.0},
            baselines={HOSTILE: {HOSTILE: 2.0}},
            created_at=HOSTILE,
            history=[{"epoch": 1, HOSTILE: 1.0}],
        )
        labels = replace(hostile.items, categories=[[HOSTILE], []] * 20, item_ids=[HOSTILE] * 40)
        document = render([replace(hostile, items=labels)])
        assert "<script>alert" not in document
        assert "<b>&quot;Ω" not in document
        assert document.count("<script") == render([model()]).count("<script")
        drawn = figures(document)["v7-map"][0]
        assert drawn["customdata"][0][0].startswith("&lt;/script&gt;&lt;script&gt;alert(1)")


class TestMissingData:
    def test_items_without_titles_are_named_by_their_ids(self) -> None:
        document = render([model(titles=[None] * 40)])
        assert "<bdi>i0039</bdi>" in document

    @pytest.mark.parametrize("n_items", [0, 1, 2, 3])
    @pytest.mark.parametrize("n_factors", [0, 1, 2])
    @pytest.mark.parametrize("objective", ["rating", "ranking"])
    def test_few_items_and_factors(self, n_items: int, n_factors: int, objective: Objective) -> None:
        document = render([model(objective, n_items=n_items, n_factors=n_factors)])
        drawable = min(n_factors, max(0, n_items - 1)) >= 2
        assert ("v7-map" in figures(document)) == drawable
        assert ("A map needs item factors that differ in two directions" in document) == (not drawable)
        assert "nan" not in body(document).lower()

    def test_factors_that_are_all_the_same(self) -> None:
        made = model()
        same = replace(
            made.factors,
            items=replace(made.factors.items, factors=np.ones((40, 5), np.float32), bias=np.zeros(40, np.float32)),
        )
        document = render([replace(made, factors=same)])
        assert "There is no component" in document
        assert "v7-bias" in figures(document)

    def test_no_item_is_rated(self) -> None:
        made = model()
        document = render([replace(made, items=replace(made.items, n_ratings=np.zeros(40, np.int64)))])
        assert "No item has a rating" in document
        assert "v7-map" in figures(document)

    def test_a_version_without_records_says_so(self) -> None:
        document = render([model(metrics={}, baselines={}, history=[], configuration={})])
        for expected in ("No measure was recorded", "No training history", "No configuration"):
            assert expected in document


class TestFigures:
    def test_a_large_catalogue_is_drawn_by_its_most_rated_items(self) -> None:
        n_items = MOST_POINTS + 500
        drawn_by = model("ranking", 8, n_items=n_items, titles=[None] * n_items)
        places = np.random.default_rng(0).normal(size=(n_items, 2)).astype(np.float32)
        stored = ItemMap("tsne", drawn_by.factors.item_keys, places, np.zeros(n_items, np.int32))
        document = render([replace(drawn_by, stored_map=stored)])
        drawn = figures(document)["v8-map"]
        names = [hover[0] for trace in drawn for hover in trace.get("customdata", [])]
        assert sorted(names) == [f"i{i:04}" for i in range(500, n_items)]
        assert f"The map shows the {MOST_POINTS:,} most rated of {n_items:,} items" in document

    def test_losses_share_a_figure_and_gaps_stay_gaps(self) -> None:
        history = [
            {"epoch": 1, "train_loss": 2.0, "valid_loss": 3.0, "valid": None, "seconds": 1.0, "note": "x"},
            {"epoch": 2, "train_loss": 1.0, "valid_loss": float("nan"), "valid": 0.2, "seconds": 2.0},
        ]
        loss, valid = training_curves(history)
        assert [list(trace.y) for trace in loss.figure.data] == [[2.0, 1.0], [3.0, None]]
        assert list(valid.figure.data[0].y) == [None, 0.2]
        assert list(valid.figure.data[0].x) == [1, 2]

    def test_short_names_have_no_year_and_at_most_30_characters(self) -> None:
        assert short_name("The Glass Harbour (1994)") == "The Glass Harbour"
        assert short_name("(1994)") == "(1994)"
        assert short_name("x" * 99) == "x" * 29 + "…"

    def test_the_menu_colours_every_category_wherever_it_stands(self) -> None:
        made = model()
        figure = item_map(made)
        buttons = {button.label: button.args[0] for button in figure.layout.updatemenus[0].buttons}
        assert list(buttons) == [
            *("Cluster", "Number of ratings", "Item bias"),
            *("Crime (40)", "Drama (14)", "Comedy (13)", "War (13)"),
        ]
        shown = made.items.most_rated(MOST_POINTS)
        assert buttons["War (13)"]["marker.color"] == [[int(idx % 3 == 2) for idx in shown]]
        assert "50.0%" not in str(figure.layout.xaxis.title.text)

    def test_a_curve_says_what_the_finished_version_has(self) -> None:
        (curve,) = training_curves([{"epoch": 1, "ndcg": 0.2}, {"epoch": 2, "ndcg": 0.3}], {"ndcg": 0.25})
        assert curve.figure.layout.shapes[0].y0 == 0.25
        assert "the version, all users: 0.2500" in curve.figure.layout.annotations[0].text

    def test_a_curve_says_on_how_many_users_it_was_measured(self) -> None:
        history = [{"epoch": 1, "ndcg": 0.2}]
        settings = {"weight_decay": 0.3, "curve_users": 1500, "n_users": 6040}
        made = model(configuration=settings, history=history)
        (curve,) = training_curves(history, configuration=settings)
        assert curve.title == "NDCG on held-out ratings of 1,500 users"
        document = render([made])
        assert "of 1,500 users" in document
        # What is no setting has words in place of a name that no command knows.
        assert "<dt>weight_decay</dt><dd>0.3</dd>" in document
        assert "<dt>users that the training curve is measured on</dt><dd>1500</dd>" in document
        assert "curve_users" not in document

    def test_the_highest_and_lowest_biases_have_their_own_colours(self) -> None:
        made = model()
        figure = bias_against_ratings(made.factors.item_bias, made.items, np.array([5, 6]), np.array([7]))
        counts = [len(trace.x) for trace in figure.data if trace.showlegend is not False]
        assert counts == [36, 2, 1]  # item 0 has no rating, so no place on a logarithmic axis
        assert figure.layout.xaxis.type == "log"


@pytest.mark.browser
def test_figures_as_images(browser: Any, tmp_path: Path) -> None:
    paths = write_images(tmp_path, [model("ranking", 8)])
    assert [path.name for path in paths] == ["v8-map.png", "v8-categories.png", "v8-curve1.png"]
    for path in paths:
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(paths[0].read_bytes()[16:20]) == 2200  # pixels wide


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    titles: list[str | None] = [HOSTILE, *(f"Title {i} (1999)" for i in range(39))]
    path = write_report(tmp_path_factory.mktemp("report"), [model(titles=titles), model("ranking", 8)])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.trouble, page.requested, page.path = [], [], path
    page.on("console", lambda message: page.trouble.append(message.text))
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("dialog", lambda dialog: (page.trouble.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: page.requested.append(request.url))
    page.goto(path.as_uri())
    page.locator("#v8-curve1 .main-svg").first.wait_for(state="attached")  # the last one
    yield page
    page.close()


@pytest.mark.browser
class TestInABrowser:
    def test_draws_every_figure_and_requests_nothing(self, opened: Any) -> None:
        drawn = opened.eval_on_selector_all(
            ".plotly-graph-div", "all => all.map(one => [one.id, one.querySelectorAll('.main-svg').length > 0])"
        )
        assert dict(drawn) == dict.fromkeys(
            ["v7-map", "v7-categories", "v7-bias", "v7-curve1", "v8-map", "v8-categories", "v8-curve1"], True
        )
        assert opened.locator("#v7-map .scatterlayer .point").count() > 40
        assert opened.trouble == []
        assert opened.requested == [opened.path.as_uri()]

    def test_hostile_titles_are_displayed_as_text(self, opened: Any) -> None:
        drawn = figures(opened.path.read_text(encoding="utf-8"))["v7-map"]
        at = next(
            {"curveNumber": curve, "pointNumber": point}
            for curve, trace in enumerate(drawn)
            for point, hover in enumerate(trace.get("customdata", []))
            if "alert" in hover[0]
        )
        opened.evaluate("at => Plotly.Fx.hover('v7-map', [at])", at)
        assert opened.locator("#v7-map .hovertext").text_content().startswith(" ".join(HOSTILE.split())[:30])
        assert opened.trouble == []

    @pytest.mark.parametrize("width", [1280, 700, 390])
    def test_fits_the_window(self, opened: Any, width: int) -> None:
        opened.set_viewport_size({"width": width, "height": 900})
        deadline = time.monotonic() + 10
        while (found := opened.evaluate("document.documentElement.scrollWidth")) != width:
            assert time.monotonic() < deadline, f"{found} pixels wide in a window of {width}"
            opened.wait_for_timeout(50)  # figures follow the window a moment later

    @pytest.mark.parametrize("width", [1920, 800])
    def test_no_figure_is_cut(self, opened: Any, width: int) -> None:
        self.test_fits_the_window(opened, width)
        wider = opened.eval_on_selector_all(
            ".plotly-graph-div",
            "all => all.filter(one => one.querySelector('.main-svg').getBoundingClientRect().right"
            " > one.closest('.card').getBoundingClientRect().right + 1).map(one => one.id)",
        )
        assert wider == []
        boxes = opened.eval_on_selector_all(
            ".curves .main-svg", "all => all.map(one => one.getBoundingClientRect()).map(box => [box.left, box.right])"
        )
        assert all(right - left <= width / 2 for left, right in boxes) or width < 900

    @pytest.mark.parametrize("width", [1280, 700])
    def test_printed_names_do_not_overlap(self, opened: Any, width: int) -> None:
        self.test_fits_the_window(opened, width)
        for figure in ("v7-map", "v7-bias", "v8-map"):
            boxes = opened.eval_on_selector_all(
                f"#{figure} .textpoint text",
                "all => all.filter(one => one.textContent).map(one => [one.textContent, one.getBoundingClientRect()])"
                ".map(([text, box]) => [box.left, box.top, box.right, box.bottom, text])",
            )
            assert len(boxes) >= 10
            for i, a in enumerate(boxes):
                for b in boxes[:i]:
                    # The box of a line is a little higher than its letters.
                    apart = a[0] >= b[2] or b[0] >= a[2] or abs(a[1] - b[1]) > 0.8 * (a[3] - a[1])
                    assert apart, (figure, a, b)
