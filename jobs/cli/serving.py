"""`recsys serve`, `recsys demo` and `recsys report`: what a person looks at in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import JsonOption, open_database

PortOption = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")]


def serve_command(
    host: Annotated[str, typer.Option(help="Address to listen on. 0.0.0.0 is every address of this machine.")] = (
        "127.0.0.1"
    ),
    port: PortOption = 8000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Number of server processes, one for each core.")] = 1,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow an address that other machines can reach although no key exists.")
    ] = False,
    root_path: Annotated[
        str | None,
        typer.Option("--root-path", help="Prefix of all paths behind a reverse proxy, such as /recsys."),
    ] = None,
    dashboard: Annotated[
        bool,
        typer.Option("--dashboard/--no-dashboard", help="Offer the dashboard, where recsys[dashboard] is installed."),
    ] = True,
) -> None:
    """Answer over HTTP. Open http://127.0.0.1:8000/docs for the description of all requests.

    Until the first key exists, no request needs one, and the service listens on this machine only. To listen on
    another address, create a key first: `recsys keys create NAME --scope read`. The dashboard for analysts is at
    /dashboard/.

        recsys serve
        recsys serve --host 0.0.0.0 --workers 4
        recsys serve --root-path /recsys
    """
    from jobs.serve import serve
    from recsys.settings import load_settings

    serve(load_settings(), host, port, workers=workers, insecure=insecure, root_path=root_path, dashboard=dashboard)


def demo_command(
    data: Annotated[
        Path | None, typer.Option(help="Ratings to use, for example ml-100k.zip. Default: generated ratings.")
    ] = None,
    port: PortOption = 8000,
    json: JsonOption = False,
) -> None:
    """Load ratings, train, serve, and print three requests to try.

    The database is a file in the folder .demo/. Running the demo again with the same ratings starts at once.

        recsys demo
        recsys demo --data ml-100k.zip --port 8080
    """
    from jobs.cli.show import show
    from jobs.demo import demo
    from recsys.settings import load_settings

    demo(data, load_settings(), port, lambda report: show(report, json))


def map_command(
    again: Annotated[bool, typer.Option("--again", help="Compute maps that are stored already, too.")] = False,
    json: JsonOption = False,
) -> None:
    """Compute the maps of the items of the live models, for the dashboard and the report.

    `recsys nightly` does it after a version went live.

        recsys map
        recsys map --again
    """
    from jobs.cli.show import show
    from jobs.maps import map_live
    from recsys.database.leases import TRAINING, lease
    from recsys.extras import require_extra
    from recsys.results import MapReport

    require_extra("report")
    engine, settings = open_database()
    with lease(engine, TRAINING, settings.lease_seconds) as held:
        mapped = map_live(engine, held.guard, again=again)
    show(MapReport(mapped=mapped), json)


def report_command(
    out: Annotated[Path, typer.Option(help="Folder to write report.html to.")] = Path("report"),
    png: Annotated[bool, typer.Option("--png", help="Write each figure as an image too; needs Chromium.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the live models as one HTML page: a map of the items, what each factor means, biases, training curves.

    The page needs no network: send it to a colleague as it is.

        recsys report
        recsys report --png
        recsys report --out /var/www/recsys
    """
    from jobs.cli.show import show
    from jobs.report import report
    from recsys.results import PageReport

    engine, _ = open_database()
    show(PageReport(file=str(report(engine, out, png=png))), json)
