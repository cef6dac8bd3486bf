"""Everything at once, for a first look: ratings, training, server, and three requests to try."""

import os
import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import typer
from sqlalchemy import Engine, select

from jobs.nightly import nightly
from jobs.serve import serve
from recsys.data import sample
from recsys.database import migration, schema
from recsys.database.engine import connect, reading
from recsys.database.models import live_numbers, publish, versions
from recsys.results import Objective
from recsys.serving.recommender import load_recommender
from recsys.settings import Settings

FOLDER = Path(".demo")


def demo(data: Path | None, settings: Settings, port: int) -> None:
    """Load ratings into a database of the demo's own, train, and serve. A second run finds it all done.

    Args:
        data: a file of ratings; None generates a sample.
    """
    FOLDER.mkdir(exist_ok=True)
    name = "sample" if data is None else f"{data.stem}-{blake2b(bytes(data.resolve()), digest_size=4).hexdigest()}"
    settings = settings.model_copy(update={"database_url": f"sqlite:///{FOLDER / name}.db"})
    # The service reads its settings itself, from the environment of this process.
    os.environ["RECSYS_DATABASE_URL"] = settings.database_url
    engine = connect(settings.database_url)
    migration.ready(engine)
    with tempfile.TemporaryDirectory() as temporary:
        typer.echo(f"loading {data or 'a generated sample'} into {FOLDER / name}.db and training on it", err=True)
        report = nightly(engine, settings, [data or sample.write(Path(temporary), sample.generate())])
    for training in report.trainings:
        typer.echo(f"{training.objective} model version {training.model_version}: {training.reason}", err=True)
    _make_sure_something_is_live(engine)
    lines = ["", "ready: try", *three_requests(engine, port), ""]
    engine.dispose()
    serve(settings, port=port, on_ready=lambda: typer.echo("\n".join(lines)))


def _make_sure_something_is_live(engine: Engine) -> None:
    """Publish what the gate held back, where there would be nothing to show; a demo says so and goes on."""
    with reading(engine) as connection:
        live, stored = live_numbers(connection), versions(connection)
    for objective in get_args(Objective):
        newest = next((version for version in stored if version.objective == objective), None)
        if objective not in live and newest is not None:
            said = newest.training.gate_reason
            typer.echo(f"{objective}: published for the demo, though the gate said: {said}", err=True)
            publish(engine, newest.number, f"demo; gate: {said}")


def three_requests(engine: Engine, port: int) -> list[str]:
    """Three curl lines that have an answer with this database."""
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        user_id = connection.scalars(
            select(schema.users.c.user_id)
            .join(schema.user_factors, schema.user_factors.c.user_key == schema.users.c.user_key)
            .order_by(schema.users.c.user_key)
            .limit(1)
        ).one()
    item_id = recommender.as_list(recommender.popular("count", 1)).items[0].item_id
    paths = (
        f"users/{quote(user_id, safe='')}/recommendations",
        f"items/{quote(item_id, safe='')}/similar",
        "popular?by=bias",
    )
    return [f"curl 'http://127.0.0.1:{port}/v1/{path}'" for path in paths]
