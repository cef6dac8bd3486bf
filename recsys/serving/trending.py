"""Trending items: those that were rated most in the last days."""

import time
from threading import Lock
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine

from recsys.data.keyed import positions
from recsys.database.engine import reading
from recsys.database.trends import N_HALF_LIVES, Trends, read_trends
from recsys.results import Order
from recsys.serving.catalogue import Catalogue
from recsys.serving.popularity import Ranking
from recsys.serving.snapshot import Recommender

HALF_LIFE_DAYS = 7.0
FRESH_SECONDS = 60.0
"""Age up to which trends are used again. Reading them takes seconds where there are millions of ratings."""
MAX_KEPT = 16
"""Most half-lives, and most rankings, that are kept."""


class TrendingItems(NamedTuple):
    """The ranking of trending items, and why it is one of the most rated items."""

    ranking: Ranking
    fallback: str | None


def trending_items(recommender: Recommender, trends: Trends, half_life_days: float, order: Order) -> TrendingItems:
    """Return all items ranked by trend, and those with equal trends by number of ratings."""
    values = _aligned(recommender.catalogue, trends)
    reason = None
    if not len(trends.item_keys):
        days = N_HALF_LIVES * half_life_days
        reason = f"no item was rated in the last {days:g} days; these are the most rated items"
    return TrendingItems(recommender.popularity.trending(values, order), reason)


def read_trending(
    connection: Connection, recommender: Recommender, half_life_days: float, order: Order
) -> TrendingItems:
    """Read the trends of all items, and return the ranking."""
    return trending_items(recommender, read_trends(connection, half_life_days), half_life_days, order)


class TrendReader:
    """Reads trends, and keeps them for a minute. Safe between threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = Lock()
        self._trends: dict[float, tuple[float, Trends]] = {}
        self._rankings: dict[tuple[int, float, Order, float], TrendingItems] = {}

    def kept(self, recommender: Recommender, half_life_days: float, order: Order) -> TrendingItems | None:
        """Return the ranking if it is fresh, without reading anything."""
        read_at, _ = self._trends.get(half_life_days, (-FRESH_SECONDS, None))
        if time.monotonic() - read_at > FRESH_SECONDS:
            return None
        return self._rankings.get((recommender.number, half_life_days, order, read_at))

    def read(self, recommender: Recommender, half_life_days: float, order: Order) -> TrendingItems:
        """Return the ranking, and read the trends if they are older than a minute.

        Raises:
            DatabaseError: the database cannot be reached.
        """
        with self._lock:
            ranking = self.kept(recommender, half_life_days, order)
            if ranking is not None:
                return ranking
            read_at, trends = self._trends.get(half_life_days, (-FRESH_SECONDS, None))
            if trends is None or time.monotonic() - read_at > FRESH_SECONDS:
                read_at = time.monotonic()
                with reading(self._engine) as connection:
                    trends = read_trends(connection, half_life_days)
                if len(self._trends) >= MAX_KEPT:
                    self._trends = {}
                self._trends[half_life_days] = (read_at, trends)
            ranking = trending_items(recommender, trends, half_life_days, order)
            if len(self._rankings) >= MAX_KEPT:
                self._rankings = {}
            self._rankings[recommender.number, half_life_days, order, read_at] = ranking
            return ranking


def _aligned(catalogue: Catalogue, trends: Trends) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the trend of every item of a catalogue: (n_items,), 0 without recent ratings."""
    found = positions(trends.item_keys, catalogue.item_keys)
    return np.where(found >= 0, np.append(trends.weights, 0.0)[found], 0.0)
