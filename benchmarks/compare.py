"""This project and others on the same folds, one process after another, every answer measured by one evaluator.

    python -m benchmarks.compare [--quick] [--large] [--out benchmarks/results.md]

The others run in an environment of their own, which `make bench` makes from `benchmarks/peers.txt`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import data
from benchmarks.case import RELEVANT_FROM, Case, K, Run, read_case
from benchmarks.metrics import ranking_metrics, rating_metrics
from benchmarks.ours import FAST, LARGE, THROUGHPUT
from benchmarks.report import Outcome, Section, document, machine, number, side_by_side, spread, table

ROOT = Path(__file__).parents[1]

LABELS = {
    "rating": "**ours**",
    "ranking": "**ours**",
    "rating-neural": "**ours, neural**",
    "surprise-svd": "Surprise SVD",
    "surprise-svdpp": "Surprise SVD++",
    "cmfrec": "cmfrec",
    "lenskit-biasedmf": "LensKit BiasedMF",
    "ease": "EASE",
    "implicit-als": "implicit ALS",
    "implicit-bpr": "implicit BPR",
    "lenskit-itemknn": "LensKit ItemKNN",
    "most-popular": "most popular",
}
RATING = ["rating", "surprise-svd", "cmfrec", "lenskit-biasedmf"]
OURS = ["rating", "rating-neural", "ranking"]
RANKING = ["ranking", "ease", "implicit-als", "implicit-bpr", "lenskit-itemknn", "most-popular"]

TARGETS = {"surprise": ("surprise-svd", 0.8724), "cmfrec": ("cmfrec", 0.8521)}
"""What each of `ours.FAST` is to reach on MovieLens 1M: whose accuracy, and the RMSE it was fixed at."""

SECONDS, MEMORY = "training, s", "peak memory, MiB"

_LIMIT_SECONDS = 900
"""No run takes longer on two cores by far; one that hangs must not hold up the others."""

Measure = Callable[[Case, Any], dict[str, float]]


class RunFailedError(Exception):
    """A process ended without an answer."""


@dataclass(slots=True)
class Runner:
    """Starts runs one after another and says on standard error how far it is.

    Attributes:
        peers: Python of the peers' environment.
        folder: for answers on their way.
        n_runs: how many there will be.
        versions: of the libraries that ran, by environment.
    """

    peers: Path
    folder: Path
    n_threads: int
    n_runs: int
    console: Console
    done: int = 0
    versions: dict[str, dict[str, str]] = field(default_factory=lambda: {"ours": {}, "peers": {}})

    def run(self, name: str, case: Path, seed: int, *, is_ours: bool) -> tuple[Run, Any]:
        """One run in a process of its own.

        Raises:
            RunFailedError: it ended without an answer.
        """
        python, module = (sys.executable, "ours") if is_ours else (str(self.peers), "peers")
        answer = self.folder / "answer.npy"
        answer.unlink(missing_ok=True)
        self.done += 1
        where = f"[{self.done}/{self.n_runs}] {case.stem} · {name} · seed {seed}"
        command = [python, "-m", f"benchmarks.{module}", name, str(case), str(answer), "--seed", str(seed)]
        try:
            ended = subprocess.run(
                command, cwd=ROOT, env=self._environment(), capture_output=True, text=True, timeout=_LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise self._failed(where, f"no answer within {_LIMIT_SECONDS} s") from error
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            raise self._failed(where, said[-1])
        result = Run(**json.loads(ended.stdout.strip().splitlines()[-1]))
        self.versions["ours" if is_ours else "peers"].update(result.versions)
        self.console.print(f"{where}: {result.seconds:.2f} s", markup=False)
        return result, np.load(answer)

    def _failed(self, where: str, why: str) -> RunFailedError:
        self.console.print(f"{where}: failed: {why}", markup=False)
        return RunFailedError(why)

    def _environment(self) -> dict[str, str]:
        limits = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "RAYON")
        threads = {f"{name}_NUM_THREADS": str(self.n_threads) for name in limits}
        lenskit = {"LK_NUM_THREADS": str(self.n_threads), "LK_NUM_BACKEND_THREADS": "1", "LK_NUM_PROCS": "1"}
        return {**os.environ, **threads, **lenskit}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models on one data set.

    Attributes:
        parts: for each seed the files of the cases whose mean is that seed's value.
        measure: what is made of an answer.
    """

    title: str
    note: str
    models: list[str]
    parts: dict[int, list[Path]]
    measure: Measure

    @property
    def n_runs(self) -> int:
        return len(self.models) * sum(len(cases) for cases in self.parts.values())


def compared(comparison: Comparison, runner: Runner) -> dict[str, Outcome]:
    """Outcomes by model. Seed by seed, so that a slow hour of the machine is everybody's."""
    outcomes = {name: Outcome(LABELS[name]) for name in comparison.models}
    for seed, cases in comparison.parts.items():
        for name, outcome in outcomes.items():
            try:
                figures = [_figures(comparison, runner, name, case, seed) for case in cases]
            except (RunFailedError, ValueError) as error:
                outcome.failure = str(error)
                continue
            outcome.add({figure: mean(each[figure] for each in figures) for figure in figures[0]})
    return outcomes


