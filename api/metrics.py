"""Prometheus metrics: requests by route and status, their duration, and the live models."""

import os
import time
from bisect import bisect_left
from pathlib import Path
from threading import Lock

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from sqlalchemy import Pool, QueuePool

from recsys.database.alarms import Alarms
from recsys.serving.refresh import LiveRecommender

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that names the folder in which several worker processes add up their metrics."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one process, or of all processes that share a folder."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._is_shared = FOLDER in os.environ
        if self._is_shared:  # a process that starts later finds it gone where old temporary files are removed
            os.makedirs(os.environ[FOLDER], exist_ok=True)
        self._requests = Counter(
            "recsys_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "recsys_request_seconds",
            "Duration of requests, in seconds.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._version = Gauge(
            "recsys_model_version",
            "Number of the live version in memory.",
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
            "1 if the database cannot be read or written.",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._in_progress = Gauge(
            "recsys_requests_in_progress",
            "Requests in progress.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._lists = Counter(
            "recsys_lists", "Lists of single users and of popular items.", ("source",), registry=self._registry
        )
        self._states = Counter(
            "recsys_user_cache_reads",
            "States of users that were asked for: `hit` from memory, `miss` from the database.",
            ("result",),
            registry=self._registry,
        )
        self._shed = Counter("recsys_requests_shed", "Requests that were refused unread.", registry=self._registry)
        self._breaker = self._of_process("recsys_breaker_open", "Processes that refuse a database that hangs.")
        self._cached = self._of_process("recsys_user_cache_users", "Users in memory.")
        self._cached_bytes = self._of_process("recsys_user_cache_bytes", "Memory of users, in bytes.")
        self._connections = self._of_process(
            "recsys_database_connections", "Connections to the database: `used` or `idle`.", "state"
        )
        self._lock = Lock()
        self.sources: dict[str, int] = {}
        self._noted = {"hit": 0, "miss": 0}
        # The state of the database is the same for all processes: the newest value that one of them read counts.
        self._jobs = {
            name: self._of_database(f"recsys_job_{name}", text, "job")
            for name, text in (
                ("last_attempt_timestamp_seconds", "When the job was last started, in Unix time."),
                ("last_success_timestamp_seconds", "When the job last succeeded, in Unix time."),
                ("last_exit_code", "Exit code of the last run of the job."),
            )
        }
        self._gate = self._of_database(
            "recsys_gate_passed", "1 if the gate passed the newest version, else 0.", "objective"
        )
        self._versions = self._of_database("recsys_model_versions", "Number of stored versions.", "objective")
        self._data_age = self._of_database(
            "recsys_model_data_age_seconds",
            "Seconds since the newest rating that the live version has seen.",
            "objective",
        )
        self._bytes = self._of_database("recsys_database_bytes", "Size of the database.")
        self._ratings = self._of_database("recsys_ratings", "Number of ratings.")
        # (method, route, status) → the number of requests in each bucket of `BUCKETS` and above, and their seconds.
        self._answered: dict[tuple[str, str, int], list[float]] = {}

    def _of_database(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry, multiprocess_mode="livemostrecent")

    def _of_process(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry, multiprocess_mode="livesum")

    def count_list(self, source: str) -> None:
        """Count a list; the counter follows with `update_process`, which is cheaper for a request."""
        self.sources[source] = self.sources.get(source, 0) + 1

    def update_process(self, live: LiveRecommender, pool: Pool, n_shed: int, *, is_open: bool) -> None:
        """Bring the figures of this process up to date. Each process does so by itself, several times a second.

        Args:
            pool: of the connections to the database.
            n_shed: requests that were refused unread since the last time.
            is_open: whether the breaker is.
        """
        self._flush_requests()
        with self._lock:
            sources, self.sources = self.sources, {}
            for source, n in sources.items():
                self._lists.labels(source).inc(n)
            self._shed.inc(n_shed)
            for result, n in (("hit", live.users.n_hits), ("miss", live.users.n_misses)):
                self._states.labels(result).inc(n - self._noted[result])
                self._noted[result] = n
        self._breaker.set(int(is_open))
        self._cached.set(len(live.users))
        self._cached_bytes.set(live.users.n_bytes)
        if isinstance(pool, QueuePool):
            self._connections.labels("used").set(pool.checkedout())
            self._connections.labels("idle").set(pool.checkedin())

    def update_alarms(self, alarms: Alarms) -> None:
        """Set the gauges of jobs, versions and the database."""
        self._bytes.set(alarms.n_bytes)
        self._ratings.set(alarms.n_ratings)
        for job, ends in alarms.jobs.items():
            for name, key, unit in (
                ("last_attempt_timestamp_seconds", "attempt", 1000),
                ("last_success_timestamp_seconds", "success", 1000),
                ("last_exit_code", "exit_code", 1),
            ):
                if key in ends:
                    self._jobs[name].labels(job).set(ends[key] / unit)
        for objective, n_versions in alarms.n_versions.items():
            self._versions.labels(objective).set(n_versions)
            self._gate.labels(objective).set(int(alarms.gate_passed[objective]))
        for objective, seen_at in alarms.newest_data_at.items():
            self._data_age.labels(objective).set(round(time.time() - seen_at / 1000, 1))

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request that was answered; the metrics follow with `update_process`, or at once where another
        process may be asked for them."""
        with self._lock:
            counts = self._answered.get((method, route, status))
            if counts is None:
                counts = self._answered[method, route, status] = [0.0] * (len(BUCKETS) + 2)
            counts[bisect_left(BUCKETS, seconds)] += 1
            counts[-1] += seconds
        if self._is_shared:
            self._flush_requests()

    def _flush_requests(self) -> None:
        """Add the requests since the last call to the metrics."""
        with self._lock:
            answered, self._answered = self._answered, {}
        for (method, route, status), (*counts, seconds) in answered.items():
            self._requests.labels(method, route, str(status)).inc(sum(counts))
            histogram = self._seconds.labels(method, route)
            histogram._sum.inc(seconds)  # it has no method for many observations at once
            for bucket, n in zip(histogram._buckets, counts, strict=True):
                if n:
                    bucket.inc(n)

    def update(self, live: LiveRecommender, n_in_progress: int, *, is_degraded: bool) -> None:
        """Set the gauges: the versions in memory, the requests in progress, and whether the service is degraded."""
        self._degraded.set(1 if is_degraded else 0)
        self._in_progress.set(n_in_progress)
        if not live.loaded:
            return
        for objective, model in live.current.models.items():
            self._version.labels(objective).set(model.number)
            self._age.labels(objective).set(round(time.time() - model.version.created_at / 1000, 1))

    def page(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        self._flush_requests()
        if not self._is_shared:
            return generate_latest(self._registry)
        forget_dead_processes(Path(os.environ[FOLDER]))
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return generate_latest(shared)

    def close(self) -> None:
        """Remove the gauges of this process from the shared folder."""
        if self._is_shared:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


def forget_dead_processes(folder: Path) -> None:
    """Remove the gauges of processes that were killed, and so did not do it themselves: what they counted stays."""
    for number in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}:
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            mark_process_dead(number)  # type: ignore[no-untyped-call]
        except (ValueError, PermissionError):  # not ours to judge
            continue
