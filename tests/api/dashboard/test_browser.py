"""The dashboard in a real browser: every page, and what an analyst does on it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from sqlalchemy import Engine

from api.dashboard.app import PAGES
from recsys.database.engine import connect, reading
from recsys.database.keys import create_key, revoke_key
from recsys.database.models import delete_version, live_numbers
from tests.analysis.planted import FAULTS, vectors
from tests.api.conftest import serving, url_of
from tests.api.dashboard.conftest import HOSTILE, Opened, add_one_item, add_planted, add_version, open_page

pytestmark = pytest.mark.browser

DRAWN = "#map .state:empty"
"""The map is there: the points came."""

FIGURES_DRAWN = """() => {
  const figures = [...document.querySelectorAll('.figure')];
  return figures.every((figure) => figure.querySelector('.js-plotly-plot .main-svg'));
}"""

CHOSEN = "window.recsysMap && window.recsysMap.focus.item === '{}'"
SHOWN = {
    "": "Ranking: version 2 is live",
    "map": "Map, coloured by cluster",
    "factors": "Categories as directions",
    "popularity": "Loved beyond their kind",
    "item?item=i7": HOSTILE,
    "user": "Users on the map",
    "user?user=user%203": "Why ",
    "compare": "Biggest movers",
    "health": "Clusters",
    "training": "Settings",
    "training?version=3": "Users whose ratings are predicted worst",
}
"""Page → a text of its last part, or one that only this page has."""
ONE_ITEM = {
    "": "No version is live",
    "map": "Map, coloured by cluster",
    "factors": "do not differ",
    "popularity": "choose fewer",
    "item": "Most rated items",
    "user": "Users on the map",
    "compare": "no other ranking version",
    "health": "Nothing looks wrong",
    "training": "Better settings",
}
"""Page → what it says of a version with one item."""


def on_page(page: Any, idx: int) -> tuple[float, float]:
    """Return where the point of an item is on the page, in pixels."""
    box = page.locator("#map canvas").bounding_box()
    x, y = page.evaluate("(idx) => window.recsysMap.place(idx)", idx)
    return box["x"] + x, box["y"] + y


def test_dragging_and_the_wheel_move_the_map(opened: Opened) -> None:
    page = opened.goto("map", DRAWN)
    page.wait_for_function("window.recsysMap.drawn > 0")
    before = on_page(page, 7)
    box = page.locator("#map canvas").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 340, box["y"] + 320, steps=3)
    page.mouse.up()
    moved = on_page(page, 7)
    assert (round(moved[0] - before[0]), round(moved[1] - before[1])) == (40, 20)
    page.mouse.wheel(0, -200)  # away from the place under the pointer
    page.wait_for_function("window.recsysMap.view.zoom > 1.4")
    zoom = page.evaluate("window.recsysMap.view.zoom")
    closer = on_page(page, 7)
    assert closer[0] - (box["x"] + 340) == pytest.approx(zoom * (moved[0] - (box["x"] + 340)), abs=1)
    pixels = page.evaluate("new Set(window.recsysMap.pixels).size")
    assert pixels > 5  # background, and points of several colours
    page.get_by_role("button", name="Show all items").click()
    assert on_page(page, 7) == pytest.approx(before)


ALIKE = [["tbody tr:nth-child(n+4)"]]
"""Rows of a table below the first three, which the same code makes."""


def serious_violations(page: Any, without: Any = ALIKE) -> list[tuple[str, str]]:
    """Return what axe finds on a page that keeps people from using it: rule and element."""
    found = Axe().run(page, context={"exclude": without} if without else None).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]


def test_every_page_is_whole_accessible_and_fits(opened: Opened) -> None:
    assert {path.partition("?")[0] for path in SHOWN} == set(PAGES)
    opened.page.set_viewport_size({"width": 800, "height": 900})
    for path, text in SHOWN.items():
        page = opened.follow(path, text)
        page.wait_for_function("document.documentElement.scrollWidth <= 800")
        assert (path, serious_violations(page)) == (path, [])
    opened.page.set_viewport_size({"width": 1400, "height": 900})
    assert opened.trouble == []
    assert opened.foreign == []


@pytest.mark.long
@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 1400), ("dark", 800)])
def test_every_page_is_accessible_as_a_whole(browser: Any, planted: str, scheme: str, width: int) -> None:
    opened = open_page(browser, planted, color_scheme=scheme, viewport={"width": width, "height": 900})
    for path, text in SHOWN.items():
        page = opened.follow(path, text)
        page.wait_for_function(FIGURES_DRAWN)
        assert (path, serious_violations(page, without=None)) == (path, [])
    opened.page.context.close()


def test_dark_by_the_systems_choice_and_a_telephone(browser: Any, planted: str) -> None:
    opened = open_page(browser, planted, color_scheme="dark", viewport={"width": 390, "height": 800})
    page = opened.goto("item?item=i90")
    page.get_by_text("Along the components").wait_for()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(25, 25, 24)"
    assert serious_violations(page) == []
    page.wait_for_function("document.documentElement.scrollWidth <= 390")
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 246, 243)"
    page.reload()
    page.get_by_text("Along the components").wait_for()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"  # the choice stays
    page.context.close()


def test_the_keyboard_reaches_everything(opened: Opened) -> None:
    page = opened.goto("")
    keyboard = page.keyboard
    keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the page"
    keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "page"
    page.get_by_role("link", name="Map", exact=True).first.focus()
    keyboard.press("Enter")
    page.wait_for_url("**/dashboard/map")
    page.locator(DRAWN).first.wait_for(state="attached")
    page.locator("#map canvas").focus()
    keyboard.press("+")
    keyboard.press("ArrowRight")
    assert page.evaluate("[window.recsysMap.view.zoom, window.recsysMap.view.x > window.recsysMap.x0]") == [1.4, True]
    page.locator("select[data-param=colour]").focus()
    keyboard.press("ArrowDown")  # to the number of ratings
    page.wait_for_function("window.recsysMap && window.recsysMap.src.includes('colour=popularity')")
    page.get_by_label("Search").focus()
    keyboard.type("war 200")
    page.get_by_role("link", name="War 200").wait_for()
    keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "War 200"
    keyboard.press("Enter")
    page.locator("#details h2").get_by_text("War 200").wait_for()
    assert page.url.endswith("map?item=i200&colour=popularity")


def test_search_click_and_address(opened: Opened) -> None:
    page = opened.goto("map", DRAWN)
    page.get_by_label("Search").fill("war 200")
    page.get_by_role("link", name="War 200").click()
    page.locator("#details h2").get_by_text("War 200").wait_for()
    assert page.url.endswith("map?item=i200")
    assert "Of its ten nearest items, 10 are Drama" in page.locator("#details").inner_text()
    page.wait_for_function(CHOSEN.format("i200"))
    assert 5 in page.evaluate("window.recsysMap.focus.neighbours")  # it was moved beside this one
    # a real click on another point
    page.mouse.move(*on_page(page, 90))
    page.locator("#map .tip").get_by_text("Comedy 90").wait_for()
    page.mouse.click(*on_page(page, 90))
    page.wait_for_function("location.search === '?item=i90'")
    page.locator("#details h2").get_by_text("Comedy 90").wait_for()
    page.go_back()
    page.locator("#details h2").get_by_text("War 200").wait_for()
    page.reload()  # the address is enough to show it
    page.wait_for_function(CHOSEN.format("i200"))


def test_colour_version_and_projection_are_in_the_address(opened: Opened) -> None:
    page = opened.goto("map?version=1", DRAWN)
    page.locator("select[data-param=colour]").select_option("category:Horror")
    page.get_by_text("Map, coloured by horror (60)").wait_for()
    assert "version=1" in page.url
    assert "colour=category%3AHorror" in page.url
    page.locator(DRAWN).wait_for(state="attached")
    colours = page.evaluate("Array.from(window.recsysMap.points.colour)")
    assert (len(colours), colours.count(254), colours.count(0)) == (240, 60, 180)
    page.locator("select[data-param=version]").select_option("3")
    page.wait_for_function("location.search.includes('version=3')")
    page.reload()
    page.get_by_text("Map, coloured by horror (60)").wait_for()
    assert page.locator("select[data-param=version]").input_value() == "3"
    page.locator("select[data-param=colour]").select_option("cluster")
    page.wait_for_function("!location.search.includes('colour')")


def test_a_lasso_becomes_a_table_and_a_file(opened: Opened, tmp_path: Any) -> None:
    page = opened.goto("map", DRAWN)
    page.get_by_role("button", name="Draw around items").click()
    box = page.locator("#map canvas").bounding_box()
    corners = [(2, 2), (box["width"] - 2, 2), (box["width"] - 2, box["height"] - 2), (2, box["height"] - 2)]
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=2)
    page.mouse.up()
    page.get_by_role("heading", name="240 selected items, the first 100").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "items.csv")
    lines = (tmp_path / "items.csv").read_text().splitlines()
    assert lines[0].startswith("item_id,title,categories,n_ratings")
    assert len(lines) == 241


def test_hostile_titles_are_text(opened: Opened) -> None:
    page = opened.follow("item?item=i7", HOSTILE)
    assert page.locator("h2", has_text="onerror").first.inner_text() == HOSTILE
    page = opened.follow("item?item=i8", "Ratings")
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
    opened.follow(path, text)


def test_planted_faults_are_named_on_health(opened: Opened) -> None:
    page = opened.follow("health?version=4", FAULTS[0])
    titles = page.locator(".findings b").all_inner_texts()
    # Not the three names at the end, which depend on numbers of ratings.
    assert [title.partition(": ")[0].strip() for title in titles[:4]] == [fault.partition(": ")[0] for fault in FAULTS]
    page.locator(".findings").get_by_role("link", name="Drama 11").wait_for()


def test_a_click_on_the_map_of_users_opens_one(opened: Opened) -> None:
    page = opened.follow("user", "Users on the map")
    page.wait_for_function(FIGURES_DRAWN)
    first_user = """() => {
          const plot = document.querySelector('.js-plotly-plot'), users = plot._fullData[1];
          const { xaxis, yaxis } = plot._fullLayout, box = plot.querySelector('.nsewdrag').getBoundingClientRect();
          return [box.x + xaxis.d2p(users.x[0]), box.y + yaxis.d2p(users.y[0]), users.customdata[0]];
        }"""
    before = None
    while (place := page.evaluate(first_user)) != before:  # figures that are drawn above it move it
        before = place
        page.wait_for_timeout(100)
    x, y, user_id = place
    page.mouse.move(x, y)
    page.locator(".hovertext").first.wait_for()
    page.mouse.click(x, y)
    page.get_by_role("heading", name=f"List of user {user_id}").wait_for()
    assert opened.trouble == []


@pytest.mark.postgres
def test_empty_then_published_with_a_reason(browser: Any, postgres_engine: Engine) -> None:
    with serving(url_of(postgres_engine)) as client:
        opened = open_page(browser, str(client.base_url))
        opened.goto("").get_by_text("recsys nightly").first.wait_for()
        opened.goto("map").get_by_text("no model is stored yet").wait_for()
        add_planted(postgres_engine, mapped=False)
        number = add_version(postgres_engine, "ranking", vectors(seed=1))
        page = opened.goto("")
        form = page.locator("form.change", has=page.get_by_role("heading", name="Publish"))
        form.get_by_label("Version").select_option(str(number))
        form.get_by_label("Reason").fill("planted by hand")
        form.get_by_role("button", name="Publish").click()
        page.get_by_text(f"Version {number} is live.").wait_for()
        page.get_by_text("planted by hand").first.wait_for()
        with reading(postgres_engine) as connection:
            assert live_numbers(connection)["ranking"] == number
        page.context.close()


def test_a_version_that_is_pruned_while_it_is_viewed(browser: Any, planted_database: Path, tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{shutil.copy(planted_database, tmp_path / 'pruned.db')}")
    with serving(url_of(engine)) as client:
        opened = open_page(browser, str(client.base_url))
        page = opened.goto("map?version=1", DRAWN)
        delete_version(engine, 1)
        page.get_by_label("Search").fill("war 200")
        page.get_by_text("there is no version 1 any more").wait_for()
        page.get_by_role("link", name="Health").click()  # the choice of a version does not follow to another page
        page.get_by_text("By direction of the vectors").wait_for()
        opened.follow("health?version=1", "choose another one")
        assert opened.trouble == []
        page.context.close()
    engine.dispose()


@pytest.mark.postgres
def test_sign_in_to_one_item_without_a_title_and_nothing_live(browser: Any, postgres_engine: Engine) -> None:
    add_one_item(postgres_engine)
    key, text = create_key(postgres_engine, "analyst", ["read"], actor="test")
    with serving(url_of(postgres_engine)) as client:
        opened = open_page(browser, str(client.base_url))
        page = opened.page
        page.goto(f"{opened.base}/dashboard/item?item=only")
        assert serious_violations(page) == []
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("unknown, expired or revoked").wait_for()
        opened.trouble.clear()  # the browser notes the 401
        page.get_by_label("API key").fill(text)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="only").wait_for()  # the page that was asked for
        assert set(ONE_ITEM) == set(PAGES)
        for path, text in ONE_ITEM.items():
            assert "could not be made" not in opened.follow(path, text).locator("#page").inner_text()
        assert page.locator("form.change").count() == 0  # a reader publishes nothing
        assert opened.trouble == []
        revoke_key(postgres_engine, str(key.number), actor="test")
        while page.request.get(f"{opened.base}/dashboard/", max_redirects=0).status != 303:
            page.wait_for_timeout(50)  # the server reads its keys again soon
        page.get_by_role("link", name="Health").click()
        page.wait_for_url("**/sign-in?next=health")
        page.get_by_label("API key").wait_for()
        page.context.close()