def _figures(comparison: Comparison, runner: Runner, name: str, case: Path, seed: int) -> dict[str, float]:
    run, answer = runner.run(name, case, seed, is_ours=name in OURS)
    return {**comparison.measure(read_case(case), answer), SECONDS: run.seconds, MEMORY: run.peak_mib}


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to be run."""

    comparisons: list[Comparison]
    one_million: Path | None
    throughput: Path
    seeds: list[int]
    large: Path | None

    @property
    def n_runs(self) -> int:
        fast = len(FAST) * len(self.seeds) if self.one_million else 0
        return sum(each.n_runs for each in self.comparisons) + fast + 1 + (self.large is not None)


def quick_plan(source: Path, folder: Path) -> Plan:
    """MovieLens 100K u1, one seed, a few models: whether all of it works."""
    u1 = data.ml_100k(1, source).save(folder / "ml-100k-u1.npz")
    rating = Comparison("MovieLens 100K, u1", "", ["rating", "surprise-svd", "cmfrec"], {0: [u1]}, rating_metrics)
    lists = Comparison(
        "Lists, MovieLens 100K, u1", "", ["ranking", "implicit-als", "most-popular"], {0: [u1]}, ranking_metrics
    )
    return Plan([rating, lists], None, u1, [0], None)


def full_plan(source: Path, folder: Path, n_large: int | None) -> Plan:
    folds = [data.ml_100k(fold, source).save(folder / f"ml-100k-u{fold}.npz") for fold in range(1, 6)]
    splits = {
        seed: [data.ml_100k_random(seed, source).save(folder / f"ml-100k-random-{seed}.npz")] for seed in range(5)
    }
    one_million = data.ml_1m(source).save(folder / "ml-1m.npz")
    seeds = [0, 1, 2]
    relevant = f"{RELEVANT_FROM:g} or more"
    comparisons = [
        Comparison(
            "Ratings: MovieLens 100K, u1 … u5",
            "Means over the five official folds; three seeds.",
            [*RATING, "surprise-svdpp"],
            dict.fromkeys(seeds, folds),
            rating_metrics,
        ),
        Comparison(
            "Ratings: MovieLens 100K, random 80/20",
            "Five random splits, each with a seed of its own.",
            [*RATING, "rating-neural", "surprise-svdpp"],
            splits,
            rating_metrics,
        ),
        Comparison(
            "Ratings: MovieLens 1M",
            "Trained on folds 2–5, measured on fold 1; three seeds.",
            RATING,
            {seed: [one_million] for seed in seeds},
            rating_metrics,
        ),
        Comparison(
            "Lists: MovieLens 1M",
            f"Trained on every rating of folds 2–5 as an interaction, measured on those of fold 1 of {relevant}; the "
            f"whole catalogue is ranked, without what the user has in training. Lists of {K}, recall over min({K}, "
            "relevant), coverage the share of the catalogue that is in somebody's list, novelty the mean of −log2 of "
            "the share of users who have the listed item; three seeds.",
            RANKING,
            {seed: [one_million] for seed in seeds},
            ranking_metrics,
        ),
    ]
    large = data.generated(n_large).save(folder / "generated.npz") if n_large else None
    return Plan(comparisons, one_million, one_million, seeds, large)


def sections(plan: Plan, runner: Runner) -> list[Section]:
    outcomes = [compared(each, runner) for each in plan.comparisons]
    result = [
        Section(each.title, each.note, side_by_side(list(by_model.values())))
        for each, by_model in zip(plan.comparisons, outcomes, strict=True)
    ]
    if plan.one_million:
        rated = next(by_model for by_model in outcomes if "surprise-svdpp" not in by_model and "rating" in by_model)
        fast = {name: _fast(name, plan.one_million, plan.seeds, runner) for name in FAST}
        result.append(time_to_quality(fast, rated))
    result.append(_throughput(plan.throughput, runner))
    if plan.large:
        result.append(_large(plan.large, runner))
    return result


def _fast(name: str, path: Path, seeds: list[int], runner: Runner) -> Outcome:
    outcome = Outcome(name)
    for seed in seeds:
        try:
            run, answer = runner.run(name, path, seed, is_ours=True)
        except RunFailedError as error:
            outcome.failure = str(error)
            continue
        outcome.add({**rating_metrics(read_case(path), answer), SECONDS: run.seconds})
    return outcome


def time_to_quality(fast: dict[str, Outcome], rated: dict[str, Outcome]) -> Section:
    """Seconds of one training that is as accurate as another library, beside that library's seconds.

    Args:
        fast: ours by the name of its settings in `ours.FAST`.
        rated: the other models on the same data in the same run, by name.
    """
    rows, failures = [], []
    for name, (peer, target) in TARGETS.items():
        ours, theirs = fast[name], rated[peer]
        failures += [f"{each.label} failed: {each.failure}" for each in (ours, theirs) if each.failure]
        if not (ours.values and theirs.values):
            continue
        ratio = median(theirs.values[SECONDS]) / median(ours.values[SECONDS])
        rows.append(
            [
                f"{theirs.label}, RMSE ≤ {number(target, 'RMSE')}",
                "yes" if max(ours.values["RMSE"]) <= target else "no",
                spread(ours.values["RMSE"], "RMSE"),
                spread(ours.values[SECONDS], SECONDS),
                spread(theirs.values["RMSE"], "RMSE"),
                spread(theirs.values[SECONDS], SECONDS),
                f"{ratio:.2f}",
            ]
        )
    head = ["as good as", "reached by every seed", "our RMSE", "our s", "their RMSE", "their s", "their s / our s"]
    settings = "; ".join(f"{name}: {_settings(overrides)}" for name, overrides in FAST.items())
    return Section(
        "Speed: time to quality",
        "MovieLens 1M as above: one training with settings fixed beforehand on a validation part of the training "
        f"folds, against the other library's training in this run. Beside the defaults: {settings}.",
        "\n\n".join([table(head, rows), *failures]),
    )


def _throughput(path: Path, runner: Runner) -> Section:
    title = "Speed: throughput"
    try:
        run, _ = runner.run("throughput", path, 0, is_ours=True)
    except RunFailedError as error:
        return Section(title, "", f"failed: {error}")
    n_ratings = len(read_case(path).rating)
    rates = [n_ratings / seconds for seconds in run.epoch_seconds]
    return Section(
        title,
        f"{n_ratings:,} ratings, {_settings(THROUGHPUT)}; the median over epochs but the first.",
        f"**{median(rates):,.0f} ratings/s** ({min(rates):,.0f}–{max(rates):,.0f})",
    )


def _large(path: Path, runner: Runner) -> Section:
    case = read_case(path)
    n_ratings, shape = len(case.rating), f"{case.n_users:,} users × {case.n_items:,} items"
    del case
    title, note = f"Speed: {n_ratings / 1e6:g} million ratings", f"Generated, {shape}; {_settings(LARGE)}; one run."
    try:
        run, _ = runner.run("large", path, 0, is_ours=True)
    except RunFailedError as error:
        return Section(title, note, f"failed: {error}")
    rate = n_ratings / median(run.epoch_seconds)
    row = [f"{run.seconds:.1f}", f"{rate:,.0f}", number(run.peak_mib, MEMORY)]
    return Section(title, note, table([SECONDS, "ratings/s", MEMORY], [row]))


def _settings(overrides: dict[str, object]) -> str:
    return ", ".join(f"`{name}` {value}" for name, value in overrides.items())


def preface(runner: Runner) -> str:
    def listed(versions: dict[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))

    return "\n\n".join(
        [
            "Written by `make bench`: each run is a process of its own, one after another, with at most "
            f"{runner.n_threads} threads, and one evaluator reads everybody's answers. Medians over the seeds, lowest "
            "and highest in brackets. Our settings are the defaults for the number of ratings, theirs are named in "
            "`benchmarks/peers.py`. Training is the library's own fit on data in memory; the peak of memory is of the "
            "whole process until the end of training, imports included.",
            f"Machine: {machine()}.",
            f"Ours: {listed(runner.versions['ours'])}. Theirs: {listed(runner.versions['peers'])}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="This project and others on the same folds.")
    parser.add_argument("--quick", action="store_true", help="MovieLens 100K u1, one seed, a few models")
    parser.add_argument("--large", action="store_true", help="also train on generated ratings")
    parser.add_argument("--ratings", type=int, default=25_000_000, help="how many --large generates")
    parser.add_argument("--data", type=Path, default=data.SHARED_DATA, help="folder of ml-100k.zip and ml-1m/")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="the peers' environment")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results.md")
    given = parser.parse_args()
    if given.quick and given.out == parser.get_default("out"):
        parser.error("--quick is no result: name another file with --out")
    python = given.peers.absolute() / "bin" / "python"
    if not python.exists():
        parser.error(f"there is no environment of the peers in {given.peers}; `make bench` makes it")
    console = Console(stderr=True, soft_wrap=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            if given.quick:
                plan = quick_plan(given.data, folder)
            else:
                plan = full_plan(given.data, folder, given.ratings if given.large else None)
        except data.DataMissingError as error:
            console.print(str(error), markup=False)
            sys.exit(1)
        runner = Runner(python, folder, given.threads, plan.n_runs, console)
        found = sections(plan, runner)
    given.out.write_text(document("Measured beside others", preface(runner), found))
    console.print(f"written to {given.out}", markup=False)


if __name__ == "__main__":
    main()
