"""What a version has beside rows (layers, features, constants), as safetensors: bytes that cannot run code."""

import json
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from recsys.factors import Factors, FeatureRows, Head, RankingConstants


class Weights(NamedTuple):
    """What a version has beside rows."""

    head: Head | None
    user_features: FeatureRows | None
    item_features: FeatureRows | None
    user_map: NDArray[np.float32] | None
    ranking: RankingConstants | None


def as_safetensors(factors: Factors) -> bytes | None:
    """What is no row as bytes that cannot run code; None where there is nothing."""
    arrays: dict[str, NDArray[Any]] = {}
    if (head := factors.head) is not None:
        arrays["n_dot"] = np.array([head.n_dot], np.int64)
        for place, (weight, bias) in enumerate(head.layers):
            arrays |= {f"{place}.weight": np.ascontiguousarray(weight), f"{place}.bias": np.ascontiguousarray(bias)}
    if factors.user_map is not None:
        arrays["user_map"] = np.ascontiguousarray(factors.user_map)
    if factors.ranking is not None:
        arrays["ranking"] = np.array(astuple(factors.ranking), np.float64)
    for side, known in (("users", factors.user_features), ("items", factors.item_features)):
        if known is not None:
            names = np.frombuffer(json.dumps(known.names).encode(), np.uint8)
            arrays |= {f"{side}.names": names, f"{side}.base": known.base}
            arrays |= {f"{side}.rows": np.ascontiguousarray(known.rows), f"{side}.bias": known.bias}
    return save(arrays) if arrays else None


def read_weights(stored: bytes | None) -> Weights:
    """What `as_safetensors` made."""
    if stored is None:
        return Weights(None, None, None, None, None)
    arrays = load(stored)
    head = None
    if "n_dot" in arrays:
        n_layers = sum(name.endswith(".weight") for name in arrays)
        layers = tuple((arrays[f"{place}.weight"], arrays[f"{place}.bias"]) for place in range(n_layers))
        head = Head(int(arrays["n_dot"][0]), layers)
    return Weights(
        head,
        _feature_rows(arrays, "users"),
        _feature_rows(arrays, "items"),
        arrays.get("user_map"),
        RankingConstants(*arrays["ranking"].tolist()) if "ranking" in arrays else None,
    )


def _feature_rows(arrays: Mapping[str, NDArray[Any]], side: str) -> FeatureRows | None:
    if f"{side}.names" not in arrays:
        return None
    names = tuple(json.loads(arrays[f"{side}.names"].tobytes()))
    return FeatureRows(names, *(arrays[f"{side}.{part}"] for part in ("base", "rows", "bias")))
