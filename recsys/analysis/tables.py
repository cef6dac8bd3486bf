"""Tables of a model version as pandas DataFrames."""

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.analysis.categories import direction_auc, telling_categories
from recsys.analysis.compare import compare_items, list_overlap, rank_biased_overlap
from recsys.analysis.components import both_ends
from recsys.analysis.map_figure import places
from recsys.analysis.measures import BASELINES, as_words
from recsys.analysis.quality import (
    ResidualGroup,
    list_summary,
    lists_of,
    residual_table,
    select_users,
    user_residuals,
)
from recsys.analysis.users import user_places
from recsys.data.dataset import Ratings
from recsys.data.keyed import evenly
from recsys.errors import InputError

if TYPE_CHECKING:
    from recsys.analysis.view import ModelView

THIS_VERSION = "This version"
MIN_RATINGS = 10
"""Items with fewer ratings are left out of lists of extremes: what is learned about them is mostly chance."""


class Tables:
    """The tables of one version.

    >>> learner.table.items().nlargest(10, "bias")                      # doctest: +SKIP
    """

    def __init__(self, view: "ModelView") -> None:
        self._view = view

    def __repr__(self) -> str:
        return f"Tables of {self._view.name}: {', '.join(name for name in dir(self) if not name.startswith('_'))}"

    def items(self, n_components: int = 4) -> pd.DataFrame:
        """Return one row per item with its names and what the model learned about it.

        >>> learner.table.items().nlargest(10, "component_1")[["title", "component_1"]]   # doctest: +SKIP

        Args:
            n_components: the largest number of principal components.

        Returns:
            Index `item_idx`; columns `item_id`, `title` (the id of an item without one), `categories` (tuples),
            `n_ratings`, `mean_rating` and `year` where they are known, `bias` (see `item_bias`), `norm`, `cluster`
            (its name) and `component_1`, `component_2`, … (positions along the principal components).
        """
        view, components = self._view, self._view.components
        items = view.items
        names = {cluster.number: cluster.name for cluster in view.clusters}
        columns: dict[str, object] = {
            "item_id": list(items.item_ids),
            "title": items.names,
            "categories": [tuple(categories) for categories in items.categories],
            "n_ratings": items.n_ratings,
        }
        columns |= {"mean_rating": items.mean_rating} if len(items.mean_rating) else {}
        columns |= {"year": items.year} if len(items.year) else {}
        columns |= {"bias": view.bias, "norm": view.norms}
        columns["cluster"] = [names.get(label, "") for label in view.cluster_labels.tolist()]
        for k in range(min(n_components, components.n_components)):
            columns[f"component_{k + 1}"] = components.positions[:, k]
        return pd.DataFrame(columns, index=pd.RangeIndex(len(items), name="item_idx"))

    def components(self) -> pd.DataFrame:
        """Return one row per principal component of the item vectors.

        Returns:
            Index `component` (1, 2, …); columns `explained` (share of the variance), `popularity` (correlation with
            the logarithm of the number of ratings), `categories` (those that correlate most, with their
            correlations) and `direction_1`, … (the unit vector of the component in the space of the factors).
        """
        view, components = self._view, self._view.components
        log_ratings = np.log1p(view.items.n_ratings)
        masks = {name: view.items.in_category(name) for name, idx in view.items.category_idx.items() if len(idx) >= 5}
        told = [
            ", ".join(f"{name} {'−' if r < 0 else '+'}{abs(r):.2f}" for name, r in telling_categories(position, masks))
            for position in components.positions.T
        ]
        table = pd.DataFrame(
            components.directions, columns=[f"direction_{f + 1}" for f in range(components.directions.shape[1])]
        )
        table.insert(0, "explained", components.explained)
        table.insert(1, "popularity", [_correlation(position, log_ratings) for position in components.positions.T])
        table.insert(2, "categories", told)
        table.index = pd.RangeIndex(1, components.n_components + 1, name="component")
        return table

    def ends(self, component: int = 1, n: int = 10, min_ratings: int = MIN_RATINGS) -> pd.DataFrame:
        """Return the items at both ends of a component: `end` (low, high), `item_id`, `title`, `n_ratings`, `position`.

        Args:
            component: counted from 1.
            n: the largest number of items at each end.
            min_ratings: fewest ratings of a listed item.

        Raises:
            InputError: there is no such component.
        """
        components = self._view.components
        if not 1 <= component <= components.n_components:
            raise InputError(f"there is no component {component}: the model has {components.n_components}")
        position = components.positions[:, component - 1]
        return self._both_ends(position, "position", n, min_ratings)

    def bias(self, n: int = 10, min_ratings: int = MIN_RATINGS) -> pd.DataFrame:
        """Return the items with the highest and the lowest bias: `end`, `item_id`, `title`, `n_ratings`, `bias`."""
        return self._both_ends(self._view.bias.astype(np.float64), "bias", n, min_ratings)

    def beyond_kind(self, n: int = 10, min_ratings: int = MIN_RATINGS) -> pd.DataFrame:
        """Return the items loved most and least beyond their kind: the bias minus that of their ten nearest items.

        Columns `end`, `item_id`, `title`, `n_ratings`, `beyond_kind`.
        """
        return self._both_ends(self._view.beyond_kind, "beyond_kind", n, min_ratings)

    def neighbours(self, item_id: str, n: int = 10, min_ratings: int = 0) -> pd.DataFrame:
        """Return the items with the highest cosine with one: `item_id`, `title`, `categories`, `n_ratings`, `cosine`.

        Raises:
            NotFoundError: the model does not know the item.
        """
        items, idx = self._view.items, self._view.require(item_id)
        among = items.n_ratings >= min_ratings
        found = self._view.nearest(idx, n, among if min_ratings else None)
        table = self._named(found.item_idx[0])
        table["cosine"] = found.cosine[0]
        return table

    def categories(self) -> pd.DataFrame:
        """Return each category as a direction: index `category`; columns `n_items`, `n_ratings`, `auc`, `mean_bias`.

        `auc` is the probability that the direction places an item of the category above another item, measured on
        items that the direction was not computed from; NaN for a category that is too small.
        """
        items, rows = self._view.items, []
        for name, idx in items.category_idx.items():
            auc = direction_auc(self._view.embeddings, items.in_category(name))
            rows.append((name, len(idx), int(items.n_ratings[idx].sum()), auc, float(self._view.bias[idx].mean())))
        table = pd.DataFrame(rows, columns=["category", "n_items", "n_ratings", "auc", "mean_bias"])
        return table.astype({"auc": float}).set_index("category")

    def clusters(self) -> pd.DataFrame:
        """Return each cluster, the largest first: index `cluster`; columns `name`, `size`, `properties`, `examples`."""
        rows = [
            (
                cluster.name,
                cluster.size,
                ", ".join(f"{name} {inside:.0%} (all: {overall:.0%})" for name, inside, overall in cluster.properties),
                ", ".join(cluster.examples),
            )
            for cluster in self._view.clusters
        ]
        table = pd.DataFrame(rows, columns=["name", "size", "properties", "examples"])
        return table.rename_axis("cluster")

    def correlations(self) -> pd.DataFrame:
        """Return the correlations of the factors over the items: (n_factors, n_factors); 0 for a constant factor."""
        vectors = self._view.embeddings.astype(np.float64)
        spread = vectors.std(axis=0)
        centred = np.divide(vectors - vectors.mean(axis=0), spread, out=np.zeros_like(vectors), where=spread > 0)
        names = pd.RangeIndex(1, vectors.shape[1] + 1, name="factor")
        return pd.DataFrame(centred.T @ centred / max(1, len(vectors)), index=names, columns=names)

    def norms(self) -> pd.DataFrame:
        """Return lengths: one row per item, `item_id`, `title`, `n_ratings`, `norm`."""
        items = self._view.items
        columns = {"item_id": items.item_ids, "title": items.names, "n_ratings": items.n_ratings}
        return pd.DataFrame({**columns, "norm": self._view.norms})

    def rank(self) -> dict[str, float]:
        """Return the rank of the item vectors: `n_factors`, `effective` and `for_90_percent` of the variance.

        The effective rank is exp(entropy of the shares of variance) (Roy & Vetterli, "The effective rank", 2007).
        """
        vectors = self._view.embeddings.astype(np.float64)
        if not vectors.size:
            return {"n_factors": float(vectors.shape[1]), "effective": 0.0, "for_90_percent": 0.0}
        variance = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2
        share = variance / variance.sum() if variance.sum() else variance
        entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
        return {
            "n_factors": float(vectors.shape[1]),
            "effective": float(np.exp(entropy)) if variance.sum() else 0.0,
            "for_90_percent": float(np.searchsorted(np.cumsum(share), 0.9) + 1) if variance.sum() else 0.0,
        }

    def measures(self) -> pd.DataFrame:
        """Return the measures of the version beside those of its baselines; see `measure_table`."""
        return measure_table(self._view.metrics, self._view.baselines)

    def training(self) -> pd.DataFrame:
        """Return what was recorded after each epoch; see `training_table`."""
        return training_table(self._view.history)

    def health(self) -> pd.DataFrame:
        """Return what looks wrong, warnings first: `severity`, `kind`, `title`, `detail`, `n_items`."""
        rows = [(f.severity, f.kind, f.title, f.detail, len(f.item_idx)) for f in self._view.findings]
        return pd.DataFrame(rows, columns=["severity", "kind", "title", "detail", "n_items"])

    def residuals(self, by: ResidualGroup = "prediction", ratings: Ratings | None = None) -> pd.DataFrame:
        """Return how far predictions are from ratings, in groups; see `residual_table`.

        Args:
            ratings: by default those of the training, on which every model looks better than it is.

        Raises:
            InputError: the version is not a rating model, or no ratings are at hand.
        """
        chosen = self._ratings_of_users(ratings)
        return residual_table(self._view.factors, chosen, by, n_ratings=self._view.items.n_ratings)

    def user_residuals(self, min_ratings: int = MIN_RATINGS, ratings: Ratings | None = None) -> pd.DataFrame:
        """Return how far predictions are from the ratings of each user, the worst first; see `user_residuals`.

        Args:
            min_ratings: fewest ratings of a user.
            ratings: by default those of the training, on which every model looks better than it is.

        Raises:
            InputError: the version is not a rating model, or no ratings are at hand.
        """
        table = user_residuals(self._view.factors, self._ratings_of_users(ratings))
        return table[table.n >= min_ratings]

    def _ratings_of_users(self, ratings: Ratings | None) -> Ratings:
        chosen = self._view.ratings if ratings is None else ratings
        if self._view.factors.rating_range is None:
            raise InputError("a ranking model predicts no ratings: look at a rating model")
        if chosen is None or not self._view.factors.n_users:
            raise InputError("residuals need ratings and the users of the model: use a Learner")
        return chosen

    def users(self, n_users: int = 1000, n: int = 10) -> pd.DataFrame:
        """Return some users, evenly chosen, with their places on the map of the items; see `user_places`.

        Args:
            n_users: the largest number of users.
            n: length of the lists that decide the places.

        Returns:
            Index `user_key`; columns `n_ratings`, `mean_rating` (NaN without ratings), `bias`, `x`, `y` (NaN for an
            empty list).

        Raises:
            InputError: the users of the model are not at hand.
        """
        view = self._view
        if not view.factors.n_users:
            raise InputError("a map of users needs the users of the model: use a Learner")
        factors = select_users(view.factors, view.factors.user_keys[evenly(view.factors.n_users, n_users)])
        xy = user_places(lists_of(factors, n, view.ratings, n_users), places(view, "map")[0])
        table = pd.DataFrame({"n_ratings": 0, "mean_rating": nan}, index=pd.Index(factors.user_keys, name="user_key"))
        if view.ratings is not None:
            rated = pd.Series(view.ratings.rating).groupby(view.ratings.user_keys[view.ratings.user_idx])
            table["n_ratings"] = rated.size().reindex(table.index, fill_value=0)
            table["mean_rating"] = rated.mean().reindex(table.index)
        return table.assign(bias=factors.user_bias, x=xy[:, 0], y=xy[:, 1])

    def lists(self, n: int = 10) -> dict[str, float]:
        """Return coverage, Gini coefficient and popularity share of the lists of up to 1,000 users.

        Raises:
            InputError: the users of the model are not at hand.
        """
        if not self._view.factors.n_users:
            raise InputError("lists need the users of the model: use a Learner")
        lists = lists_of(self._view.factors, n, self._view.ratings)
        return list_summary(lists, self._view.items.n_ratings)

    def compare(self, other: "ModelView", k: int = 10) -> pd.DataFrame:
        """Return the items that an earlier version has too, those that moved most first.

        Args:
            other: the version before.
            k: number of neighbours compared.

        Returns:
            `item_id`, `title`, `n_ratings`, `overlap` (share of the k nearest neighbours that stayed), `movement`
            (see `Comparison`), and `bias_before`, `bias_after`.
        """
        found = compare_items(other.factors, self._view.factors, k, self._view.judged)
        table = self._named(found.after_idx)
        table["overlap"], table["movement"] = found.overlap, found.movement
        table["bias_before"], table["bias_after"] = other.bias[found.before_idx], self._view.bias[found.after_idx]
        return table.sort_values(["overlap", "n_ratings"], ascending=[True, False], kind="stable", ignore_index=True)

    def compare_lists(self, other: "ModelView", n: int = 10, n_users: int = 500) -> pd.DataFrame:
        """Return how far the lists of shared users differ from those of another version.

        Returns:
            Index `user_key`; columns `overlap` and `rbo` (rank-biased overlap, p = .9), each from 0 to 1.

        Raises:
            InputError: the users of a version are not at hand.
        """
        ours, theirs = self._view.factors, other.factors
        if not (ours.n_users and theirs.n_users):
            raise InputError("comparing lists needs the users of both versions: use two Learners")
        shared = np.intersect1d(ours.user_keys, theirs.user_keys)
        chosen = shared[evenly(len(shared), n_users)]
        keys = []
        for view in (self._view, other):
            lists = lists_of(select_users(view.factors, chosen), n, view.ratings, len(chosen))
            keys.append([view.factors.item_keys[row[row >= 0]].tolist() for row in lists])
        rows = [(list_overlap(a, b), rank_biased_overlap(a, b)) for a, b in zip(*keys, strict=True)]
        return pd.DataFrame(rows, columns=["overlap", "rbo"], index=pd.Index(chosen, name="user_key"))

    def _named(self, item_idx: NDArray[np.int64]) -> pd.DataFrame:
        items = self._view.items
        chosen = item_idx.tolist()
        return pd.DataFrame(
            {
                "item_id": [items.item_ids[idx] for idx in chosen],
                "title": [items.names[idx] for idx in chosen],
                "categories": [tuple(items.categories[idx]) for idx in chosen],
                "n_ratings": items.n_ratings[item_idx],
            }
        )

    def _both_ends(self, values: NDArray[np.float64], name: str, n: int, min_ratings: int) -> pd.DataFrame:
        low, high = both_ends(values, n, (self._view.items.n_ratings >= min_ratings) & ~np.isnan(values))
        table = self._named(np.concatenate([high, low])).drop(columns="categories")
        table.insert(0, "end", ["high"] * len(high) + ["low"] * len(low))
        table[name] = values[np.concatenate([high, low])]
        return table


