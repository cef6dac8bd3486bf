"""Results on stdout: tables for people, JSON for machines."""

import os
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.database.keys import ApiKey
from recsys.results import (
    AuditCheck,
    AuditEntries,
    CapacityReport,
    DemoReport,
    Diagnosis,
    Explanation,
    FilesReport,
    Ignored,
    InitReport,
    ItemList,
    ItemPage,
    KeySummaries,
    KeySummary,
    LoadReport,
    MapReport,
    ModelDetail,
    ModelSummaries,
    NightlyReport,
    NightPlan,
    PageReport,
    PruneReport,
    Result,
    RunDetail,
    RunSummaries,
    TrainReport,
    as_time,
    split_configuration,
)

LIST_FIELDS = ("year", "categories", "attributes", "prediction")

NIGHT_STATUS = {
    "published": "published",
    "some_refused": "published in part: one objective was refused",
    "not_better": "not better: nothing was published",
    "nothing_new": "nothing new",
    "failed": "failed",
}


def show(result: Result, as_json: bool) -> None:
    """Print a result: one line of JSON, or tables and lines for people."""
    if as_json:
        Console(soft_wrap=True).out(result.model_dump_json(), highlight=False)
        return
    console = stdout_console()
    match result:
        case ItemList():
            show_list(console, result)
        case ItemPage():
            console.print(items_table(result))
        case ModelDetail():
            show_model(console, result)
        case LoadReport():
            show_load(console, result)
        case TrainReport():
            show_training(console, result)
        case NightlyReport():
            show_night(console, result)
        case ModelSummaries():
            console.print(models_table(result))
        case RunSummaries():
            console.print(runs_table(result))
        case RunDetail():
            show_run(console, result)
        case NightPlan():
            for step in result.steps:
                name = step.step if step.objective is None else f"{step.step} {step.objective}"
                show_line(console, f"{name}: would {step.would}, because {step.why}")
        case Diagnosis():
            for check in result.checks:
                show_line(console, check.line())
        case CapacityReport():
            table = Table("", "needs", "assumes")
            for need in result.lines:
                table.add_row(need.name, need.text, need.assumes)
            console.print(table)
        case AuditEntries():
            console.print(audit_table(result))
        case AuditCheck():
            unchained = f", {result.n_unchained:,} of an earlier version without hashes" if result.n_unchained else ""
            show_line(console, result.problem or "no entry was removed or changed")
            show_line(console, f"{result.n_entries:,} entries{unchained}; last hash {result.hash or 'none'}")
        case KeySummaries():
            console.print(keys_table(result))
        case InitReport():
            show_line(console, f"{result.database} is ready: {result.server}, schema {result.revision}")
        case MapReport():
            show_line(console, f"mapped: {', '.join(map(str, result.mapped)) or 'none'}")
        case FilesReport():
            for file in result.files:
                show_line(console, file)
        case DemoReport():
            for line in ("", "ready: try", *result.requests, ""):
                show_line(console, line)
        case PageReport():
            show_line(console, result.file)
        case PruneReport():
            show_line(console, f"deleted: {', '.join(map(str, result.deleted)) or 'none'}")
        case _:
            for name, value in result.model_dump(mode="json").items():
                if name not in ("metrics", "baselines", "notices"):
                    show_line(console, f"{name}: {value}")
            for notice in getattr(result, "notices", ()):
                show_line(console, f"note: {notice}")
            if hasattr(result, "metrics") and hasattr(result, "baselines"):
                console.print(metrics_table(result.metrics, result.baselines))


def show_line(console: Console, line: str) -> None:
    """Print one line as it is: no markup, no colours, no wrapping."""
    console.out(line, highlight=False)


def stdout_console() -> Console:
    """Return standard output: as wide as the terminal, or wide enough for every table if there is none."""
    console = Console(soft_wrap=True)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(soft_wrap=True, width=200)


def key_summary(key: ApiKey) -> KeySummary:
    """Return what is known of a key, without the key itself."""
    return KeySummary(
        number=key.number,
        name=key.name,
        scopes=list(key.scopes),
        created_at=as_time(key.created_at),
        revoked_at=None if key.revoked_at is None else as_time(key.revoked_at),
        expires_at=None if key.expires_at is None else as_time(key.expires_at),
        last_used_at=None if key.last_used_at is None else as_time(key.last_used_at),
    )


def keys_table(summaries: KeySummaries) -> Table:
    """Return the keys as a table."""
    table = Table("key", "name", "scopes", "created", "last used", "expires", "revoked")
    for key in summaries.keys:
        table.add_row(
            str(key.number),
            Text(key.name),
            ", ".join(key.scopes),
            f"{key.created_at:%Y-%m-%d %H:%M}",
            f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "",
            f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "",
            f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "",
        )
    return table


