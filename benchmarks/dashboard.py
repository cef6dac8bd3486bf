"""Times of the dashboard, of the map and of the report.

python -m benchmarks.dashboard map              # the map of 62,000 items, as the step after publishing has it
python -m benchmarks.dashboard page             # the map page of 62,000 items in a headless browser without a GPU
python -m benchmarks.dashboard page --items 1000000
python -m benchmarks.dashboard report           # the report of MovieLens 100K
python -m benchmarks.dashboard server           # start and memory of a server with and without the dashboard

The items are made: 64 factors around 120 centres in 12 groups, ratings by Zipf's law.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, insert, select

from benchmarks.data import SHARED_DATA
from benchmarks.served import Memory, serve_recsys
from jobs.load import load
from jobs.maps import map_live
from jobs.nightly import nightly
from jobs.report import report
from recsys.analysis.components import principal_components
from recsys.analysis.neighbours import unit_rows
from recsys.data.rows import ItemRow
from recsys.database import migration, schema
from recsys.database.engine import connect, reading
from recsys.database.items import upsert_items
from recsys.database.maps import StoredMap, read_map, store_map
from recsys.database.models import Training, publish, store
from recsys.factors import Factors, Side
from recsys.settings import Settings

WIDTH, N_GROUPS, N_CENTRES = 64, 12, 120
CATEGORIES = ("Action", "Comedy", "Drama", "Horror", "War", "Romance", "Sci-Fi", "Thriller", "Children", "Western")
BATCH = 100_000
N_QUERIES = 1000
"""Items whose neighbours on the map are compared with those in the space of the factors."""


def make_vectors(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the vectors of items, (n, 64), and the centre of each."""
    random = np.random.default_rng(seed)
    groups = random.normal(size=(N_GROUPS, WIDTH))
    centres = groups[np.arange(N_CENTRES) % N_GROUPS] + 0.7 * random.normal(size=(N_CENTRES, WIDTH))
    centre = random.integers(0, N_CENTRES, n)
    spread = np.linspace(1.2, 0.3, WIDTH)
    return (centres[centre] + spread * random.normal(size=(n, WIDTH))).astype(np.float32), centre


