"""One self-contained HTML file about the live model versions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys import __version__
from recsys.analysis import page
from recsys.analysis.components import Components, both_ends, principal_components
from recsys.analysis.figures import MOST_POINTS, bias_against_ratings, item_map, training_curves
from recsys.analysis.labels import ItemLabels
from recsys.errors import NoModelError
from recsys.factors import Factors
from recsys.results import Objective

N_COMPONENTS = 4
N_AT_END = 8
N_LOVED = 10
MIN_RATINGS = 10
"""Items with fewer ratings are left out of lists of extremes: what is learned of them is mostly chance."""

_MEASURES = {
    # key before any "@": name, and whether more is better (None: neither)
    "rmse": ("RMSE", False),
    "mae": ("MAE", False),
    "ndcg": ("NDCG", True),
    "recall": ("Recall", True),
    "hit_rate": ("Hit rate", True),
    "coverage": ("Coverage", None),
    "novelty": ("Novelty", None),
}
_BASELINES = {"popular": "Most popular", "bias": "Bias only"}
_PURPOSE: dict[Objective, str] = {
    "rating": "Trained to predict ratings: predictions and what is liked beyond its kind come from it.",
    "ranking": "Trained to order the catalogue: recommendation lists and similar items come from it.",
}


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What the report tells of one model version.

    Attributes:
        number: of the version.
        objective: what was optimised.
        created_at: Unix milliseconds in UTC, or a text that is shown as it is.
        configuration: what it was trained with.
        metrics: measure → value on the held-out ratings.
        baselines: baseline → measure → value on the same ratings.
        history: one mapping for each epoch: `epoch`, `train_loss`, `valid`, …
        factors: what was learned.
        items: names in the order of `factors.item_keys`.
    """

    number: int
    objective: Objective
    created_at: int | str
    configuration: Mapping[str, object]
    metrics: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    history: Sequence[Mapping[str, object]]
    factors: Factors
    items: ItemLabels

    def __post_init__(self) -> None:
        if len(self.items) != self.factors.n_items:
            raise ValueError(f"labels for {len(self.items)} items, factors for {self.factors.n_items}")

    @property
    def name(self) -> str:
        return f"{self.objective.capitalize()} model, version {self.number}"


def write_report(out_dir: Path, models: Sequence[ModelReport]) -> Path:
    """Write `report.html` into a folder, which is made if need be, whole or not at all; returns its path.

    Raises:
        NoModelError: there is no model to report on.
        InputError: the folder cannot be written to.
    """
    path = out_dir / "report.html"
    page.write(path, render(models))
    return path


def render(models: Sequence[ModelReport]) -> str:
    """The document as text. The same models give the same text.

    Raises:
        NoModelError: there is no model to report on.
    """
    if not models:
        raise NoModelError("no model version is live, so there is nothing to report; run `recsys train`")
    title = "What the models learned"
    links = "".join(
        f"<a href='#v{model.number}'><b>{page.text(model.name)}</b> {page.text(_summary(model))}</a>"
        for model in models
    )
    sections = "\n".join(_model(model) for model in models)
    return page.page(
        title,
        f"<header><h1>{title}</h1><p class='soft'>The live model versions: how good they are, which items they "
        f"hold to be alike, and what their factors seem to mean.</p><nav>{links}</nav></header>\n{sections}\n"
        f"<footer>Made by <code>recsys report</code> {page.text(__version__)}. "
        f"This file holds everything it shows and fetches nothing.</footer>",
    )


def _model(model: ModelReport) -> str:
    factors = model.factors
    components = principal_components(factors.embeddings, N_COMPONENTS)
    parts = [
        f"<h2>{page.text(model.name)}</h2>",
        f"<p class='soft'>{_PURPOSE[model.objective]} Trained {page.text(_when(model.created_at))} · "
        f"{factors.n_users:,} users · {factors.n_items:,} items · {factors.n_factors:,} factors.</p>",
        f"<div class='pair'>{_quality(model)}{_configuration(model.configuration)}</div>",
        _map(model, components),
        _ends(model, components),
        _bias(model) if model.objective == "rating" else "",
        _curves(model),
    ]
    return f"<section class='model' id='v{model.number}'>{''.join(parts)}</section>"


def _card(title: str, how_to_read: str, content: str) -> str:
    head = f"<h3>{page.text(title)}</h3><p class='how'>{page.text(how_to_read)}</p>"
    return f"<div class='card'>{head}{content}</div>"


