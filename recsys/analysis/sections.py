"""The content of a report: for each model version the values and figures that the templates print."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from recsys.analysis import charts
from recsys.analysis.clusters import Cluster
from recsys.analysis.colouring import cluster_colour
from recsys.analysis.components import Components, both_ends
from recsys.analysis.figures import MOST_POINTS, Curve, bias_against_ratings, item_map, training_curves
from recsys.analysis.labels import ItemLabels
from recsys.analysis.measures import Measure, format_value, measure_of
from recsys.analysis.tables import MIN_RATINGS, THIS_VERSION, measure_table
from recsys.analysis.view import ModelView
from recsys.results import split_configuration

N_COMPONENTS = 4
N_AT_END = 8
N_BIASED = 10
POPULARITY_CORRELATION = 0.6
"""A component that correlates this much with the logarithm of the number of ratings is marked as popularity."""


@dataclass(frozen=True, slots=True)
class MeasureRow:
    """A measure of this version and of the baselines.

    Attributes:
        measure: name and direction.
        values: (n_columns,) this version's value first; NaN where a value is missing.
    """

    measure: Measure
    values: list[float]

    @property
    def best(self) -> float | None:
        """The best value, or None."""
        return self.measure.best(self.values)


@dataclass(frozen=True, slots=True)
class RankedItem:
    """A line of a list: a name with its bar.

    Attributes:
        name: the item's title or id.
        categories: joined by commas; empty without any.
        rating_count: in words.
        value: the number to print; empty prints none.
        percent: length of the bar.
    """

    name: str
    categories: str
    rating_count: str
    value: str
    percent: float


@dataclass(frozen=True, slots=True)
class ItemList:
    """The items at one end of an axis, the most extreme first, and their most frequent categories in words."""

    kind: str
    title: str
    entries: list[RankedItem]
    categories: str

    @classmethod
    def of(
        cls,
        kind: str,
        title: str,
        item_idx: NDArray[np.int64],
        values: NDArray[np.floating],
        longest: float,
        items: ItemLabels,
        number_format: str = "",
    ) -> "ItemList":
        """Make a list of items.

        Args:
            kind: `low` or `high`, which decides the colour.
            title: heading of the list.
            item_idx: items in the order of the list.
            values: (n_items,) values of all items.
            longest: absolute value of the longest bar.
            items: names of all items.
            number_format: format of the printed values; empty prints none.
        """
        entries = [
            RankedItem(
                name=items.name(item),
                categories=", ".join(items.categories[item]),
                rating_count=items.rating_count(item),
                value=f"{values[item]:{number_format}}".replace("-", "−") if number_format else "",
                percent=100 * abs(float(values[item])) / longest if longest else 0.0,
            )
            for item in item_idx.tolist()
        ]
        counts = Counter(category for item in item_idx.tolist() for category in items.categories[item])
        categories = " · ".join(f"{n} {category}" for category, n in counts.most_common(3) if n > 1)
        return cls(kind, title, entries, categories)


@dataclass(frozen=True, slots=True)
class ComponentSection:
    """A principal component.

    Attributes:
        number: counted from 1.
        explained: share of the variance.
        popularity: correlation with the logarithm of the number of ratings where it is high, else None.
        low, high: items at both ends.
    """

    number: int
    explained: float
    popularity: float | None
    low: ItemList
    high: ItemList


@dataclass(frozen=True, slots=True)
class BiasSection:
    """The items with the highest and the lowest bias."""

    figure: go.Figure
    high: ItemList
    low: ItemList


@dataclass(frozen=True)
class ModelSection:
    """What the templates print about a model version."""

    model: ModelView

    @property
    def created_at(self) -> str:
        """When the version was trained, to the minute."""
        created_at = self.model.created_at
        if isinstance(created_at, str):
            return created_at
        return f"{datetime.fromtimestamp(created_at / 1000, UTC):%Y-%m-%d %H:%M} UTC"

    @property
    def summary(self) -> str:
        """The first measure beside the best baseline."""
        if not self.model.metrics:
            return self.created_at
        key, value = next(iter(self.model.metrics.items()))
        measure = measure_of(key)
        best = measure.best(values[key] for values in self.model.baselines.values() if key in values)
        baseline = "" if best is None else f", best baseline {format_value(best)}"
        return f"{measure.name} {format_value(value)}{baseline}"

    @cached_property
    def measures(self) -> pd.DataFrame:
        """The measures of this version and of the baselines: see `measure_table`."""
        return measure_table(self.model.metrics, self.model.baselines)

    def measure_columns(self) -> list[tuple[str, bool]]:
        """Return the columns of `measures`, and whether each is this version."""
        return [(str(name), name == THIS_VERSION) for name in self.measures.columns]

    def measure_rows(self) -> Iterator[MeasureRow]:
        """Return the rows of `measures`."""
        for key, values in zip(self.measures.index, self.measures.to_numpy(), strict=True):
            yield MeasureRow(measure_of(key), values.tolist())

    @cached_property
    def components(self) -> Components:
        """The principal components of the item factors."""
        return self.model.components

    @cached_property
    def map(self) -> go.Figure | None:
        """The map of the items, or None with fewer than two components."""
        return item_map(self.model) if self.components.n_components >= 2 else None

    def clusters(self) -> list[tuple[str, Cluster]]:
        """Return the clusters and their colours on the map."""
        return [(cluster_colour(cluster.number), cluster) for cluster in self.model.clusters]

    @cached_property
    def categories(self) -> go.Figure | None:
        """How well a direction tells each category apart; None if no category is large enough."""
        found = self.model.table.categories().auc.notna().any()
        return self.model.plot.categories() if found else None

    @cached_property
    def fit(self) -> list[Curve]:
        """Calibration and residuals of a rating model; nothing without ratings."""
        view = self.model
        if view.factors.rating_range is None or view.ratings is None or not view.ratings.n_ratings:
            return []
        table = view.table.residuals
        return [
            Curve("Calibration", charts.calibration(table("prediction"))),
            Curve("By number of ratings of the item", charts.residuals(table("popularity"), "Ratings of the item")),
            Curve("By number of ratings of the user", charts.residuals(table("activity"), "Ratings of the user")),
        ]

    @cached_property
    def lists(self) -> dict[str, float]:
        """What the lists of up to 1,000 users have in common; empty without users."""
        view = self.model
        return view.table.lists() if view.factors.n_users and view.ratings is not None else {}

    @property
    def n_mapped(self) -> int | None:
        """The number of items in the map if it does not show all."""
        return MOST_POINTS if self.model.factors.n_items > MOST_POINTS else None

    @cached_property
    def well_rated(self) -> NDArray[np.bool_] | None:
        """Which items have at least `MIN_RATINGS` ratings: (n_items,), or None if fewer than two have."""
        enough = self.model.items.n_ratings >= MIN_RATINGS
        return enough if enough.sum() >= 2 else None

    @cached_property
    def component_sections(self) -> list[ComponentSection]:
        """Each component with the items at its ends."""
        items, sections = self.model.items, []
        log_ratings = np.log1p(items.n_ratings)
        for k in range(min(N_COMPONENTS, self.components.n_components)):
            positions = self.components.positions[:, k]
            low, high = both_ends(positions, N_AT_END, self.well_rated)
            longest = float(np.abs(positions[[*low, *high]]).max())
            correlation = float(np.corrcoef(positions, log_ratings)[0, 1]) if log_ratings.std() else 0.0
            sections.append(
                ComponentSection(
                    number=k + 1,
                    explained=float(self.components.explained[k]),
                    popularity=correlation if abs(correlation) >= POPULARITY_CORRELATION else None,
                    low=ItemList.of("low", "Low end", low, positions, longest, items),
                    high=ItemList.of("high", "High end", high, positions, longest, items),
                )
            )
        return sections

    @cached_property
    def bias(self) -> BiasSection | None:
        """The items with the highest and the lowest bias, or None if no item has a rating."""
        items = self.model.items
        among = items.n_ratings > 0 if self.well_rated is None else self.well_rated
        if not among.any():
            return None
        bias, title = self.model.bias, self.model.bias_title
        low, high = both_ends(bias, N_BIASED, among)
        longest = float(np.abs(bias[[*low, *high]]).max())
        return BiasSection(
            figure=bias_against_ratings(bias, items, high, low, title),
            high=ItemList.of("high", "Highest bias", high, bias, longest, items, "+.2f"),
            low=ItemList.of("low", "Lowest bias", low, bias, longest, items, "+.2f"),
        )

    def configuration(self) -> tuple[dict[str, object], dict[str, object]]:
        """Return the settings of the training, and the facts about it."""
        return split_configuration(self.model.configuration)

    @cached_property
    def curves(self) -> list[Curve]:
        """The training curves."""
        return training_curves(self.model.history, self.model.metrics, self.model.configuration)
