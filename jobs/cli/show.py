"""Results on stdout: tables for people, JSON for machines."""

import os
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.results import Explanation, ItemList, LoadReport, ModelSummary, NightlyReport, Result, TrainReport


def show(result: Result, as_json: bool) -> None:
    """Print a result: one line of JSON, or what a person wants to see."""
    if as_json:
        Console(soft_wrap=True).out(result.model_dump_json(), highlight=False)
        return
    console = stdout_console()
    match result:
        case ItemList():
            _show_list(console, result)
        case LoadReport():
            _show_load(console, result)
        case TrainReport():
            _show_training(console, result)
        case NightlyReport():
            for load in result.loads:
                _show_load(console, load)
            for training in result.trainings:
                _show_training(console, training)
            console.out(f"{result.status.replace('_', ' ')} after {result.seconds:.1f} s", highlight=False)
        case _:
            for name, value in result.model_dump(mode="json").items():
                if name in ("metrics", "baselines"):
                    continue
                console.out(f"{name}: {value}", highlight=False)
            if hasattr(result, "metrics") and hasattr(result, "baselines"):
                console.print(_metrics_table(result.metrics, result.baselines))


def stdout_console() -> Console:
    """Standard output: as wide as the terminal, and wide enough for every table where there is none."""
    console = Console(soft_wrap=True)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(soft_wrap=True, width=200)


def show_models(models: list[ModelSummary]) -> None:
    table = Table("version", "objective", "architecture", "live", "trained", "ratings", "factors", "metrics")
    for model in models:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in model.metrics.items())
        table.add_row(
            str(model.number),
            model.objective,
            model.architecture,
            "live" if model.live else "",
            f"{model.created_at:%Y-%m-%d %H:%M}",
            f"{model.n_ratings:,}",
            str(model.n_factors),
            metrics,
        )
    stdout_console().print(table)


def _show_list(console: Console, result: ItemList) -> None:
    why = [item.explanation for item in result.items]
    table = Table("", "item_id", "title", "score", *(["parts of the score", "because of"] if any(why) else []))
    table.columns[0].justify = table.columns[3].justify = "right"
    for place, item in enumerate(result.items, start=1):
        row: list[str | Text] = [str(place), Text(item.item_id), Text(item.title or ""), f"{item.score:.4g}"]
        table.add_row(*row, *(_why(item.explanation) if item.explanation else []))
    console.print(table)
    version = "no model" if result.model_version is None else f"model version {result.model_version}"
    console.out(f"{version}, source: {result.source}", highlight=False)
    if result.fallback:
        console.out(result.fallback, highlight=False)


def _why(said: Explanation) -> list[Text]:
    """An explanation as two cells."""
    biases = said.global_bias + said.user_bias + said.item_bias
    parts = f"biases {biases:+.3f}, taste {said.dot_product:+.3f}"
    parts += f", layers {said.layers:+.3f}" if said.layers else ""
    named = [f"{each.title or each.item_id} {each.contribution:+.3f}" for each in said.contributions]
    return [Text(parts), Text("\n".join(named))]


def _show_load(console: Console, report: LoadReport) -> None:
    console.out(
        f"{report.rows_read:,} rows read: {report.inserted:,} inserted, {report.updated:,} updated, "
        f"{report.unchanged:,} unchanged, {report.rejected:,} rejected; "
        f"{report.users:,} users, {report.items:,} items; {report.seconds:.1f} s",
        highlight=False,
    )
    for what, n_rejected in (("items", report.items_rejected), ("users", report.users_rejected)):
        if n_rejected:
            console.out(f"{n_rejected:,} rows of {what} rejected", highlight=False)
    if report.rejects_file:
        console.out(f"rejected rows, with line and reason: {report.rejects_file}", highlight=False)


def _show_training(console: Console, report: TrainReport) -> None:
    state = "published" if report.published else "stored, not published"
    console.out(f"{report.objective} model version {report.model_version}: {state}", highlight=False)
    console.out(f"  {report.reason}", highlight=False)
    console.print(_metrics_table(report.metrics, report.baselines))
    console.out(f"  {report.seconds:.1f} s", highlight=False)


def _metrics_table(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table("", "model", *baselines)
    for name, value in metrics.items():
        others = [f"{values[name]:.4f}" if name in values else "" for values in baselines.values()]
        table.add_row(name, f"{value:.4f}", *others)
    return table
