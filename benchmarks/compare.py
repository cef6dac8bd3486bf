"""Compare this project with others on the same folds: one process per run, one evaluator for all.

    python -m benchmarks.compare [--quick] [--large] [--out benchmarks/results.md]

The other libraries run in an environment of their own, which `make bench` creates from `benchmarks/peers.txt`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console

from benchmarks import data
from benchmarks.case import RELEVANT_FROM, Case, K, read_case
from benchmarks.metrics import ranking_metrics, rating_metrics
from benchmarks.ours import FAST, LARGE, THROUGHPUT
from benchmarks.report import (
    ModelFigures,
    Section,
    comparison_table,
    describe_machine,
    format_figure,
    format_range,
    markdown_document,
    markdown_table,
)
from benchmarks.runner import ROOT, RunFailedError, Runner

LABELS = {
    "rating": "**ours**",
    "portfolio": "**ours**",
    "ranking": "**ours, dot**",
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
OURS = ["rating", "rating-neural", "portfolio", "ranking"]
RANKING = ["portfolio", "ranking", "ease", "implicit-als", "implicit-bpr", "lenskit-itemknn", "most-popular"]

TARGETS = {"surprise": ("surprise-svd", 0.8724), "cmfrec": ("cmfrec", 0.8521)}
"""Settings in `ours.FAST` → the peer whose accuracy they must reach on MovieLens 1M, and its RMSE."""

SECONDS, MEMORY = "training, s", "peak memory, MiB"

Measure = Callable[[Case, Any], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models on one data set.

    Attributes:
        title, note: heading and text of its section.
        models: names of runs.
        parts: seed → files of the cases, whose mean is the value of the seed.
        measure: function from a case and an answer to the figures.
    """

    title: str
    note: str
    models: list[str]
    parts: dict[int, list[Path]]
    measure: Measure

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(self.models) * sum(len(cases) for cases in self.parts.values())


def compare_models(comparison: Comparison, runner: Runner) -> dict[str, ModelFigures]:
    """Run all models of a comparison, and return their figures by name.

    All models run with one seed before the next seed, so that a slow period of the machine affects all alike.
    """
    models = {name: ModelFigures(LABELS[name]) for name in comparison.models}
    for seed, cases in comparison.parts.items():
        for name, model in models.items():
            figures = []
            try:
                for case in cases:
                    run, answer = runner.run(name, case, seed, is_ours=name in OURS)
                    measures = comparison.measure(read_case(case), answer)
                    figures.append({**measures, SECONDS: run.seconds, MEMORY: run.peak_mib})
            except (RunFailedError, ValueError) as error:
                model.failure = str(error)
                continue
            model.add({figure: mean(each[figure] for each in figures) for figure in figures[0]})
    return models


@dataclass(frozen=True, slots=True)
class Plan:
    """All runs of a benchmark.

    Attributes:
        comparisons: models on data sets.
        one_million: case of MovieLens 1M for the time to quality; None leaves it out.
        throughput: case for the throughput.
        seeds: of the time to quality.
        large: case of generated ratings; None leaves it out.
    """

    comparisons: list[Comparison]
    one_million: Path | None
    throughput: Path
    seeds: list[int]
    large: Path | None

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        fast = len(FAST) * len(self.seeds) if self.one_million else 0
        return sum(each.n_runs for each in self.comparisons) + fast + 1 + 2 * (self.large is not None)


def quick_plan(source: Path, folder: Path) -> Plan:
    """Return a plan that tests the benchmark: MovieLens 100K u1, one seed, a few models."""
    u1 = data.ml_100k(1, source).save(folder / "ml-100k-u1.npz")
    rating = Comparison("MovieLens 100K, u1", "", ["rating", "surprise-svd", "cmfrec"], {0: [u1]}, rating_metrics)
    lists = Comparison(
        "Lists, MovieLens 100K, u1", "", ["ranking", "implicit-als", "most-popular"], {0: [u1]}, ranking_metrics
    )
    return Plan([rating, lists], None, u1, [0], None)


