"""Prometheus metrics: requests by route and status, how long they took, and the model that answers."""

import os
import time

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from recsys.serving.refresh import LiveRecommender

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder in which several worker processes add up their numbers."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The numbers of one process; of all, where they share a folder."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        several = FOLDER in os.environ
        self._requests = Counter(
            "recsys_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "recsys_request_seconds",
            "How long requests took, in seconds.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._version = Gauge(
            "recsys_model_version",
            "Number of the live version that is in memory.",
            ("objective",),
            registry=self._registry,
            multiprocess_mode="livemin",
        )
        self._age = Gauge(
            "recsys_model_age_seconds",
            "Seconds since that version was trained.",
            ("objective",),
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._degraded = Gauge(
            "recsys_degraded",
            "1 where the database cannot be reached.",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._busy = Gauge(
            "recsys_requests_in_progress",
            "Requests being worked on.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._several = several
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note one request."""
        known = self._children.get((method, route, status))
        if known is None:
            known = (self._requests.labels(method, route, str(status)), self._seconds.labels(method, route))
            self._children[method, route, status] = known
        known[0].inc()
        known[1].observe(seconds)

    def look_at(self, live: LiveRecommender, n_busy: int) -> None:
        """Note which versions are in memory, and what is being worked on."""
        self._degraded.set(1 if live.problem else 0)
        self._busy.set(n_busy)
        if not live.loaded:
            return
        for objective, model in live.current.models.items():
            self._version.labels(objective).set(model.number)
            self._age.labels(objective).set(round(time.time() - model.version.created_at / 1000, 1))

    def page(self) -> bytes:
        """All numbers as Prometheus reads them."""
        if not self._several:
            return generate_latest(self._registry)
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all)  # type: ignore[no-untyped-call]
        return generate_latest(of_all)

    def close(self) -> None:
        """Say that this process answers no more."""
        if self._several:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
