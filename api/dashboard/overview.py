"""The pages of the dashboard that read more than versions: the overview, and one user."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from dash import dcc, html
from dash.development.base_component import Component

from api.dashboard.forms import MAX_REASON
from api.dashboard.parts import Asked, card, controls, graph, notice, select, table, version_select
from recsys.analysis import charts
from recsys.analysis.measures import format_value, measure_of
from recsys.analysis.users import user_map
from recsys.database.engine import reading
from recsys.database.models import ModelVersion
from recsys.database.publications import read_publications
from recsys.database.runs import read_runs
from recsys.database.users import read_user_ids
from recsys.serving.explain import explain_list
from recsys.serving.lists import ListQuery, recommend
from recsys.serving.parts import parts_of
from recsys.serving.users import read_rated_items_by_id, read_states


def when(milliseconds: int | None) -> str:
    """Return a time to the minute, in UTC."""
    return "–" if milliseconds is None else f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"


def overview_page(asked: Asked) -> list[Component]:
    """Return the live versions, quality over nights, what was published and why, and the runs of jobs."""
    with reading(asked.state.engine) as connection:
        publications, runs = read_publications(connection, 30), read_runs(connection, 30)
    parts: list[Component] = (
        [html.P(asked.params["done"][:200], className="done", role="status")] if asked.params.get("done") else []
    )
    if not asked.known:
        parts.append(
            card(
                "No model yet",
                notice(
                    "Load ratings with ",
                    html.Code("recsys load FILE"),
                    ", train and publish with ",
                    html.Code("recsys nightly"),
                    ", then reload this page.",
                ),
            )
        )
    live = [version for version in asked.known if version.live]
    if asked.known and not live:
        parts.append(
            card(
                "Live versions",
                notice("No version is live: publish one below, or run ", html.Code("recsys nightly"), "."),
            )
        )
    parts.append(html.Div([live_card(asked, version) for version in live], className="pair"))
    parts += quality_charts(asked.known)
    if asked.known:
        parts.append(versions_card(asked))
    if publications:
        headers = {
            "when": "When (UTC)",
            "action": "Action",
            "objective": "Objective",
            "number": "Version",
            "reason": "Reason",
        }
        published = [(when(p.published_at), p.action, p.objective, p.number, p.reason) for p in publications]
        parts.append(log_card("Published and rolled back", "Publications", headers, published))
    if runs:
        headers = {
            "started": "Started (UTC)",
            "finished": "Finished",
            "job": "Job",
            "status": "Status",
            "reason": "Outcome",
        }
        ran = [(when(r.started_at), when(r.finished_at), r.job, r.status, r.reason[:300]) for r in runs]
        parts.append(log_card("Runs", "Runs of jobs", headers, ran))
    return parts


def log_card(title: str, caption: str, headers: dict[str, str], rows: Sequence[tuple[Any, ...]]) -> html.Section:
    """Return a card with a table of what happened: columns and their headers, and rows of their values."""
    return card(title, table(pd.DataFrame(rows, columns=list(headers)), headers, caption=caption))


def live_card(asked: Asked, version: ModelVersion) -> html.Section:
    """Return the live version of an objective: its measures beside the best baseline."""
    training = version.training
    rows = []
    for key, value in training.metrics.items():
        measure = measure_of(key)
        best = measure.best(values[key] for values in training.baselines.values() if key in values)
        rows.append((measure.name, value, best))
    frame = pd.DataFrame(rows, columns=["measure", "value", "best"])
    return card(
        f"{version.objective.capitalize()}: version {version.number} is live",
        table(
            frame, {"measure": "Measure", "value": "Version", "best": "Best baseline"}, {"value": ".4f", "best": ".4f"}
        ),
        dcc.Link("Map", href=asked.base + f"map?version={version.number}"),
        " · ",
        dcc.Link("Health", href=asked.base + f"health?version={version.number}"),
        how=f"Trained {when(version.created_at)} UTC on {training.n_ratings:,} ratings of {version.n_users:,} users "
        f"and {version.n_items:,} items.",
    )


def quality_charts(known: list[ModelVersion]) -> list[Component]:
    """Return the main measure of the versions of each objective over time."""
    found: list[Component] = []
    for objective in ("ranking", "rating"):
        chosen = [version for version in reversed(known) if version.objective == objective and version.training.metrics]
        if len(chosen) < 2:
            continue
        key = next(iter(chosen[-1].training.metrics))
        measure = measure_of(key)
        columns = {"this version": [version.training.metrics.get(key) for version in chosen]}
        for name in chosen[-1].training.baselines:
            columns[name] = [version.training.baselines.get(name, {}).get(key) for version in chosen]
        frame = pd.DataFrame(columns, index=[when(version.created_at) for version in chosen], dtype=float)
        figure = charts.lines(frame, "Trained (UTC)", measure.name)
        found.append(
            card(f"{objective.capitalize()}: quality over nights", graph(figure, measure.name), how=measure.hint)
        )
    return [html.Div(found, className="pair")] if found else []


def versions_card(asked: Asked) -> html.Section:
    """Return all versions with the gate's decisions, and the forms of those who may publish."""
    rows = []
    for version in asked.known:
        training = version.training
        key, value = next(iter(training.metrics.items()), ("", float("nan")))
        rows.append(
            {
                "number": dcc.Link(str(version.number), href=asked.base + f"training?version={version.number}"),
                "objective": version.objective,
                "state": "live" if version.live else "",
                "trained": when(version.created_at),
                "measure": f"{measure_of(key).name} {format_value(value)}" if key else "–",
                "gate": ("passed: " if training.gate_passed else "refused: ") + training.gate_reason,
            }
        )
    headers = {"number": "Version", "objective": "Objective", "state": "State", "trained": "Trained (UTC)"}
    headers |= {"measure": "Main measure", "gate": "Gate"}
    parts: list[Any] = [table(pd.DataFrame(rows), headers, caption="Versions")]
    if asked.session.may_change:
        numbers = [(str(v.number), f"{v.number} · {v.objective}") for v in asked.known if not v.live]
        forms = []
        if numbers:
            forms.append(change_form(asked, "publish", "Publish", "Version", "number", numbers, [force_control()]))
        live = [(v.objective, f"{v.objective}: back from version {v.number}") for v in asked.known if v.live]
        if live:
            forms.append(change_form(asked, "rollback", "Roll back", "Objective", "objective", live))
        parts.append(html.Div(forms, className="pair"))
    return card("Versions", *parts, how="The gate compares each new version with its baseline and with the live one.")