def audit_table(log: AuditEntries) -> Table:
    """Return the entries of the audit log as a table."""
    table = Table("entry", "time", "actor", "action", "detail")
    for entry in log.entries:
        detail = ", ".join(f"{name}={value}" for name, value in entry.detail.items())
        table.add_row(str(entry.number), f"{entry.at:%Y-%m-%d %H:%M:%S}", Text(entry.actor), entry.action, Text(detail))
    return table


def models_table(summaries: ModelSummaries) -> Table:
    """Return the model versions as a table."""
    table = Table("version", "objective", "architecture", "live", "trained", "ratings", "factors", "metrics")
    for model in summaries.models:
        table.add_row(
            str(model.number),
            model.objective,
            model.architecture,
            "live" if model.live else "",
            f"{model.created_at:%Y-%m-%d %H:%M}",
            f"{model.n_ratings:,}",
            str(model.n_factors),
            ", ".join(f"{name} {value:.4f}" for name, value in model.metrics.items()),
        )
    return table


def runs_table(summaries: RunSummaries) -> Table:
    """Return runs as a table."""
    table = Table("run", "job", "started (UTC)", "seconds", "status", "exit", "outcome")
    for run in summaries.runs:
        table.add_row(
            str(run.run),
            Text(run.job),
            f"{run.started_at:%Y-%m-%d %H:%M:%S}",
            "" if run.seconds is None else f"{run.seconds:.1f}",
            run.status,
            "" if run.exit_code is None else str(run.exit_code),
            Text(run.reason),
        )
    return table


def show_run(console: Console, run: RunDetail) -> None:
    """Print a run and its steps, each with its figures."""
    took = "still running" if run.seconds is None else f"{run.seconds:.1f} s"
    exit_code = "" if run.exit_code is None else f", exit code {run.exit_code}"
    show_line(
        console, f"run {run.run}: {run.job}, {run.started_at:%Y-%m-%d %H:%M:%S} UTC, {took}, {run.status}{exit_code}"
    )
    show_line(console, f"  {run.reason}")
    table = Table("step", "objective", "status", "seconds", "figures")
    for step in run.steps:
        seconds = "" if step.seconds is None else f"{step.seconds:.1f}"
        figures = (figure_text(name, value) for name, value in step.figures.items() if name != "seconds")
        table.add_row(step.step, step.objective or "", step.status, seconds, Text(", ".join(filter(None, figures))))
    console.print(table)


def figure_text(name: str, value: object) -> str:
    """Return a figure of a step for people; empty if it has no value, or too many for a line."""
    if (
        value is None
        or isinstance(value, dict)
        or (isinstance(value, list) and any(isinstance(each, dict) for each in value))
    ):
        return ""
    said = name.removeprefix("n_").replace("_", " ")
    if isinstance(value, bool):
        return said if value else f"not {said}"
    if isinstance(value, list):
        return f"{said}: {', '.join(map(str, value)) or 'none'}"
    return f"{said} {value:.4g}" if isinstance(value, float) else f"{said} {value}"