def make_database(path: Path, n: int) -> Engine:
    """Return a database with a live ranking version of n made items, with metadata and counts of ratings."""
    engine = connect(f"sqlite:///{path}")
    migration.upgrade(engine)
    vectors, centre = make_vectors(n)
    for start in range(0, n, BATCH):
        rows = [
            ItemRow(
                f"{idx}",
                f"The title of item number {idx} ({1950 + idx % 70})",
                (CATEGORIES[centre[idx] % 10], CATEGORIES[centre[idx] % 7]),
                1950 + idx % 70,
            )
            for idx in range(start, min(n, start + BATCH))
        ]
        upsert_items(engine, rows)
    with engine.begin() as connection:
        chosen = select(schema.items.c.item_key).order_by(schema.items.c.item_key)
        keys = np.array(connection.scalars(chosen).all(), np.int64)
        popular = np.random.default_rng(2).permutation(n) + 1
        counts = [
            {"item_key": key, "n_ratings": count, "rating_sum": 3.5 * count, "n_explicit": count}
            for key, count in zip(keys.tolist(), (20 * n // popular).tolist(), strict=True)
        ]
        connection.execute(insert(schema.item_counts), counts)
    factors = Factors(
        objective="ranking",
        users=Side.empty(WIDTH),
        items=Side(keys, vectors, np.random.default_rng(1).normal(size=n).astype(np.float32)),
    )
    training = Training("dot", {"n_factors": WIDTH}, {"ndcg": 0.3}, {}, [], "made", 0, 1, (1.0, 5.0), 0.1, True, "made")
    publish(engine, store(engine, factors, training), "made")
    return engine


def measure_map(folder: Path, n: int) -> dict[str, Any]:
    """Time the components and the map of n items, and how far the map keeps neighbours.

    Returns:
        Seconds of the principal components and of the map; trustworthiness (see `trustworthiness`); and the share of
        the ten nearest items that are among the ten nearest on the map.
    """
    engine = make_database(folder / "map.db", n)
    vectors, _ = make_vectors(n)
    started = time.perf_counter()
    principal_components(vectors, 8)
    components = time.perf_counter() - started
    started = time.perf_counter()
    (number,) = map_live(engine)
    seconds = time.perf_counter() - started
    with reading(engine) as connection:
        stored = read_map(connection, number, n)
    engine.dispose()
    assert stored is not None
    trust, kept = trustworthiness(vectors, stored.xy)
    return {
        "items": n,
        "components_seconds": round(components, 2),
        "map_seconds": round(seconds, 1),
        "trustworthiness": round(trust, 4),
        "kept_of_10": round(kept, 3),
    }


def trustworthiness(
    vectors: NDArray[np.float32], xy: NDArray[np.float32], k: int = 10, seed: int = 0
) -> tuple[float, float]:
    """Return the trustworthiness of a map, of 1,000 items, and the share of the k nearest items that the map keeps.

        T = 1 − 2 / (k (2n − 3k − 1)) · mean over items of Σ max(0, rank − k)

    where the sum is over the k nearest on the map, and rank is that of their cosine. 1: the map shows no false
    neighbours; about .5 is chance.

    Reference: Venna & Kaski, "Neighborhood preservation in nonlinear projection methods", 2001.
    """
    n = len(vectors)
    chosen = np.random.default_rng(seed).choice(n, min(N_QUERIES, n), replace=False)
    units, penalty, kept = unit_rows(vectors), 0.0, 0.0
    for idx in chosen.tolist():
        cosine = units @ units[idx]
        distance = ((xy - xy[idx]) ** 2).sum(axis=1)
        cosine[idx], distance[idx] = np.inf, np.inf
        near = np.argpartition(distance, k)[:k]
        rank = np.array([(cosine > cosine[one]).sum() for one in near.tolist()])  # the item itself counts 1
        penalty += float(np.maximum(0, rank - k).sum())
        kept += float((rank <= k).mean())
    return 1 - 2 * penalty / (len(chosen) * k * (2 * n - 3 * k - 1)), kept / len(chosen)


def measure_page(folder: Path, n: int) -> dict[str, Any]:
    """Time the map page in headless Chromium without a GPU: first load, panning, zooming, and a click.

    The map is stored before, as a night does it; its places here are those of made groups.
    """
    engine = make_database(folder / "page.db", n)
    _, centre = make_vectors(n)
    random = np.random.default_rng(3)
    xy = random.normal(size=(N_CENTRES, 2))[centre] * 40 + random.normal(size=(n, 2)) * 4
    store_map(engine, 1, StoredMap("tsne", xy.astype(np.float32), (centre % 24).astype(np.int32)), 1.0)
    engine.dispose()
    with serve_recsys(f"sqlite:///{folder / 'page.db'}", folder / "log", {}) as server:
        found = in_browser(f"http://127.0.0.1:{server.port}/dashboard/map")
        found["server_mib"] = round(server.memory().rss)
    return {"items": n, **found}


INTERACTIVE = "Boolean(window.recsysMap && window.recsysMap.drawn && document.querySelector('#details p'))"
WATCH_CLICK = """() => {
  window.times_ = {};
  document.addEventListener('mouseup', () => { window.times_.click = performance.now(); }, {capture: true, once: true});
  new MutationObserver(() => {
    if (document.querySelector('#details table') && !window.times_.details) window.times_.details = performance.now();
  }).observe(document.querySelector('#details'), {childList: true, subtree: true});
  const map = window.recsysMap, before = map.drawn;
  const look = () => {
    if (map.focus.item !== null && map.drawn > before) window.times_.drawn = performance.now();
    else requestAnimationFrame(look);
  };
  look();
}"""


def in_browser(address: str) -> dict[str, Any]:
    """Open the map page twice and use it once; return seconds, frames per second and milliseconds."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        loads = []
        for _ in range(2):
            page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
            page.set_default_timeout(120_000)
            started = time.perf_counter()
            page.goto(address)
            page.wait_for_function(INTERACTIVE, polling=20)
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            loads.append(time.perf_counter() - started)
        pan, zoom = frames(page, drag), frames(page, wheel)
        page.get_by_role("button", name="Show all items").click()
        page.wait_for_timeout(500)
        left, top, _, _ = canvas_box(page)
        x, y = page.evaluate("window.recsysMap.place(7)")
        x, y = left + x, top + y
        page.mouse.move(x, y)
        page.wait_for_function("!document.querySelector('#map .tip').hidden")
        page.evaluate(WATCH_CLICK)
        page.mouse.click(x, y)
        page.wait_for_function("window.times_.drawn && window.times_.details")
        times = page.evaluate("window.times_")
        browser.close()
    return {
        "first_load_seconds": round(loads[0], 2),
        "second_load_seconds": round(loads[1], 2),
        "pan_frames_per_second": round(pan, 1),
        "zoom_frames_per_second": round(zoom, 1),
        "click_to_details_ms": round(times["details"] - times["click"]),
        "click_to_neighbours_ms": round(times["drawn"] - times["click"]),
    }


def frames(page: Any, move: Callable[[Any, float, float], None]) -> float:
    """Return how often the map is drawn in a second while something moves it."""
    left, top, width, height = canvas_box(page)
    x, y = left + width / 2, top + height / 2
    page.mouse.move(x, y)
    before, started = page.evaluate("[window.recsysMap.drawn, performance.now()]")
    move(page, x, y)
    after, ended = page.evaluate("[window.recsysMap.drawn, performance.now()]")
    return float(1000 * (after - before) / (ended - started))


def canvas_box(page: Any) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the map on the page, in pixels."""
    box = page.locator("#map canvas").bounding_box()
    return box["x"], box["y"], box["width"], box["height"]


def drag(page: Any, x: float, y: float) -> None:
    """Drag the map about for three seconds."""
    page.mouse.down()
    until, step = time.perf_counter() + 3, 0
    while time.perf_counter() < until:
        step += 1
        page.mouse.move(x + 150 * np.sin(step / 15), y + 100 * np.cos(step / 15))
    page.mouse.up()


def wheel(page: Any, x: float, y: float) -> None:
    """Zoom in and out for three seconds."""
    until, step = time.perf_counter() + 3, 0
    while time.perf_counter() < until:
        step += 1
        page.mouse.wheel(0, -60 if step // 20 % 2 == 0 else 60)


def measure_report(folder: Path, _n: int) -> dict[str, Any]:
    """Time the report of MovieLens 100K with both live models, and its size."""
    engine = connect(f"sqlite:///{folder / 'report.db'}")
    migration.upgrade(engine)
    settings = Settings(checkpoints=folder / "checkpoints")
    load(engine, SHARED_DATA / "ml-100k.zip", settings)
    nightly(engine, settings, device="cpu")
    started = time.perf_counter()
    path = report(engine, folder / "out")
    seconds = time.perf_counter() - started
    engine.dispose()
    return {"report_seconds": round(seconds, 1), "report_mb": round(path.stat().st_size / 1e6, 2)}


def measure_server(folder: Path, n: int) -> dict[str, Any]:
    """Time the start of a server and its memory: without the dashboard, with it, and with it opened."""
    make_database(folder / "server.db", n).dispose()
    found: dict[str, Any] = {"items": n}
    for name, offered in (("without", "false"), ("with", "true")):
        starts: list[float] = []
        memory: list[Memory] = []
        for _ in range(5):
            settings = {"RECSYS_DASHBOARD": offered}
            with serve_recsys(f"sqlite:///{folder / 'server.db'}", folder / "log", settings) as server:
                starts.append(server.start_seconds)
                memory.append(server.memory())
        found[f"{name}_start_seconds"] = round(statistics.median(starts), 2)
        found[f"{name}_mib"] = round(statistics.median(one.rss for one in memory), 1)
    return found


MEASURED: dict[str, tuple[Callable[[Path, int], dict[str, Any]], int]] = {
    "map": (measure_map, 62_000),
    "page": (measure_page, 62_000),
    "report": (measure_report, 0),
    "server": (measure_server, 10_000),
}


def main() -> None:
    """Measure what the command line names, and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", choices=MEASURED)
    parser.add_argument("--items", type=int, default=0, help="number of items; by default that of the requirement")
    arguments = parser.parse_args()
    measure, n = MEASURED[arguments.measured]
    folder = Path(tempfile.mkdtemp(prefix="recsys-dashboard-"))
    try:
        print(json.dumps({arguments.measured: measure(folder, arguments.items or n)}))  # noqa: T201
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
