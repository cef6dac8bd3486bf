"""The part of a version that is no row of a user or item, as safetensors: bytes that cannot run code."""

import json
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from recsys.factors import (
    NO_NEIGHBOUR,
    Factors,
    FeatureEmbeddings,
    Head,
    Neighbours,
    RankingConstants,
    RatingConstants,
)
from recsys.results import Objective

_STORED_BEFORE = {"l2": 0.05, "damping": 2.5, "rating_weight": 2.0, "user_power": 0.5}
"""Constants of versions that were stored without them, if their configuration does not have them either."""


class Weights(NamedTuple):
    """The head, the feature embeddings of both sides, the constants, and the neighbours of the items of a version."""

    head: Head | None
    user_features: FeatureEmbeddings | None
    item_features: FeatureEmbeddings | None
    constants: RatingConstants | RankingConstants | None
    neighbours: Neighbours | None


def pack_weights(factors: Factors) -> bytes | None:
    """Return head, feature embeddings, constants and neighbours as safetensors; `None` if there are none."""
    arrays: dict[str, NDArray[Any]] = {}
    if (head := factors.head) is not None:
        arrays["n_dot"] = np.array([head.n_dot], np.int64)
        for layer, (weight, bias) in enumerate(head.layers):
            arrays |= {f"{layer}.weight": np.ascontiguousarray(weight), f"{layer}.bias": np.ascontiguousarray(bias)}
        if head.user_map is not None:
            arrays["user_map"] = np.ascontiguousarray(head.user_map)
    if factors.constants is not None:
        arrays[factors.objective] = np.array(astuple(factors.constants), np.float64)
    for name, side in (("users", factors.users), ("items", factors.items)):
        if (features := side.features) is not None:
            names = np.frombuffer(json.dumps(features.names).encode(), np.uint8)
            arrays |= {f"{name}.names": names, f"{name}.base": features.base}
            arrays |= {f"{name}.rows": np.ascontiguousarray(features.vectors), f"{name}.bias": features.bias}
    if (near := factors.neighbours) is not None:
        arrays |= {"neighbours.item_idx": near.item_idx, "neighbours.scores": near.scores}
        arrays["neighbours.in_pool"] = near.in_pool
    return save(arrays) if arrays else None


def unpack_weights(stored: bytes | None, objective: Objective, configuration: Mapping[str, object]) -> Weights:
    """Return what `pack_weights` packed.

    Args:
        configuration: the training's `Config.as_record()`, for constants that earlier versions were stored without.
    """
    arrays = {} if stored is None else load(stored)
    head = None
    if "n_dot" in arrays:
        n_layers = sum(name.endswith(".weight") for name in arrays)
        layers = tuple((arrays[f"{layer}.weight"], arrays[f"{layer}.bias"]) for layer in range(n_layers))
        head = Head(int(arrays["n_dot"][0]), layers, arrays.get("user_map"))
    return Weights(
        head,
        _features(arrays, "users"),
        _features(arrays, "items"),
        _constants(arrays, objective, configuration),
        _neighbours(arrays),
    )


def _neighbours(arrays: Mapping[str, NDArray[Any]]) -> Neighbours | None:
    """Return the stored neighbours.

    Raises:
        ValueError: they are not whole.
    """
    if "neighbours.item_idx" not in arrays:
        return None
    item_idx, scores, in_pool = (arrays[f"neighbours.{name}"] for name in ("item_idx", "scores", "in_pool"))
    n_items = len(in_pool)
    whole = item_idx.shape == scores.shape and item_idx.ndim == 2 and len(item_idx) == n_items
    if not (whole and item_idx.min(initial=0) >= NO_NEIGHBOUR and item_idx.max(initial=NO_NEIGHBOUR) < n_items):
        raise ValueError("the neighbours of items are not whole")
    return Neighbours(item_idx, scores, in_pool)


def _features(arrays: Mapping[str, NDArray[Any]], side: str) -> FeatureEmbeddings | None:
    if f"{side}.names" not in arrays:
        return None
    names = tuple(json.loads(arrays[f"{side}.names"].tobytes()))
    return FeatureEmbeddings(names, *(arrays[f"{side}.{part}"] for part in ("base", "rows", "bias")))


def _constants(
    arrays: Mapping[str, NDArray[Any]], objective: Objective, configuration: Mapping[str, object]
) -> RatingConstants | RankingConstants | None:
    """Return the stored constants, and those that were not stored from the configuration."""

    def configured(name: str) -> float:
        value = configuration.get(name)
        return float(value) if isinstance(value, int | float) else _STORED_BEFORE[name]

    stored: list[float] = arrays[objective].tolist() if objective in arrays else []
    if objective == "rating":
        return RatingConstants(*(stored or [configured("l2"), configured("damping")]))
    if not stored:
        return None
    return RankingConstants(*stored[:4], *(stored[4:] or [configured("rating_weight"), configured("user_power")]))
