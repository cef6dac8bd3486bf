"""The dashboard in a real browser: every page, and what an analyst does on it."""

from typing import Any

import pytest
from sqlalchemy import Engine

from recsys.database.engine import reading
from recsys.database.models import live_numbers
from tests.analysis.planted import vectors
from tests.api.conftest import serving, url_of
from tests.api.dashboard.conftest import HOSTILE, Opened, add_planted, add_version, open_page

pytestmark = pytest.mark.browser

DRAWN = "#map .gl-canvas"


def test_search_click_and_address(opened: Opened) -> None:
    page = opened.goto("map", DRAWN)
    page.get_by_label("Search").fill("war 200")
    page.get_by_role("link", name="War 200").click()
    page.locator("#details h2").get_by_text("War 200").wait_for()
    assert page.url.endswith("map?item=i200")
    assert "Of its ten nearest items, 10 are Drama" in page.locator("#details").inner_text()
    page.wait_for_function("document.querySelector('#map .js-plotly-plot').data.length === 3")
    names = page.evaluate("document.querySelector('#map .js-plotly-plot').data[1].customdata")
    assert "i5" in names
    # a real click on another point
    where = page.evaluate(
        """() => { const plot = document.querySelector('#map .js-plotly-plot');
        const at = plot.data[0].customdata.indexOf('i90');
        const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
        return [box.left + xaxis._offset + xaxis.d2p(plot._fullData[0].x[at]),
                box.top + yaxis._offset + yaxis.d2p(plot._fullData[0].y[at])]; }"""
    )
    page.mouse.move(*where)
    page.wait_for_function("document.querySelector('#map .hoverlayer').children.length > 0")
    page.mouse.click(*where)
    page.wait_for_function("location.search !== '?item=i200'")
    page.locator("#details h2").get_by_text("Comedy").wait_for()
    page.go_back()
    page.locator("#details h2").get_by_text("War 200").wait_for()


def test_colour_version_and_projection_are_in_the_address(opened: Opened) -> None:
    page = opened.goto("map?version=1", DRAWN)
    page.locator("select[data-param=colour]").select_option("category:Horror")
    page.get_by_text("Map, coloured by horror (60)").wait_for()
    assert "version=1" in page.url
    assert "colour=category%3AHorror" in page.url
    colours = page.evaluate("Array.from(document.querySelector('#map .js-plotly-plot')._fullData[0].marker.color)")
    assert (len(colours), sum(colours)) == (240, 60)
    page.locator("select[data-param=version]").select_option("3")
    page.wait_for_function("location.search.includes('version=3')")
    page.reload()
    page.get_by_text("Map, coloured by horror (60)").wait_for()
    assert page.locator("select[data-param=version]").input_value() == "3"
    page.locator("select[data-param=colour]").select_option("cluster")
    page.wait_for_function("!location.search.includes('colour')")


def test_a_lasso_becomes_a_table_and_a_file(opened: Opened, tmp_path: Any) -> None:
    page = opened.goto("map", DRAWN)
    page.evaluate("Plotly.relayout(document.querySelector('#map .js-plotly-plot'), {dragmode: 'select'})")
    box = page.locator("#map .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] - 5, steps=5)
    page.mouse.up()
    page.get_by_role("heading", name="240 selected items, the first 100").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "items.csv")
    lines = (tmp_path / "items.csv").read_text().splitlines()
    assert lines[0].startswith("item_id,title,categories,n_ratings")
    assert len(lines) == 241


def test_hostile_titles_are_text(opened: Opened) -> None:
    page = opened.goto("item?item=i7")
    assert page.locator("h2", has_text="onerror").first.inner_text() == HOSTILE
    page = opened.goto("item?item=i8")
    page.get_by_role("heading", name="i8").wait_for()  # without a title
    assert opened.trouble == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("health?version=99", "there is no version 99 any more"),
        ("item?item=nope", "does not know the item 'nope'"),
        ("map?colour=nothing", "cannot be coloured by 'nothing'"),
        ("training?version=x", "expected a whole number"),
        ("user?user=nobody", "the user is unknown"),
        ("compare?version=3", "no other rating version"),
    ],
)
def test_what_does_not_exist_is_explained(opened: Opened, path: str, text: str) -> None:
    page = opened.goto(path)
    page.get_by_text(text).first.wait_for()


def test_empty_then_published_with_a_reason(browser: Any, sqlite_engine: Engine) -> None:
    with serving(url_of(sqlite_engine)) as client:
        opened = open_page(browser, str(client.base_url))
        opened.goto("").get_by_text("recsys nightly").first.wait_for()
        opened.goto("map").get_by_text("no model is stored yet").wait_for()
        add_planted(sqlite_engine)
        number = add_version(sqlite_engine, "ranking", vectors(seed=1))
        page = opened.goto("")
        form = page.locator("form.change", has=page.get_by_role("heading", name="Publish"))
        form.get_by_label("Version").select_option(str(number))
        form.get_by_label("Reason").fill("planted by hand")
        form.get_by_role("button", name="Publish").click()
        page.get_by_text(f"Version {number} is live.").wait_for()
        page.get_by_text("planted by hand").first.wait_for()
        with reading(sqlite_engine) as connection:
            assert live_numbers(connection)["ranking"] == number
        page.context.close()