def metrics_table(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the metrics of a model as a table, one column for each baseline beside it."""
    table = Table("", "model", *baselines)
    for name, value in metrics.items():
        others = [f"{values[name]:.4f}" if name in values else "" for values in baselines.values()]
        table.add_row(name, f"{value:.4f}", *others)
    return table


def items_table(page: ItemPage) -> Table:
    """Return items as a table."""
    table = Table("item_id", "title", "year", "categories", "ratings", "mean")
    for name in (2, 4, 5):
        table.columns[name].justify = "right"
    for item in page.items:
        table.add_row(
            Text(item.item_id),
            Text(item.title or ""),
            str(item.year or ""),
            Text(", ".join(item.categories)),
            f"{item.n_ratings:,}",
            "" if item.mean_rating is None else f"{item.mean_rating:.2f}",
        )
    return table


def show_model(console: Console, model: ModelDetail) -> None:
    """Print a model version: what it is, its metrics beside the baselines, its settings and its training curve."""
    state = "live" if model.live else "not live"
    show_line(console, f"version {model.number}: {model.objective}, {model.architecture}, {state}")
    show_line(
        console,
        f"trained {model.created_at:%Y-%m-%d %H:%M} UTC in {model.training_seconds:.1f} s on {model.n_ratings:,} "
        f"ratings ({model.rating_min:g} to {model.rating_max:g}) of {model.n_users:,} users and "
        f"{model.n_items:,} items, {model.n_factors} factors",
    )
    console.print(metrics_table(model.metrics, model.baselines))
    settings = Table("setting", "value")
    chosen, facts = split_configuration(model.configuration)
    for name, value in chosen.items():
        settings.add_row(Text(name), Text(f"{value:g}" if isinstance(value, float) else str(value)))
    console.print(settings)
    for words, value in facts.items():
        show_line(console, f"{words}: {value:g}" if isinstance(value, float) else f"{words}: {value}")
    if model.history:
        names = list(model.history[0])
        n_users = model.configuration.get("curve_users")
        title = "training curve" if n_users is None else f"training curve, measured on {n_users:,} users"
        curve = Table(*names, title=title, title_justify="left")
        for epoch in model.history:
            cells = (epoch.get(name) for name in names)
            curve.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
        console.print(curve)


def show_list(console: Console, result: ItemList) -> None:
    """Print a list of items, with the explanations and fields if there are any."""
    explained = any(item.explanation for item in result.items)
    fields = [name for name in LIST_FIELDS if any(getattr(item, name) is not None for item in result.items)]
    table = Table(
        "", "item_id", "title", "score", *fields, *(["parts of the score", "because of"] if explained else [])
    )
    table.columns[0].justify = table.columns[3].justify = "right"
    for rank, item in enumerate(result.items, start=1):
        cells: Sequence[Text] = explanation_cells(item.explanation) if item.explanation else []
        values = (field_text(getattr(item, name)) for name in fields)
        table.add_row(str(rank), Text(item.item_id), Text(item.title or ""), f"{item.score:.4g}", *values, *cells)
    console.print(table)
    version = "no model" if result.model_version is None else f"model version {result.model_version}"
    show_line(console, f"{version}, source: {result.source}, score: {result.score_kind}")
    for line in (result.fallback, result.notice):
        if line:
            show_line(console, line)
    show_ignored(console, result.ignored)


def show_ignored(console: Console, ignored: Sequence[Ignored] | None) -> None:
    """Print the parts of a request that had no effect."""
    for each in ignored or ():
        show_line(console, f"ignored: {each.where} {each.value}: {each.reason}")


def field_text(value: object) -> Text:
    """Return a field of a listed item as text."""
    if value is None:
        return Text("")
    if isinstance(value, list):
        return Text(", ".join(map(str, value)))
    if isinstance(value, dict):
        return Text(", ".join(f"{name}={each}" for name, each in value.items()))
    return Text(f"{value:.2f}" if isinstance(value, float) else str(value))


def explanation_cells(explanation: Explanation) -> list[Text]:
    """Return an explanation as two cells: the parts of the score, and the ratings that raised it most."""
    biases = explanation.global_bias + explanation.user_bias + explanation.item_bias
    parts = f"biases {biases:+.3f}, taste {explanation.dot_product:+.3f}"
    parts += f", layers {explanation.layers:+.3f}" if explanation.layers else ""
    raised_by = [f"{each.title or each.item_id} {each.contribution:+.3f}" for each in explanation.contributions]
    return [Text(parts), Text("\n".join(raised_by))]


def show_load(console: Console, report: LoadReport) -> None:
    """Print what a load changed, and where the rejected rows are."""
    show_line(
        console,
        f"{report.rows_read:,} rows read: {report.inserted:,} inserted, {report.updated:,} updated, "
        f"{report.unchanged:,} unchanged, {report.rejected:,} rejected; "
        f"{report.users:,} users, {report.items:,} items; "
        f"{report.seconds:.1f} s, {report.rows_read / max(report.seconds, 0.001):,.0f} rows/s",
    )
    for name, n_rejected in (("items", report.items_rejected), ("users", report.users_rejected)):
        if n_rejected:
            show_line(console, f"{n_rejected:,} rows of {name} rejected")
    if report.withdrawn:
        show_line(console, f"{report.withdrawn:,} rows left out: taken back over HTTP, or of erased users")
    if report.deleted:
        show_line(console, f"{report.deleted:,} ratings or events deleted, as the file says")
    if report.earlier:
        show_line(console, f"{report.earlier:,} rows left out: from before --since")
    for notice in report.notices:
        show_line(console, f"note: {notice}")
    if report.rejects_file:
        show_line(console, f"rejected rows, with line and reason: {report.rejects_file}")


def show_training(console: Console, report: TrainReport) -> None:
    """Print the outcome of one training, with its metrics beside those of the baselines."""
    state = "published" if report.published else "stored, not published"
    show_line(console, f"{report.objective} model version {report.model_version}: {state}")
    show_line(console, f"  {report.reason}")
    if report.candidates:
        tried = ", ".join(f"{name} {value:.4f}" for name, value in report.candidates.items())
        show_line(console, f"  {report.architecture}: the best on a validation part (NDCG@10: {tried})")
    console.print(metrics_table(report.metrics, report.baselines))
    again = ""
    if report.refit is not None:
        again = f"; trained again on all ratings: lists have {report.refit['overlap']:.0%} in common"
    show_line(console, f"  {report.seconds:.1f} s{again}")


def show_night(console: Console, report: NightlyReport) -> None:
    """Print the loads and trainings of a night, and how it ended."""
    for load in report.loads:
        show_load(console, load)
    for training in report.trainings:
        show_training(console, training)
    for objective in report.objectives:
        show_line(console, objective.line())
    if report.pruned:
        show_line(console, f"deleted the versions {', '.join(map(str, sorted(report.pruned)))}")
    show_line(console, f"{NIGHT_STATUS[report.status]} after {report.seconds:.1f} s")
