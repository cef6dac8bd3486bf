"""The page about a training: curves, measures, residuals, lists, and what was found for the next one."""

from typing import Any

import numpy as np
from dash import html
from dash.development.base_component import Component

from api.dashboard.overview import when
from api.dashboard.parts import Asked, card, controls, graph, notice, table, user_links, version_select
from recsys.analysis.findings import learning_rate_figure, sweep_figure
from recsys.analysis.measures import format_setting, measure_of
from recsys.analysis.quality import ResidualGroup
from recsys.analysis.view import ModelView
from recsys.database.engine import reading
from recsys.database.runs import read_runs
from recsys.results import Objective, split_configuration

RESIDUALS: dict[ResidualGroup, str] = {
    "rating": "Residuals by rating",
    "activity": "Residuals by the user's number of ratings",
    "popularity": "Residuals by the item's number of ratings",
}


def training_page(asked: Asked) -> list[Component]:
    """Return curves, measures, residuals and settings of a training."""
    view = asked.view
    curves = [card(curve.title, graph(curve.figure, curve.title)) for curve in view.plot.training()]
    measures = view.table.measures().reset_index()
    measures["measure"] = [measure_of(key).name for key in measures.measure]
    headers = {str(name): str(name) for name in measures.columns} | {"measure": "Measure"}
    settings = [
        html.Div([html.Dt(name), html.Dd(format_setting(value))])
        for part in split_configuration(view.configuration)
        for name, value in part.items()
    ]
    return [
        controls(version_select(asked)),
        card(
            view.name,
            table(measures, headers, dict.fromkeys(headers, ".4f")) if len(measures) else notice("No measures."),
            how="On ratings that the training did not see, beside the baselines.",
        ),
        html.Div(curves or [card("Curves", notice("No training history was recorded."))], className="pair"),
        *users_cards(asked, view),
        *found_cards(asked, view.objective),
        card("Settings", html.Dl(settings) if settings else notice("No settings were recorded.")),
    ]


def users_cards(asked: Asked, view: ModelView) -> list[Component]:
    """Return what the lists of some users have in common, and how far their predictions are from their ratings."""
    view = asked.views.with_users(view.number)
    n_users = view.factors.n_users
    if not n_users or view.ratings is None or not view.ratings.n_ratings:
        return []
    lists = view.table.lists()
    facts = [
        ("Share of the catalogue in a list", f"{lists['coverage']:.1%}"),
        ("Gini coefficient of the places", f"{lists['gini']:.2f}"),
        ("Places of the most rated tenth", f"{lists['popular_share']:.0%}"),
        ("Ratings of a listed item, mean", f"{lists['mean_ratings']:,.0f}"),
    ]
    parts: list[Component] = [
        card(
            f"Lists of {n_users:,} users",
            html.Dl([html.Div([html.Dt(name), html.Dd(value)]) for name, value in facts]),
            how="Ten items each. Gini: 0 where all items are listed equally often, 1 where one takes all places.",
        )
    ]
    if view.objective == "ranking":
        return parts
    how = f"On the ratings of {n_users:,} users, which the training saw: new ratings are further off."
    calibrated = graph(view.plot.calibration(), "Mean rating against mean prediction")
    charts = [card("Calibration", calibrated, how=how)]
    charts += [card(title, graph(view.plot.residuals(by), title)) for by, title in RESIDUALS.items()]
    parts.append(html.Div(charts, className="pair wide"))
    worst = user_links(asked, view.table.user_residuals().head(15).reset_index())
    names = {"user": "User", "n": "Ratings", "mean_rating": "Mean rating", "bias": "Prediction minus rating"}
    formats = {"mean_rating": ".2f", "bias": "+.2f", "rmse": ".2f"}
    title = "Users whose ratings are predicted worst"
    rows = table(worst, {**names, "rmse": "RMSE"}, formats, caption=title)
    parts.append(card(title, rows, how="With at least ten ratings each."))
    return parts


def found_cards(asked: Asked, objective: Objective) -> list[Component]:
    """Return the last learning-rate test and the last sweep of an objective."""
    with reading(asked.state.engine) as connection:
        runs = {job: read_runs(connection, 20, job) for job in ("lr-find", "sweep")}
    found: list[Component] = []
    for job, of_job in runs.items():
        run = next((one for one in of_job if one.detail.get("objective") == objective), None)
        if run is None:
            continue
        detail: dict[str, Any] = dict(run.detail)
        if job == "lr-find":
            marks = {name: detail[name] for name in ("valley", "slide", "default")}
            rates, smoothed = np.array(detail["learning_rates"]), np.array(detail["smoothed"])
            title, figure = "Learning-rate test", learning_rate_figure(rates, None, smoothed, marks)
        else:
            values, metric = [row["value"] for row in detail["rows"]], [row["metric"] for row in detail["rows"]]
            name, default = measure_of(detail["metric"]).name, detail["default"]["metric"]
            title, figure = f"Sweep of {detail['field']}", sweep_figure(detail["field"], values, metric, name, default)
        found.append(card(title, graph(figure, title), how=f"recsys {job}, {when(run.finished_at)} UTC, {run.reason}."))
    if not found:
        advice = (
            "recsys lr-find and recsys sweep look for a better learning rate or weight decay; their plots come here."
        )
        return [card("Better settings", notice(advice))]
    return [html.Div(found, className="pair")]
