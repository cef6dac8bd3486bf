"""A first look with one command: ratings, training, server, and three requests to try."""

import os
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import typer
from sqlalchemy import Engine

from jobs.nightly import nightly
from jobs.serve import serve
from recsys.data import sample
from recsys.database import migration
from recsys.database.engine import connect, reading
from recsys.database.models import live_numbers, publish, versions
from recsys.database.users import first_known_user
from recsys.results import DemoReport, Objective
from recsys.serving.snapshot import load_recommender
from recsys.settings import Settings

FOLDER = Path(".demo")


def demo(
    data: Path | None, settings: Settings, port: int, on_ready: Callable[[DemoReport], None] = lambda report: None
) -> None:
    """Load ratings into a database of their own, train, and serve. A second run only serves.

    Args:
        data: a file of ratings; `None` generates a sample.
        on_ready: called when the service answers.
    """
    FOLDER.mkdir(exist_ok=True)
    name = "sample" if data is None else f"{data.stem}-{blake2b(bytes(data.resolve()), digest_size=4).hexdigest()}"
    settings = settings.model_copy(update={"database_url": f"sqlite:///{FOLDER / name}.db"})
    # The service reads its settings from the environment of this process.
    os.environ["RECSYS_DATABASE_URL"] = settings.database_url
    engine = connect(settings.database_url)
    migration.ready(engine)
    with tempfile.TemporaryDirectory() as temporary:
        typer.echo(f"loading {data or 'a generated sample'} into {FOLDER / name}.db and training on it", err=True)
        report = nightly(engine, settings, [data or sample.write(Path(temporary), sample.generate())])
    for objective in report.objectives:
        typer.echo(objective.line(), err=True)
    publish_refused(engine)
    ready = DemoReport(
        url=f"http://127.0.0.1:{port}",
        database=settings.database_url,
        objectives=report.objectives,
        requests=three_requests(engine, port),
    )
    engine.dispose()
    serve(settings, port=port, on_ready=lambda: on_ready(ready))


def publish_refused(engine: Engine) -> None:
    """Publish versions that the gate refused, for objectives without a live one: a demo needs something to show."""
    with reading(engine) as connection:
        live, stored = live_numbers(connection), versions(connection)
    for objective in get_args(Objective):
        newest = next((version for version in stored if version.objective == objective), None)
        if objective not in live and newest is not None:
            reason = newest.training.gate_reason
            typer.echo(f"{objective}: published for the demo although the gate refused it: {reason}", err=True)
            publish(engine, newest.number, "demo", force=True)


def three_requests(engine: Engine, port: int) -> list[str]:
    """Return three curl commands that this database has an answer for."""
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        user_id = first_known_user(connection)
    (item_idx,) = recommender.popular("count", 1).best.item_idx
    item_id = recommender.catalogue.items[item_idx].item_id
    paths = (
        f"users/{quote(user_id, safe='')}/recommendations",
        f"items/{quote(item_id, safe='')}/similar",
        "popular?by=bias",
    )
    return [f"curl 'http://127.0.0.1:{port}/v1/{path}'" for path in paths]