def change_form(
    asked: Asked,
    action: str,
    verb: str,
    label: str,
    name: str,
    options: Sequence[tuple[str, str]],
    extra: Sequence[Component] = (),
) -> html.Form:
    """Return a form that publishes or rolls back, with a reason and the token against forged requests."""
    entries = [html.Option(text, value=value) for value, text in options]
    return html.Form(
        [
            html.H3(verb),
            html.Label([html.Span(label), html.Select(entries, name=name)], className="control"),
            html.Label(
                [html.Span("Reason"), html.Textarea(name="reason", required="required", maxLength=MAX_REASON, rows=2)],
                className="control wide",
            ),
            *extra,
            dcc.Input(type="hidden", name="csrf", value=asked.session.csrf, id=f"csrf-{action}"),
            html.Button(verb, type="submit"),
        ],
        action=asked.base + action,
        method="post",
        className="change",
    )


def force_control() -> html.Label:
    """Return the choice to publish what the gate refused."""
    options = [html.Option("if the gate allowed it", value=""), html.Option("even if the gate refused it", value="yes")]
    return html.Label([html.Span("Publish"), html.Select(options, name="force")], className="control")


def user_page(asked: Asked) -> list[Component]:
    """Return a user's ratings, their list under a version, and the exact parts of one score."""
    user_id = asked.params.get("user", "")
    row = controls(
        version_select(asked),
        html.Label(
            [
                html.Span("User"),
                dcc.Input(id="user", type="search", value=user_id, debounce=True, placeholder="the user's id"),
            ],
            className="control",
        ),
    )
    if not user_id:
        return [row, users_card(asked)]
    model = asked.views.live_model(asked.view.number)
    snapshot = asked.state.live.current
    catalogue = snapshot.catalogue
    with reading(asked.state.engine) as connection:
        user = read_states(connection, [user_id], catalogue, model)[user_id]
        rated = read_rated_items_by_id(connection, [user_id], catalogue)[user_id]
    (ranked,) = recommend(snapshot, model, [user], ListQuery(n=10))
    explained = explain_list(snapshot, model, user, rated, ranked)
    source = {
        "model": "The list comes from the user's own vector.",
        "fold_in": "The user's vector was solved from their ratings now: they are new, or rated since the training.",
        "popularity": explained.fallback or "These are the most rated items.",
    }[explained.source]
    items = [
        {"rank": rank, "item_id": item.item_id, "title": item.title or item.item_id, "score": item.score}
        for rank, item in enumerate(explained.items, start=1)
    ]
    parts: list[Component] = [row]
    listed = pd.DataFrame(items, columns=["rank", "item_id", "title", "score"])
    headers = {"rank": "Rank", "title": "Item", "score": "Score"}
    first = [
        card(f"List of user {user_id}", table(listed, headers, {"score": ".3f"}, asked, "The user's list"), how=source)
    ]
    why = [item for item in explained.items if parts_of(item.explanation)]
    if why:
        chosen = min(max(asked.number("rank") or 1, 1), len(why))
        options = [(str(at + 1), f"{at + 1}. {(item.title or item.item_id)[:40]}") for at, item in enumerate(why)]
        item = why[chosen - 1]
        figure = charts.explanation_bars(parts_of(item.explanation), item.score)
        first.append(
            card(
                f"Why {item.title or item.item_id}",
                controls(select("rank", "Item", options, str(chosen))),
                graph(figure, "The parts of the score"),
                how="The exact parts of its score; they add up.",
            )
        )
    parts.append(html.Div(first, className="pair wide"))
    frame = pd.DataFrame(
        {
            "item_id": [catalogue.items[idx].item_id for idx in rated.item_idx.tolist()],
            "title": [catalogue.items[idx].title or catalogue.items[idx].item_id for idx in rated.item_idx.tolist()],
            "rating": rated.ratings.astype(float),
            "mean": catalogue.mean_rating[rated.item_idx],
        }
    ).sort_values("rating", ascending=False, kind="stable")
    headers = {"title": "Item", "rating": "Rating", "mean": "Mean of all"}
    formats = {"rating": ".1f", "mean": ".2f"}
    how = f"{len(frame):,} ratings, the highest first." if len(frame) <= 100 else f"The highest 100 of {len(frame):,}."
    parts.append(card("Ratings", table(frame.head(100), headers, formats, asked, "The user's ratings"), how=how))
    return parts


def users_card(asked: Asked) -> html.Section:
    """Return a map of some users; a click on a user opens the page of that user."""
    view = asked.views.with_users(asked.view.number)
    if not view.factors.n_users or not len(view.items):
        return card("User", notice("Type the id of a user, then press Enter."))
    with reading(asked.state.engine) as connection:
        names = read_user_ids(connection, view.factors.user_keys.tolist())
    users = view.table.users()
    figure = user_map(view, users[users.index.isin(list(names))], names)  # not those who were erased meanwhile
    return card(
        "Users on the map",
        graph(figure, "Users over the map of the items", id={"graph": "users"}),
        how=f"{len(users):,} of the version's users, evenly chosen. Each stands amid the items of their list; grey "
        "points are items. Click a user, or type an id.",
    )
