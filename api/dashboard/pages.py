"""The pages of the dashboard about one version or two. Each takes a request and returns the page's content."""

import numpy as np
import pandas as pd
from dash import dcc, html
from dash.development.base_component import Component

from api.dashboard.map_page import why_here
from api.dashboard.parts import (
    Asked,
    card,
    controls,
    ends_table,
    graph,
    item_link,
    notice,
    search_field,
    select,
    table,
    user_links,
    version_select,
)
from recsys.analysis import charts
from recsys.analysis.measures import format_value, measure_of
from recsys.analysis.view import MOST_JUDGED, ModelView

MINIMA = [("10", "10 ratings"), ("0", "any number"), ("1", "1 rating"), ("25", "25"), ("50", "50"), ("100", "100")]


def factors_page(asked: Asked) -> list[Component]:
    """Return the principal components with their ends, categories as directions, correlations and rank."""
    view = asked.view
    n = view.components.n_components
    if not n:
        return [controls(version_select(asked)), card("Factors", notice("The vectors of the items do not differ."))]
    chosen = min(max(asked.number("component") or 1, 1), n)
    minimum = asked.number("min_ratings")
    minimum = 10 if minimum is None else minimum
    ends = view.table.ends(chosen, 12, minimum)
    components = view.table.components().reset_index()
    rank = view.table.rank()
    parts = [
        controls(
            version_select(asked),
            select("component", "Component", [(str(k + 1), f"Component {k + 1}") for k in range(n)], str(chosen)),
            select("min_ratings", "At least", MINIMA, str(minimum)),
        ),
        card(
            f"Component {chosen}",
            ends_table(asked, ends, "position", "Position"),
            how="The items at both ends of one direction of taste. "
            + (components.categories[chosen - 1] and f"Categories along it: {components.categories[chosen - 1]}."),
        ),
        card(
            "Components",
            table(
                components,
                {
                    "component": "Component",
                    "explained": "Variance",
                    "popularity": "r with popularity",
                    "categories": "Categories",
                },
                {"explained": ".1%", "popularity": "+.2f"},
            ),
            how=f"{rank['n_factors']:.0f} factors, an effective rank of {rank['effective']:.1f}; "
            f"{rank['for_90_percent']:.0f} components hold 90 % of the variance.",
        ),
    ]
    if view.table.categories().auc.notna().any():
        parts.append(
            card(
                "Categories as directions",
                graph(view.plot.categories(), "AUC of the direction of each category"),
                how="How well the direction of a category places its items above others; .5 is chance.",
            )
        )
    if view.factors.n_dot <= 256:
        correlations = graph(view.plot.correlations(), "Correlations of the factors")
        parts.append(card("Correlations of the factors", correlations, how="Over the items. Far from 0: redundant."))
    if view.items.n_ratings.any():
        parts.append(card("Lengths of the vectors", graph(view.plot.norms(), "Length of each vector against ratings")))
    return parts


def popularity_page(asked: Asked) -> list[Component]:
    """Return biases against numbers of ratings, and the lists of both ends."""
    view = asked.view
    minimum = asked.number("min_ratings")
    minimum = 10 if minimum is None else minimum
    row = controls(version_select(asked), select("min_ratings", "At least", MINIMA, str(minimum)))
    if not (view.items.n_ratings >= max(1, minimum)).any():
        return [row, card("Popularity", notice("No item has so many ratings: choose fewer."))]
    unit = "in rating points" if view.factors.rating_range is not None else "in units of the score"
    judged = "" if len(view.judged) == len(view.items) else f" Of the {MOST_JUDGED:,} most rated items."
    return [
        row,
        card(
            "Bias against popularity",
            graph(
                view.plot.bias_points(minimum), "Bias of each item against its number of ratings", id={"graph": "bias"}
            ),
            how=f"The bias is what an item gets beyond what tastes explain, {unit}. Click an item to open it.",
        ),
        card("Highest and lowest bias", ends_table(asked, view.table.bias(15, minimum), "bias", "Bias")),
        card(
            "Loved beyond their kind, and the reverse",
            ends_table(asked, view.table.beyond_kind(15, minimum), "beyond_kind", "Beyond"),
            how=f"The bias minus the mean bias of the ten nearest items.{judged}",
        ),
    ]


def item_page(asked: Asked) -> list[Component]:
    """Return the page of one item: its metadata, its neighbours, and its places on the components."""
    view, item_id = asked.view, asked.params.get("item", "")
    search = controls(
        version_select(asked),
        search_field(),
    )
    if not item_id:
        most = view.table.items().nlargest(15, "n_ratings")
        headers = {"title": "Most rated items", "categories": "Categories", "n_ratings": "Ratings"}
        return [search, card("Item", table(most, headers, asked=asked, caption="Most rated items"))]
    idx = view.require(item_id)
    items, components = view.items, view.components
    near = view.table.neighbours(item_id, 15)
    nearest = [items.idx_of[one] for one in near.item_id[:10].tolist()]
    beyond = float(view.bias[idx] - view.bias[nearest].mean()) if nearest else 0.0
    facts = [
        ("Id", item_id),
        ("Categories", ", ".join(items.categories[idx]) or "–"),
        ("Ratings", f"{items.n_ratings[idx]:,}"),
        ("Mean rating", format_value(float(items.mean_rating[idx])) if len(items.mean_rating) else "–"),
        (view.bias_title, f"{view.bias[idx]:+.3f}".replace("-", "−")),
        ("Bias beyond its kind", f"{beyond:+.3f}".replace("-", "−")),
        ("Length of its vector", f"{view.norms[idx]:.3f}"),
    ]
    n = components.n_components
    spread = components.positions.std(axis=0)
    along = (components.positions[idx] / np.where(spread > 0, spread, 1)).tolist()
    headers = {"title": "Item", "categories": "Categories", "n_ratings": "Ratings", "cosine": "Cosine"}
    return [
        search,
        card(
            items.names[idx],
            html.Dl([html.Div([html.Dt(name), html.Dd(value)]) for name, value in facts]),
            dcc.Link("Show on the map", href=asked.link("map", item=item_id)),
            how=why_here(view, idx, nearest),
        ),
        card("Nearest items", table(near, headers, {"cosine": ".3f"}, asked, "Nearest items by cosine")),
        card(
            "Along the components",
            graph(charts.bars([f"Component {k + 1}" for k in range(n)], along, "Standard deviations"), "Positions"),
        ),
    ]


