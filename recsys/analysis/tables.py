"""Tables of a model version as pandas DataFrames."""

from collections.abc import Mapping, Sequence
from math import isfinite, nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.analysis.components import principal_components
from recsys.analysis.labels import ItemLabels
from recsys.analysis.measures import BASELINES, as_words
from recsys.factors import Factors
from recsys.scoring.score import to_rating_scale

THIS_VERSION = "This version"


def item_table(factors: Factors, items: ItemLabels, n_components: int = 4) -> pd.DataFrame:
    """Return one row per item with its names and what the model learned about it.

        item_table(factors, items).nlargest(10, "component_1")[["title", "component_1"]]

    Args:
        factors: the model.
        items: in the order of `factors.item_keys`.
        n_components: the largest number of principal components.

    Returns:
        Index `item_idx`; columns `item_id`, `title` (the id of an item without one), `categories` (tuples),
        `n_ratings`, `bias` (see `item_bias`), and `component_1`, `component_2`, … (positions along the principal
        components).
    """
    components = principal_components(factors.embeddings, n_components)
    return pd.DataFrame(
        {
            "item_id": list(items.item_ids),
            "title": [items.name(item_idx) for item_idx in range(len(items))],
            "categories": [tuple(categories) for categories in items.categories],
            "n_ratings": items.n_ratings,
            "bias": item_bias(factors),
            **{f"component_{k + 1}": components.positions[:, k] for k in range(components.n_components)},
        },
        index=pd.RangeIndex(len(items), name="item_idx"),
    )


def component_table(factors: Factors, n_components: int = 4) -> pd.DataFrame:
    """Return one row per principal component of the item factors.

    Returns:
        Index `component` (1, 2, …); columns `explained` (share of the variance) and `direction_1`, … (the unit
        vector of the component in the space of the factors).
    """
    components = principal_components(factors.embeddings, n_components)
    table = pd.DataFrame(
        components.directions, columns=[f"direction_{f + 1}" for f in range(components.directions.shape[1])]
    )
    table.insert(0, "explained", components.explained)
    table.index = pd.RangeIndex(1, components.n_components + 1, name="component")
    return table


def item_bias(factors: Factors) -> NDArray[np.float32]:
    """Return the bias of each item: (n_items,), in rating points where the model has a rating scale.

        points_i = rating(b + b_i) − rating(b)

    where b is the global bias, b_i the item's bias and rating(z) = low + (high − low) sigmoid(z). A ranking
    model has no scale: its biases are returned as they are.
    """
    if factors.rating_range is None:
        return factors.item_bias
    without_bias = np.full(1, factors.global_bias, np.float32)
    return to_rating_scale(without_bias + factors.item_bias, factors.rating_range) - to_rating_scale(
        without_bias, factors.rating_range
    )


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
