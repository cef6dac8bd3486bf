"""PostgreSQL that stops, freezes or ends connections while a job writes; then the job again, to the same outcome.

A failure names its seed; `RECSYS_CRASH_SEED=N` repeats that trial alone.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recsys.data import sample
from recsys.database import migration
from recsys.database.engine import connect
from tests.conftest import postgres_database
from tests.crash.child import SERVER_FAULTS
from tests.crash.test_crashes import MADE, do, fill, live_problem, outcome, release, report, seeds_of


class Trials:
    """A PostgreSQL server that may be stopped, with a filled database to copy."""

    def __init__(self, server: Any, template: str, folder: Path) -> None:
        self.server, self.template, self.folder = server, template, folder
        self.source = str(sample.write(folder / "made", MADE))
        self._oracles: dict[str, tuple[int, dict[str, Any]]] = {}

    def run(self, job: str, fault: str, seed: int) -> tuple[int, str | None]:
        """Run a job, with a fault of the server at a point that follows from the seed, and then again without.

        Returns:
            The exit code of the first run, and what is wrong then.
        """
        n_points, expected = self._oracle(job)
        at = random.Random(f"{job} {fault} {seed}").randint(1, n_points)
        where = f"{job}, {fault} at point {at} of {n_points} (seed {seed})"
        with postgres_database(self.server.get_uri(), self.template) as url:
            engine = connect(url)
            fault_of_server = {"server_fault": fault, "fault_at": at, "postmaster": self.server.get_pid()}
            code, _, errors = do(engine, self.folder, job, self._argument(job), **fault_of_server)
            self.server.ensure_postgres_running()
            if code not in (0, 1, 3):
                return code, f"{where}: it ended with {code}: {errors[-1000:]}"
            if job == "publish" and (problem := live_problem(engine)) is not None:
                return code, f"{where}: {problem}"
            release(engine)
            again, _, errors = do(engine, self.folder, job, self._argument(job))
            found = outcome(engine)
            engine.dispose()
        if again != 0:
            return code, f"{where}: the next run failed: {errors[-1000:]}"
        differs = [name for name in expected if name != "listed" and found[name] != expected[name]]
        return code, f"{where}: {differs} differ" if differs else None

    def _argument(self, job: str) -> object:
        return {"publish": 1, "load": self.source, "night": None}[job]

    def _oracle(self, job: str) -> tuple[int, dict[str, Any]]:
        """Number of points of a job that nothing disturbs, and its outcome."""
        if job not in self._oracles:
            with postgres_database(self.server.get_uri(), self.template) as url:
                engine = connect(url)
                code, output, errors = do(engine, self.folder, job, self._argument(job))
                assert code == 0, errors
                self._oracles[job] = int(output.split()[0]), outcome(engine)
                engine.dispose()
        return self._oracles[job]


@pytest.fixture(scope="module")
def trials(own_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    with postgres_database(own_server.get_uri()) as template:
        engine = connect(template)
        migration.upgrade(engine)
        fill(engine)
        engine.dispose()
        yield Trials(own_server, template, tmp_path_factory.mktemp("trials"))


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("job", "fault", "seed"),
    [
        ("publish", "stopped", 1),
        ("publish", "frozen", 1),
        ("night", "connections ended", 3),
        ("load", "connections ended", 5),
        pytest.param("publish", "connections ended", 1, marks=pytest.mark.long),
        pytest.param("night", "stopped", 3, marks=pytest.mark.long),
    ],
)
def test_a_job_survives_a_fault_of_the_server(trials: Trials, job: str, fault: str, seed: int) -> None:
    code, problem = trials.run(job, fault, seed)
    assert problem is None
    assert code in (0, 1)


@pytest.mark.crash
@pytest.mark.postgres
@pytest.mark.parametrize("fault", SERVER_FAULTS)
@pytest.mark.parametrize("job", ["publish", "load", "night"])
def test_faults_of_the_server_at_many_points(trials: Trials, job: str, fault: str) -> None:
    ended = [trials.run(job, fault, seed) for seed in seeds_of(5000, 40)]
    problems = [problem for _, problem in ended if problem is not None]
    n_failed = sum(code != 0 for code, _ in ended)
    report(f"{job}, PostgreSQL {fault}: {len(ended)} trials, {n_failed} failed, {len(problems)} inconsistencies")
    assert problems == []