def _quality(model: ModelReport) -> str:
    title = "Quality beside the baselines"
    how = "Measured on ratings that training did not see; bold is the best of each row."
    columns = {"This version": model.metrics}
    columns |= {_BASELINES.get(name, _words(name)): values for name, values in model.baselines.items()}
    keys = list(dict.fromkeys(key for values in columns.values() for key in values))
    if not keys:
        return _card(title, how, page.notice("Nothing was measured for this version."))
    head = "".join(
        f"<th scope='col'{' class=own' if values is model.metrics else ''}>{page.text(name)}</th>"
        for name, values in columns.items()
    )
    rows = "".join(_measure_row(key, [values.get(key) for values in columns.values()]) for key in keys)
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return _card(title, how, f"<div class='scroll'>{table}</div>")


def _measure_row(key: str, values: Sequence[float | None]) -> str:
    """One measure: this version's value, then the baselines'."""
    hint = {True: "higher is better", False: "lower is better", None: ""}[_more_is_better(key)]
    best = _best(key, values)
    cells = [
        f"<td class='{'own' if i == 0 else ''} {'best' if value is not None and value == best else ''}'>"
        f"{_value(value)}</td>"
        for i, value in enumerate(values)
    ]
    return f"<tr><td>{page.text(_measure_name(key))} <small>{hint}</small></td>{''.join(cells)}</tr>"


def _configuration(configuration: Mapping[str, object]) -> str:
    entries = "".join(
        f"<div><dt>{page.text(key)}</dt><dd>{page.text(_setting(value))}</dd></div>"
        for key, value in configuration.items()
    )
    content = f"<dl>{entries}</dl>" if entries else page.notice("No configuration was recorded.")
    return _card("Configuration", "What it was trained with, under the names that the command line knows.", content)


def _map(model: ModelReport, components: Components) -> str:
    how = (
        "Items that lie close together appeal to the same users; colour is the main category, size the number "
        "of ratings, and hovering over a dot names it."
    )
    if model.factors.n_items > MOST_POINTS:
        how += f" Drawn are the {MOST_POINTS:,} most rated of {model.factors.n_items:,} items."
    if components.n_components < 2:
        content = page.notice(
            f"A map needs item factors that differ in two directions; these {model.factors.n_items:,} items "
            f"with {model.factors.n_factors:,} factors differ in {components.n_components}."
        )
    else:
        figure = page.figure_html(item_map(components, model.items), f"v{model.number}-map")
        content = f"<div class='scroll'><div class='wide'>{figure}</div></div>"
    return _card("Map of the items", how, content)


def _ends(model: ModelReport, components: Components) -> str:
    title = "What the components tell apart"
    known = _known(model.items)
    how = (
        "The two lists of a component are the opposite poles of one taste, and its share says how much of all that "
        "sets items apart runs along it"
    )
    how += f"; listed are items with at least {MIN_RATINGS} ratings." if known is not None else "."
    notes = [_popularity(components.positions[:, k], model.items) for k in range(components.n_components)]
    if any(notes):
        how += " r is the correlation with the logarithm of the number of ratings."
    cards = []
    for k in range(components.n_components):
        positions = components.positions[:, k]
        low, high = both_ends(positions, N_AT_END, known)
        longest = float(np.abs(positions[[*low, *high]]).max())
        lists = _end("low", "Low end", low, positions, longest, model.items, "")
        lists += _end("high", "High end", high, positions, longest, model.items, "")
        share = f"{components.explained[k]:.1%} of the variance{notes[k]}"
        cards.append(
            f"<div><h4>Component {k + 1} · <span class='soft'>{share}</span></h4><div class='ends'>{lists}</div></div>"
        )
    content = f"<div class='pair'>{''.join(cards)}</div>"
    if not cards:
        content = page.notice("There is no component: the item factors do not differ.")
    return _card(title, how, content)


