"""The pictures of the dashboard in docs/images, of the ratings of MovieLens 1M.

python -m benchmarks.pictures                            # load, run a night, serve, and write all pictures
python -m benchmarks.pictures --database sqlite:///FILE  # of a database with live models
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.data import SHARED_DATA
from benchmarks.served import serve_recsys
from jobs.load import load
from jobs.nightly import nightly
from recsys.database import migration
from recsys.database.engine import connect
from recsys.settings import Settings

FOLDER = Path(__file__).parents[1] / "docs" / "images"
SIZE: Any = {"width": 1400, "height": 900}
PICTURES = {
    "overview": "",
    "map": "map",
    "neighbours": "map?item=2571",  # The Matrix
    "factors": "factors",
    "popularity": "popularity?version={rating}",
    "user": "user?user=1",
    "health": "health",
    "training": "training?version={rating}",
}
"""Name of the file → page; `{rating}` is the number of the live rating version."""
DARK = {"neighbours", "user"}


def make_database(folder: Path) -> str:
    """Return the URL of a database after a night on MovieLens 1M."""
    url = f"sqlite:///{folder / 'pictures.db'}"
    engine = connect(url)
    migration.upgrade(engine)
    settings = Settings(checkpoints=folder / "checkpoints")
    load(engine, SHARED_DATA / "ml-1m" / "ratings.parquet", settings, items=SHARED_DATA / "ml-1m" / "movies.dat")
    nightly(engine, settings, device="cpu", architecture="dot")  # vectors, whatever would order lists best
    engine.dispose()
    return url


def take_pictures(base: str, folder: Path) -> None:
    """Write a picture of each page of a running service to a folder."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        versions = browser.new_context().request.get(f"{base}/v1/models").json()["models"]
        rating = next(v["number"] for v in versions if v["live"] and v["objective"] == "rating")
        for name, page_name in PICTURES.items():
            scheme: Any = "dark" if name in DARK else "light"
            page = browser.new_context(viewport=SIZE, color_scheme=scheme).new_page()
            page.goto(f"{base}/dashboard/{page_name.format(rating=rating)}")
            page.wait_for_selector("#page .card")
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(2500)  # what is drawn after the data came
            page.screenshot(path=folder / f"{name}.png")
            sys.stderr.write(f"{name}.png\n")
            page.context.close()
        browser.close()


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", help="URL of a database with live models of MovieLens 1M")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the pictures")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="recsys-pictures-"))
    try:
        url = arguments.database or make_database(folder)
        with serve_recsys(url, folder / "log", {}) as server:
            take_pictures(f"http://127.0.0.1:{server.port}", arguments.out)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