def measure_table(metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Return the measures of a model version beside those of its baselines.

    Args:
        metrics: measure → value.
        baselines: baseline → measure → value.

    Returns:
        Index `measure`; a column `This version` and one per baseline; NaN where a value is missing.
    """
    columns = {THIS_VERSION: metrics}
    columns |= {BASELINES.get(name, as_words(name)): values for name, values in baselines.items()}
    keys = list(dict.fromkeys(key for values in columns.values() for key in values))
    return pd.DataFrame(
        {name: [float(values.get(key, nan)) for key in keys] for name, values in columns.items()},
        index=pd.Index(keys, name="measure", dtype=object),
    )


def training_table(history: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Return what was recorded after each epoch.

    Args:
        history: one mapping per epoch, in order.

    Returns:
        Index `epoch` (counted from 1 where it was not recorded); a column per measure with at least one finite
        number, NaN elsewhere. Durations (`…seconds`) are left out.
    """

    def number(value: object) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        return float(value) if is_number else nan  # type: ignore[arg-type]

    keys = dict.fromkeys(key for row in history for key in row if key != "epoch" and not key.endswith("seconds"))
    epochs = [number(row.get("epoch", count)) for count, row in enumerate(history, start=1)]
    epochs = [count if np.isnan(epoch) else epoch for count, epoch in enumerate(epochs, start=1)]
    table = pd.DataFrame(
        {key: [number(row.get(key)) for row in history] for key in keys},
        index=pd.Index(epochs, name="epoch", dtype=float),
    )
    return table.dropna(axis="columns", how="all")


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() and other.std() else 0.0
