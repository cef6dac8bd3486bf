"""A service over a model whose structure is known, for a real browser."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from api.dashboard.app import PAGES
from recsys.data.encoding import collect
from recsys.data.rows import ItemRow, RatingBatch
from recsys.database import schema
from recsys.database.engine import connect, reading, writing
from recsys.database.items import upsert_items
from recsys.database.maps import StoredMap, store_map
from recsys.database.models import Training, publish, store
from recsys.database.ratings import upsert_ratings
from recsys.database.runs import record_finished
from recsys.factors import Factors, Side
from recsys.results import Objective
from tests.analysis.planted import faulty_vectors, labels, vectors
from tests.api.conftest import serving

assert PAGES  # Dash is imported before a server has to build the dashboard within a client's time limit

HOSTILE = "<img src=x onerror=alert(1)><b>Bold</b> & \"quoted\" 'title'"


def add_planted(engine: Engine, mapped: bool = True) -> None:
    """240 items in four groups; ranking versions 1 and 2 (live, one item moved), rating version 3 (live).

    Ranking version 4, which is not live, has all faults of `faulty_vectors`.
    """
    names = labels()
    titles: list[str | None] = [*names.titles]
    titles[7], titles[8] = HOSTILE, None
    rows = [ItemRow(names.item_ids[i], titles[i], tuple(names.categories[i]), 1980 + i % 40) for i in range(240)]
    upsert_items(engine, rows)
    user_idx, item_idx = np.nonzero(np.random.default_rng(0).random((40, 240)) < 0.4)
    batch = RatingBatch(
        user_ids=pa.array([f"user {u}" for u in user_idx], pa.string()),
        item_ids=pa.array([f"i{i}" for i in item_idx], pa.string()),
        rating=1.0 + (user_idx + item_idx) % 5,
        rated_at=np.arange(len(user_idx)) + 1,
        line=np.arange(len(user_idx)) + 1,
    )
    upsert_ratings(engine, collect([batch]))
    first = vectors()
    moved = first.copy()
    moved[200] = first[5]
    for objective, q in (("ranking", first), ("ranking", moved), ("rating", first)):
        publish(engine, add_version(engine, objective, q), "planted")  # type: ignore[arg-type]
    add_version(engine, "ranking", faulty_vectors())
    if mapped:
        for number in (2, 3):
            store_map(engine, number, planted_map(), 0.1)
    found = {"learning_rates": [0.001, 0.01, 0.1], "smoothed": [1.0, 0.5, 0.9], "valley": 0.01, "slide": 0.02}
    swept = [{"value": value, "metric": 0.9 + value} for value in (0.01, 0.1, 1.0)]
    detail = {"field": "l2", "metric": "rmse", "rows": swept, "default": swept[0]}
    with writing(engine) as connection:
        for objective in ("ranking", "rating"):
            record_finished(connection, "lr-find", "planted", {**found, "default": 0.01, "objective": objective})
        record_finished(connection, "sweep", "planted", {**detail, "objective": "rating"})


def planted_map() -> StoredMap:
    """A square of 8 × 8 places for each of the four groups."""
    group, at = np.divmod(np.arange(240), 60)
    xy = np.stack([at % 8 + 20 * (group % 2), at // 8 + 20 * (group // 2)], axis=1)
    return StoredMap("tsne", xy.astype(np.float32), group.astype(np.int32))


def add_version(engine: Engine, objective: Objective, q: NDArray[np.float32]) -> int:
    """Store a version of the planted items."""
    with reading(engine) as connection:
        users = connection.scalars(select(schema.users.c.user_key).order_by(schema.users.c.user_key)).all()
        items = connection.scalars(select(schema.items.c.item_key).order_by(schema.items.c.item_key)).all()
    factors = Factors(
        objective=objective,
        users=Side(np.array(users), q[np.arange(len(users)) * 6], np.zeros(len(users), np.float32)),
        items=Side(np.array(items), q, np.linspace(-1, 1, len(q)).astype(np.float32)),
        rating_range=(0.5, 5.5) if objective == "rating" else None,
    )
    training = Training(
        architecture="dot",
        configuration={"n_factors": 16},
        metrics={"ndcg": 0.3} if objective == "ranking" else {"rmse": 0.9},
        baselines={"popular": {"ndcg": 0.2}},
        history=[{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.0}],
        data_fingerprint="planted",
        trained_seq=2**40,  # later than any change: no user is folded in
        n_ratings=3800,
        rating_scale=(1.0, 5.0),
        training_seconds=0.1,
        gate_passed=True,
        gate_reason="planted",
    )
    return store(engine, factors, training)


def add_one_item(engine: Engine) -> None:
    """One item without a title, one rating, and a version of both that is not live."""
    upsert_items(engine, [ItemRow("only", None, (), None)])
    batch = RatingBatch(
        user_ids=pa.array(["user 0"], pa.string()),
        item_ids=pa.array(["only"], pa.string()),
        rating=np.array([4.0]),
        rated_at=np.array([1]),
        line=np.array([1]),
    )
    upsert_ratings(engine, collect([batch]))
    add_version(engine, "ranking", np.ones((1, 16), np.float32))


@dataclass
class Opened:
    """A page of a browser on the dashboard.

    Attributes:
        trouble: errors and warnings of the console, and dialogs.
        foreign: addresses outside the service that were asked for.
    """

    page: Any
    base: str
    trouble: list[str]
    foreign: list[str]

    def goto(self, path: str, waiting: str = "#page > *") -> Any:
        """Open a page and wait until it is made."""
        self.page.goto(f"{self.base}/dashboard/{path}")
        self.page.locator(waiting).first.wait_for(state="attached")
        return self.page

    def follow(self, path: str, text: str) -> Any:
        """Go to a page as a link does, without loading the program again, and wait for a text of its own."""
        if not self.page.url.startswith(f"{self.base}/dashboard/"):
            self.goto(path)
        self.page.evaluate(
            "(path) => { history.pushState({}, '', path); window.dispatchEvent(new Event('_dashprivate_pushstate')); }",
            f"/dashboard/{path}",
        )
        self.page.get_by_text(text).first.wait_for()
        return self.page


def open_page(browser: Any, base: str, **context: Any) -> Opened:
    """Return a page that notes its trouble."""
    page = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **context}).new_page()
    page.set_default_timeout(60_000)
    opened = Opened(page, base, [], [])
    page.on("console", lambda m: opened.trouble.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: opened.trouble.append(str(error)))
    page.on("dialog", lambda dialog: (opened.trouble.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda r: None if r.url.startswith((base, "data:", "blob:")) else opened.foreign.append(r.url))
    return opened


@pytest.fixture(scope="module")
def planted_database(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Path:
    """A database with the planted model, for tests that write nothing or copy it."""
    path = tmp_path_factory.mktemp("dashboard") / "planted.db"
    shutil.copy(migrated_sqlite, path)
    engine = connect(f"sqlite:///{path}")
    add_planted(engine)
    engine.dispose()
    return path


@pytest.fixture(scope="module")
def planted(planted_database: Path) -> Iterator[str]:
    """The address of a service over the planted model, for tests that write nothing."""
    with serving(f"sqlite:///{planted_database}") as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def opened(browser: Any, planted: str) -> Iterator[Opened]:
    """One page for all tests of a module."""
    made = open_page(browser, planted)
    yield made
    made.page.context.close()