def full_plan(source: Path, folder: Path, n_large: int | None) -> Plan:
    """Return the plan of the published results, with `n_large` generated ratings if given."""
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
            "Five random splits, each with its own seed.",
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
            "Trained on every rating of folds 2–5 as an interaction, measured on the ratings of fold 1 that are "
            f"{relevant}; the whole catalogue is ranked without the items of the user's training ratings. Lists "
            f"have {K} items, recall is relative to min({K}, relevant items), coverage is the share of the "
            "catalogue in at least one list, and novelty is the mean of −log2 of the share of users who rated "
            "the listed item; three seeds. Ours is what nightly would publish, with the choice between its candidates.",
            RANKING,
            {seed: [one_million] for seed in seeds},
            ranking_metrics,
        ),
    ]
    large = data.generated(n_large).save(folder / "generated.npz") if n_large else None
    return Plan(comparisons, one_million, one_million, seeds, large)


def run_plan(plan: Plan, runner: Runner) -> list[Section]:
    """Run a plan and return the sections of its document."""
    figures = [compare_models(each, runner) for each in plan.comparisons]
    sections = [
        Section(each.title, each.note, comparison_table(list(by_model.values())))
        for each, by_model in zip(plan.comparisons, figures, strict=True)
    ]
    if plan.one_million:
        rating_models = next(models for models in figures if "surprise-svdpp" not in models and "rating" in models)
        fast = {name: run_fast_settings(name, plan.one_million, plan.seeds, runner) for name in FAST}
        sections.append(time_to_quality(fast, rating_models))
    sections.append(throughput_section(plan.throughput, runner))
    if plan.large:
        sections.append(large_section(plan.large, runner))
    return sections


def run_fast_settings(name: str, path: Path, seeds: list[int], runner: Runner) -> ModelFigures:
    """Run one of `ours.FAST` with all seeds."""
    model = ModelFigures(name)
    for seed in seeds:
        try:
            run, answer = runner.run(name, path, seed, is_ours=True)
        except RunFailedError as error:
            model.failure = str(error)
            continue
        model.add({**rating_metrics(read_case(path), answer), SECONDS: run.seconds})
    return model


def time_to_quality(fast: dict[str, ModelFigures], rating_models: dict[str, ModelFigures]) -> Section:
    """Compare the seconds of a training that is as accurate as another library with the seconds of that library.

    Args:
        fast: settings in `ours.FAST` → figures of this project.
        rating_models: name → figures of the other models on the same data.
    """
    rows, failures = [], []
    for name, (peer, target) in TARGETS.items():
        ours, theirs = fast[name], rating_models[peer]
        failures += [f"{each.label} failed: {each.failure}" for each in (ours, theirs) if each.failure]
        if not (ours.values and theirs.values):
            continue
        ratio = median(theirs.values[SECONDS]) / median(ours.values[SECONDS])
        rows.append(
            [
                f"{theirs.label}, RMSE ≤ {format_figure(target, 'RMSE')}",
                "yes" if max(ours.values["RMSE"]) <= target else "no",
                format_range(ours.values["RMSE"], "RMSE"),
                format_range(ours.values[SECONDS], SECONDS),
                format_range(theirs.values["RMSE"], "RMSE"),
                format_range(theirs.values[SECONDS], SECONDS),
                f"{ratio:.2f}",
            ]
        )
    head = ["as accurate as", "reached by every seed", "our RMSE", "our s", "their RMSE", "their s", "their s / our s"]
    settings = "; ".join(f"{name}: {format_settings(overrides)}" for name, overrides in FAST.items())
    return Section(
        "Speed: time to quality",
        "MovieLens 1M as above: one training with settings chosen beforehand on a validation part of the training "
        f"folds, against the training of the other library in this run. Changes to the defaults: {settings}.",
        "\n\n".join([markdown_table(head, rows), *failures]),
    )


