"""Models whose structure is known: groups of items around centres."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.analysis.labels import ItemLabels
from recsys.analysis.view import ModelView
from recsys.factors import Factors, Side
from recsys.results import Objective

KINDS = ("Drama", "Comedy", "Horror", "War")
PER_KIND, WIDTH = 60, 16


def vectors(noise: float = 0.35, seed: int = 0) -> NDArray[np.float32]:
    """Return 240 vectors in four groups, 60 of each kind in turn."""
    random = np.random.default_rng(seed)
    centres = np.linalg.qr(random.normal(size=(WIDTH, WIDTH)))[0][: len(KINDS)]
    found = np.repeat(centres, PER_KIND, axis=0) + random.normal(0, noise / 4, (PER_KIND * len(KINDS), WIDTH))
    return found.astype(np.float32)


def faulty_vectors() -> NDArray[np.float32]:
    """Return 240 vectors with a collapsed dimension, 20 duplicates, a hub, and 20 comedies among the war films."""
    found = np.random.default_rng(0).normal(1, 1, (240, 32)).astype(np.float32)  # around one direction
    found[180:, 0] += 8
    found[60:80, 0] += 8
    found[11] = 1  # that direction
    found[100:120] = found[100]
    found[:, 4] = 0.3
    return found


FAULTS = (
    "1 of 32 dimensions collapsed: 5",
    "20 items have the same vector: Comedy 119, Comedy 118, Comedy 117, …",
    "Drama 11 is a hub: near 127 of 240 items",
    "20 items are labelled Comedy but lie among War: Comedy 79, Comedy 78, Comedy 77, …",
)
"""What `faulty_vectors` has wrong, as Health names it."""


def labels(n: int = PER_KIND * len(KINDS)) -> ItemLabels:
    """Return the names of `vectors`, the categories being the groups, and 20 to 259 ratings."""
    return ItemLabels(
        item_ids=[f"i{idx}" for idx in range(n)],
        titles=[f"{KINDS[idx // PER_KIND % 4]} {idx}" for idx in range(n)],
        categories=[(KINDS[idx // PER_KIND % 4],) for idx in range(n)],
        n_ratings=np.arange(n) + 20,
        mean_rating=np.linspace(1, 5, n),
        year=np.where(np.arange(n) % 2, 1990.0, np.nan),
    )


def view(
    item_factors: NDArray[np.float32] | None = None, objective: Objective = "ranking", **changes: Any
) -> ModelView:
    """Return a version with the planted items and ten users, each of whom likes one kind."""
    q = vectors() if item_factors is None else item_factors
    users = q[np.arange(10) * 24 % len(q)] * np.float32(3)
    factors = Factors(
        objective=objective,
        users=Side(np.arange(10), users, np.zeros(10, np.float32)),
        items=Side(np.arange(len(q)), q, np.linspace(-1, 1, len(q)).astype(np.float32)),
        rating_range=(0.5, 5.5) if objective == "rating" else None,
    )
    made = ModelView(
        number=3,
        objective=objective,
        created_at=0,
        configuration={},
        metrics={"ndcg": 0.2},
        baselines={},
        history=[],
        factors=factors,
        items=labels(len(q)),
    )
    return replace(made, **changes)