def _bias(model: ModelReport) -> str:
    title = "Liked beyond its kind"
    how = (
        "Item bias is what is left of an item's ratings when the tastes and habits of its raters are taken out: "
        "items high up please even people who do not care for their kind, items far down disappoint those who do."
    )
    items, factors = model.items, model.factors
    known = _known(items)
    among = items.n_ratings > 0 if known is None else known
    if not among.any():
        return _card(title, how, page.notice("No item has a rating."))
    bias, unit = factors.item_bias, "Item bias"
    if factors.rating_range is not None:
        at_zero = np.full(1, factors.global_bias, np.float32)
        bias = factors.to_rating(at_zero + factors.item_bias) - factors.to_rating(at_zero)
        unit = "Item bias (rating points above or below an item without bias)"
    least, most = both_ends(bias, N_LOVED, among)
    figure = page.figure_html(bias_against_ratings(bias, items, most, least, unit), f"v{model.number}-bias")
    longest = float(np.abs(bias[[*least, *most]]).max())
    lists = _end("high", "Most loved", most, bias, longest, items, "+.2f")
    lists += _end("low", "Least loved", least, bias, longest, items, "+.2f")
    if known is not None:
        how += f" Named or numbered as in the lists are the extremes among items with at least {MIN_RATINGS} ratings."
    return _card(
        title,
        how,
        f"<div class='scroll'><div class='wide'>{figure}</div></div><div class='ends'>{lists}</div>",
    )


def _curves(model: ModelReport) -> str:
    curves = training_curves(model.history)
    how = "The training loss should fall and flatten; where it still falls at the end, more epochs may help."
    if len(curves) > 1:
        how += " A held-out measure that gets worse again while the loss falls is a sign of overfitting."
    panels = "".join(
        f"<div><h4>{page.text(curve.title)}</h4>{page.figure_html(curve.figure, f'v{model.number}-curve{i}')}</div>"
        for i, curve in enumerate(curves, start=1)
    )
    content = f"<div class='curves'>{panels}</div>" if curves else page.notice("No training history was recorded.")
    return _card("Training", how, content)


def _end(
    kind: str,
    title: str,
    ranked: NDArray[np.int64],
    values: NDArray[np.floating],
    longest: float,
    items: ItemLabels,
    number_format: str,
) -> str:
    """One list of items with bars; `kind` is the class that gives the colour."""
    rows = []
    for rank, item in enumerate(ranked.tolist(), start=1):
        value = float(values[item])
        number = f"{value:{number_format}}".replace("-", "−") if number_format else ""
        categories = f"{page.text(', '.join(items.categories[item]))} · " if items.categories[item] else ""
        width = 100 * abs(value) / longest if longest else 0
        rows.append(
            f"<li><span class='value'>{number}</span>{rank}. <bdi>{page.text(items.name(item))}</bdi>"
            f"<small>{categories}<span>{items.rated(item)}</span></small>"
            f"<span class='bar'><i style='width:{width:.1f}%'></i></span></li>"
        )
    frequent = Counter(category for item in ranked.tolist() for category in items.categories[item]).most_common(3)
    mostly = " · ".join(f"{n} {category}" for category, n in frequent if n > 1)
    return (
        f"<div class='end {kind}'><h4>{title}</h4><div class='mostly'>{page.text(mostly)}</div>"
        f"<ol>{''.join(rows)}</ol></div>"
    )


def _popularity(positions: NDArray[np.float64], items: ItemLabels) -> str:
    """A warning beside a component that mostly tells well-known items from others, which is no taste."""
    log_ratings = np.log1p(items.n_ratings)
    if log_ratings.std() == 0:
        return ""
    correlation = float(np.corrcoef(positions, log_ratings)[0, 1])
    return f" · mostly popularity (r = {correlation:.2f})" if abs(correlation) >= 0.6 else ""


def _known(items: ItemLabels) -> NDArray[np.bool_] | None:
    """Which items have ratings enough to be named as extremes; None where hardly any has."""
    known = items.n_ratings >= MIN_RATINGS
    return known if known.sum() >= 2 else None


def _summary(model: ModelReport) -> str:
    """The first measure beside the baselines' best."""
    if not model.metrics:
        return _when(model.created_at)
    key, value = next(iter(model.metrics.items()))
    others = [values[key] for values in model.baselines.values() if key in values]
    beside = _best(key, others)
    name = _measure_name(key)
    return f"{name} {_value(value)}" + (f", best baseline {_value(beside)}" if beside is not None else "")


def _measure_name(key: str) -> str:
    stem, at, k = key.partition("@")
    return _MEASURES.get(stem, (_words(stem), None))[0] + at + k


def _more_is_better(key: str) -> bool | None:
    return _MEASURES.get(key.partition("@")[0], ("", None))[1]


def _best(key: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    better = _more_is_better(key)
    return None if better is None or not known else max(known) if better else min(known)


def _value(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.4g}"


def _setting(value: object) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _when(created_at: int | str) -> str:
    if isinstance(created_at, str):
        return created_at
    return f"{datetime.fromtimestamp(created_at / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _words(key: str) -> str:
    return key.replace("_", " ").capitalize()