def throughput_section(path: Path, runner: Runner) -> Section:
    """Measure the ratings that this project trains on per second."""
    title = "Speed: throughput"
    try:
        run, _ = runner.run("throughput", path, 0, is_ours=True)
    except RunFailedError as error:
        return Section(title, "", f"failed: {error}")
    n_ratings = len(read_case(path).rating)
    rates = [n_ratings / seconds for seconds in run.epoch_seconds]
    return Section(
        title,
        f"{n_ratings:,} ratings, {format_settings(THROUGHPUT)}; the median over all epochs after the first.",
        f"**{median(rates):,.0f} ratings/s** ({min(rates):,.0f}–{max(rates):,.0f})",
    )


def large_section(path: Path, runner: Runner) -> Section:
    """Measure trainings of this project on many generated ratings."""
    case = read_case(path)
    n_ratings, shape = len(case.rating), f"{case.n_users:,} users × {case.n_items:,} items"
    del case
    title = f"Speed: {n_ratings / 1e6:g} million ratings"
    note = f"Generated, {shape}; {format_settings(LARGE)}; one run with and one without implicit terms."
    rows = []
    for name, label in (("large", "without"), ("large-implicit", "with")):
        try:
            run, _ = runner.run(name, path, 0, is_ours=True)
        except RunFailedError as error:
            return Section(title, note, f"{name} failed: {error}")
        rate = n_ratings / median(run.epoch_seconds)
        rows.append([label, f"{run.seconds:.1f}", f"{rate:,.0f}", format_figure(run.peak_mib, MEMORY)])
    return Section(title, note, markdown_table(["implicit terms", SECONDS, "ratings/s", MEMORY], rows))


def format_settings(overrides: dict[str, object]) -> str:
    """Return settings in Markdown."""
    return ", ".join(f"`{name}` {value}" for name, value in overrides.items())


def preface(runner: Runner) -> str:
    """Return the first paragraphs of the document: the method, the machine and the versions."""

    def join_versions(versions: dict[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))

    return "\n\n".join(
        [
            "Written by `make bench`. The runs are separate processes, one after another, with at most "
            f"{runner.n_threads} threads, and one evaluator measures all answers. Values are medians over the "
            "seeds, with the lowest and the highest in brackets. Our settings are the defaults for the number of "
            "ratings; the settings of the other libraries are in `benchmarks/peers.py`. The time is that of the "
            "fit on data in memory; the memory is the peak of the whole process until the end of training, "
            "imports included.",
            f"Machine: {describe_machine()}.",
            f"Ours: {join_versions(runner.versions['ours'])}. Theirs: {join_versions(runner.versions['peers'])}.",
        ]
    )


def main() -> None:
    """Run the benchmark of the command line and write its document."""
    parser = argparse.ArgumentParser(description="Compare this project with others on the same folds.")
    parser.add_argument("--quick", action="store_true", help="MovieLens 100K u1, one seed, a few models")
    parser.add_argument("--large", action="store_true", help="also train on generated ratings")
    parser.add_argument("--ratings", type=int, default=25_000_000, help="number of ratings that --large generates")
    parser.add_argument("--data", type=Path, default=data.SHARED_DATA, help="folder of ml-100k.zip and ml-1m/")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="environment of the other libraries")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results.md")
    options = parser.parse_args()
    if options.quick and options.out == parser.get_default("out"):
        parser.error("--quick gives no publishable result: choose another file with --out")
    python = options.peers.absolute() / "bin" / "python"
    if not python.exists():
        parser.error(f"{options.peers} has no environment of the other libraries: run `make bench`")
    console = Console(stderr=True, soft_wrap=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            if options.quick:
                plan = quick_plan(options.data, folder)
            else:
                plan = full_plan(options.data, folder, options.ratings if options.large else None)
        except data.DataMissingError as error:
            console.print(str(error), markup=False)
            sys.exit(1)
        runner = Runner(python, folder, options.threads, plan.n_runs, console)
        sections = run_plan(plan, runner)
    options.out.write_text(markdown_document("Comparison with other libraries", preface(runner), sections))
    console.print(f"written to {options.out}", markup=False)


if __name__ == "__main__":
    main()