def compare_page(asked: Asked) -> list[Component]:
    """Return what changed between two versions."""
    view = asked.view
    others = [v for v in asked.known if v.objective == view.objective and v.number != view.number]
    if not others:
        return [
            controls(version_select(asked)),
            card("Compare", notice(f"There is no other {view.objective} version to compare with.")),
        ]
    number = asked.number("before") or next((v.number for v in others if v.number < view.number), others[0].number)
    before = asked.views.choose(number, asked.known)
    options = [(str(v.number), f"{v.number} · {v.objective}{', live' if v.live else ''}") for v in others]
    options.sort(key=lambda option: option[0] != str(number))
    row = controls(version_select(asked), select("before", "Compared with", options, str(number)))
    frame = view.table.compare(before)
    if frame.empty:
        return [row, card("Compare", notice("The versions share no items."))]
    measures = pd.DataFrame({"before": before.metrics, "after": view.metrics}).rename_axis("measure").reset_index()
    measures["measure"] = [measure_of(key).name for key in measures.measure]
    drift = frame.movement.mean()
    parted = np.isnan(drift)
    how = "" if parted else f"After the best rotation a vector moved by {drift:.2f} of the mean length. "
    how += f"On average {frame.overlap.mean():.0%} of the ten nearest items stayed."
    movers = frame[frame.n_ratings >= 10].head(20)
    headers = {"title": "Item", "n_ratings": "Ratings", "overlap": "Neighbours kept", "movement": "Movement"}
    headers |= {"bias_before": "Bias before", "bias_after": "Bias after"}
    formats = {"overlap": ".0%", "movement": ".2f", "bias_before": "+.2f", "bias_after": "+.2f"}
    return [
        row,
        card(
            f"Version {view.number} beside version {before.number}",
            graph(view.plot.compare(before), "How many neighbours of each item stayed"),
            how=how,
        ),
        card(
            "Measures",
            table(
                measures,
                {"measure": "Measure", "before": f"Version {before.number}", "after": f"Version {view.number}"},
                {"before": ".4f", "after": ".4f"},
            ),
        ),
        *lists_cards(asked, view, before),
        card("Biggest movers", table(movers, headers, formats, asked), how="Items with at least ten ratings."),
    ]


def lists_cards(asked: Asked, view: ModelView, before: ModelView) -> list[Component]:
    """Return how far the lists of some users differ between two versions."""
    after = asked.views.with_users(view.number)
    earlier = asked.views.with_same_users(before.number, after)
    if not (after.factors.n_users and earlier.factors.n_users):
        return []
    lists = after.table.compare_lists(earlier)
    if lists.empty:
        return []
    facts = [
        ("Items of a list that stayed, mean", f"{lists.overlap.mean():.0%}"),
        ("Rank-biased overlap, mean", f"{lists.rbo.mean():.2f}"),
        ("Users whose items are the same", f"{(lists.overlap == 1).mean():.0%}"),
    ]
    changed = lists.sort_values(["rbo", "overlap"], kind="stable").head(10).reset_index()
    changed = user_links(asked, changed)
    headers = {"user": "User", "overlap": "Items that stayed", "rbo": "Rank-biased overlap"}
    title = "Lists that changed most"
    return [
        card(
            f"Lists of {len(lists):,} users",
            html.Dl([html.Div([html.Dt(name), html.Dd(value)]) for name, value in facts]),
            table(changed, headers, {"overlap": ".0%", "rbo": ".2f"}, caption=title),
            how="Ten items each. Rank-biased overlap: 1 where both lists are the same; the first places count most. "
            "Below are the lists that changed most.",
        )
    ]


def health_page(asked: Asked) -> list[Component]:
    """Return what looks wrong, and the clusters."""
    view = asked.view
    judged = f"Of the {MOST_JUDGED:,} most rated items. " if len(view.judged) < len(view.items) else ""
    findings = [
        html.Li(
            [
                html.Span(finding.severity, className=f"badge {finding.severity}"),
                html.B(f" {finding.title}. "),
                finding.detail,
                html.Ul(
                    [
                        html.Li(item_link(asked, view.items.item_ids[idx], view.items.names[idx]))
                        for idx in finding.item_idx[:8]
                    ],
                    className="inline",
                ),
            ]
        )
        for finding in view.findings
    ]
    clusters = view.table.clusters().reset_index()
    headers = {
        "cluster": "Number",
        "name": "Set apart by",
        "size": "Items",
        "properties": "Share there",
        "examples": "Such as",
    }
    return [
        controls(version_select(asked)),
        card(
            "Health",
            html.Ul(findings, className="findings") if findings else notice("Nothing looks wrong."),
            how=judged + "Collapsed dimensions, duplicates, hubs, misplaced categories, lengths, neighbours by chance.",
        ),
        card("Clusters", table(clusters, headers), how="By direction of the vectors, the largest first."),
    ]
