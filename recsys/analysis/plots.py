"""Figures of a model version, one method each."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from recsys.analysis import charts
from recsys.analysis.compare import compare_items
from recsys.analysis.components import both_ends
from recsys.analysis.figures import Curve, bias_against_ratings, bias_points, training_curves
from recsys.analysis.map_figure import map_figure
from recsys.analysis.quality import ResidualGroup
from recsys.analysis.style import BLUE, chart_layout
from recsys.analysis.tables import MIN_RATINGS
from recsys.analysis.users import user_map
from recsys.data.dataset import Ratings
from recsys.errors import InputError

if TYPE_CHECKING:
    from recsys.analysis.view import ModelView

GROUP_TITLES = {
    "rating": "Rating (points)",
    "prediction": "Prediction (points), tenths of the ratings",
    "activity": "Number of ratings of the user",
    "popularity": "Number of ratings of the item",
}


class Plots:
    """The figures of one version; each shows itself in Jupyter.

    >>> learner.plot.map(colour="category:Drama")                       # doctest: +SKIP
    """

    def __init__(self, view: "ModelView") -> None:
        self._view = view

    def __repr__(self) -> str:
        return f"Plots of {self._view.name}: {', '.join(name for name in dir(self) if not name.startswith('_'))}"

    def map(self, colour: str = "cluster", projection: str = "map", n_names: int = 20) -> go.Figure:
        """Draw the items on a plane.

        Args:
            colour: `cluster`, `popularity`, `bias`, `mean`, `year`, or `category:NAME`.
            projection: `map`, where near items are alike, or `pca`.
            n_names: number of the most rated items that are named.
        """
        return map_figure(self._view, colour, projection, n_names=n_names)

    def neighbours(self, item_id: str, n: int = 10, min_ratings: int = MIN_RATINGS) -> go.Figure:
        """Draw the nearest items of one as bars of their cosine.

        Raises:
            NotFoundError: the model does not know the item.
        """
        table = self._view.table.neighbours(item_id, n, min_ratings)
        return charts.bars(table.title.tolist(), table.cosine.tolist(), "Cosine", named(table))

    def components(self) -> go.Figure:
        """Draw the share of the variance that each principal component explains."""
        explained = self._view.components.explained
        figure = charts.bars([f"Component {k + 1}" for k in range(len(explained))], (100 * explained).tolist(), "%")
        figure.update_xaxes(title="Share of the variance (%)")
        return figure

    def ends(self, component: int = 1, n: int = 10, min_ratings: int = MIN_RATINGS) -> go.Figure:
        """Draw the items at both ends of a component.

        Raises:
            InputError: there is no such component.
        """
        table = self._view.table.ends(component, n, min_ratings)
        title = f"Position along component {component}"
        return charts.bars(table.title.tolist(), table.position.tolist(), title, named(table))

    def bias(self, n: int = 10, min_ratings: int = MIN_RATINGS) -> go.Figure:
        """Draw the bias of each item against its number of ratings, and name the items at both ends.

        Raises:
            InputError: no item has so many ratings.
        """
        view = self._view
        among = view.items.n_ratings >= max(1, min_ratings)
        if not among.any():
            raise InputError(f"no item has {max(1, min_ratings):,} ratings: ask for fewer")
        low, high = both_ends(view.bias, n, among)
        return bias_against_ratings(view.bias, view.items, high, low, view.bias_title)

    def bias_points(self, min_ratings: int = 1) -> go.Figure:
        """Draw the bias of all items against their numbers of ratings, for large catalogues."""
        return bias_points(self._view.bias, self._view.items, self._view.bias_title, min_ratings)

    def categories(self) -> go.Figure:
        """Draw how well a direction tells each category apart: AUC − ½, the best first."""
        table = self._view.table.categories().dropna(subset="auc").sort_values("auc", ascending=False)
        figure = charts.bars(table.index.tolist(), table.auc.tolist(), "AUC (.5 is chance)")
        figure.update_xaxes(range=[0.4, 1.0])
        return figure

    def clusters(self) -> go.Figure:
        """Draw the sizes of the clusters."""
        table = self._view.table.clusters()
        return charts.bars(table.name.tolist(), table["size"].tolist(), "Items")

    def correlations(self) -> go.Figure:
        """Draw the correlations of the factors over the items."""
        return charts.matrix(self._view.table.correlations(), "Correlation")

    def norms(self) -> go.Figure:
        """Draw the length of each item's vector against its number of ratings."""
        return bias_points(self._view.norms, self._view.items, "Length of the vector", 1)

    def users(self, n_users: int = 1000, names: Mapping[int, str] | None = None) -> go.Figure:
        """Draw some users over the map of the items, each amid the items of their list; see `Tables.users`.

        Args:
            names: key of a user → external id.

        Raises:
            InputError: the users of the model are not at hand.
        """
        return user_map(self._view, self._view.table.users(n_users), names)

    def training(self) -> list[Curve]:
        """Draw what was recorded after each epoch: one figure for the losses, one for each other measure."""
        return training_curves(self._view.history, self._view.metrics, self._view.configuration)

    def residuals(self, by: ResidualGroup = "popularity", ratings: Ratings | None = None) -> go.Figure:
        """Draw how far predictions are from ratings, in groups; see `Tables.residuals`."""
        return charts.residuals(self._view.table.residuals(by, ratings), GROUP_TITLES[by])

    def calibration(self, ratings: Ratings | None = None) -> go.Figure:
        """Draw the mean rating against the mean prediction; see `Tables.residuals`."""
        return charts.calibration(self._view.table.residuals("prediction", ratings))

    def compare(self, other: "ModelView", k: int = 10) -> go.Figure:
        """Draw how many of the k nearest neighbours of each shared item stayed the same since an earlier version."""
        found = compare_items(other.factors, self._view.factors, k, self._view.judged)
        counts = np.bincount(np.round(found.overlap * k).astype(np.int64), minlength=k + 1)
        figure = go.Figure(
            go.Bar(
                x=list(range(k + 1)),
                y=counts.tolist(),
                marker={"color": BLUE},
                hovertemplate="%{x} neighbours stayed: <b>%{y:,} items</b><extra></extra>",
            ),
            chart_layout(charts.HEIGHT_PX),
        )
        figure.update_xaxes(title=f"Neighbours of {k} that stayed", dtick=1)
        figure.update_yaxes(title="Items")
        return figure


def named(table: pd.DataFrame) -> list[str]:
    """Return title and id of each item of a table, as a figure shows them on hovering."""
    return [f"{title} ({item_id})" for title, item_id in zip(table.title, table.item_id, strict=True)]
