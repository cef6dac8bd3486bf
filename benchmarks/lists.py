"""Compare the lists that `recsys nightly` would publish with those of others, on many kinds of data.

    python -m benchmarks.lists [--kinds flat "MovieLens 100K"] [--models portfolio ease-100] [--out …]

Every kind of `benchmarks.stability.KINDS` and the snapshots of MovieTweetings are split by a hash of user and item: a
tenth of the ratings is the test part. Relevant are ratings of three quarters up the scale. Models are compared with
ours by the paired differences of the users' NDCG@10. A section of a kind that is not run is kept as it is in the file.
"""

import argparse
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.case import Case, K
from benchmarks.data import SHARED_DATA, DataMissingError
from benchmarks.metrics import ranking_metrics, user_metrics
from benchmarks.report import Section, describe_machine, format_figure, markdown_document, markdown_table
from benchmarks.runner import ROOT, RunFailedError, Runner
from benchmarks.stability import KINDS as GENERATED_AND_REAL
from benchmarks.stability import Columns, ordered, text_rows
from recsys.data.rating_scale import infer_scale, relevant_from
from recsys.evaluation.splits import hold_out

OURS = ["portfolio", "ranking", "item", "blend"]
MODELS = ["portfolio", "most-popular", "cosine", "rp3-beta", "implicit-als", "ease-100", "ease"]
LABELS = {
    "portfolio": "**ours**",
    "ranking": "ours, dot",
    "item": "ours, item",
    "blend": "ours, blend",
    "most-popular": "most popular",
    "cosine": "cosine kNN",
    "rp3-beta": "RP3β",
    "implicit-als": "implicit ALS",
    "implicit-bpr": "implicit BPR",
    "ease-100": "EASE λ 100",
    "ease": "EASE λ 1000",
}
RELEVANT = 5.0
"""Rating of the test items in a case: those that are not relevant are left out."""


def snapshot(n: str) -> Callable[[Path], Columns]:
    """Return the reader of a snapshot of MovieTweetings."""
    return lambda folder: text_rows(folder, "movietweetings-snapshots.zip", f"movietweetings/{n}/ratings.dat", "::")


KINDS: dict[str, Callable[[Path], Columns]] = {
    **{kind: read for kind, read in GENERATED_AND_REAL.items() if kind != "MovieLens 1M"},
    **{f"MovieTweetings {n}": snapshot(n) for n in ("10K", "20K", "30K", "40K")},
}
"""Kind of data → function of the folder of real ratings."""
IMPLICIT = ("Yelp2018", "Gowalla", "counts", "sessions", "unary")
"""Kinds whose values are weights of events."""


def split_case(columns: Columns, *, is_implicit: bool) -> Case:
    """Return ratings with a tenth of each user's held out, of which the relevant ones are the test part."""
    ratings = ordered(columns, 0)
    held_out = hold_out(ratings)
    relevant = is_implicit | (ratings.rating >= relevant_from(infer_scale(ratings.rating)))
    train, test = ratings.select(~held_out), ratings.select(held_out & relevant)
    return case_of(
        (train.user_idx, train.item_idx, train.rating),
        (test.user_idx, test.item_idx),
        train.n_users,
        train.n_items,
        is_implicit=is_implicit,
    )


def case_of(
    train: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]],
    test: tuple[NDArray[np.int32], NDArray[np.int32]],
    n_users: int,
    n_items: int,
    *,
    is_implicit: bool = False,
) -> Case:
    """Return a case of which every test item is relevant."""
    return Case(
        *train,
        test_user=test[0],
        test_item=test[1],
        test_rating=np.full(len(test[0]), RELEVANT, np.float32),
        n_users=n_users,
        n_items=n_items,
        is_implicit=is_implicit,
    )


def compare_lists(kind: str, case: Case, models: Sequence[str], runner: Runner) -> Section:
    """Run the models on a case, and return their figures as a section."""
    path = case.save(runner.folder / f"{re.sub('[^A-Za-z0-9]+', '-', kind)}.npz")
    rows: list[list[str]] = []
    failures: list[str] = []
    ours: NDArray[np.float64] | None = None
    for name in models:
        try:
            run, lists = runner.run(name, path, 0, is_ours=name in OURS)
            figures, (ndcg, _) = ranking_metrics(case, lists), user_metrics(case, lists)
        except (RunFailedError, ValueError) as error:
            failures.append(f"{LABELS[name]} failed: {error}")
            continue
        ours = ndcg if ours is None else ours
        label = f"{LABELS[name]} ({run.note})" if run.note else LABELS[name]
        rows.append(
            [
                label,
                format_figure(figures[f"NDCG@{K}"], ""),
                "" if ndcg is ours else format_difference(ours - ndcg),
                "" if ndcg is ours else format_share(ours, ndcg),
                format_figure(figures[f"recall@{K}"], ""),
                format_figure(figures["coverage"], ""),
                format_figure(run.seconds, ", s"),
            ]
        )
    first = LABELS[models[0]].strip("*")
    head = ["", f"NDCG@{K}", f"{first} − this", "lower bound", f"recall@{K}", "coverage", "training, s"]
    note = (
        f"{len(case.user):,} ratings of {len(np.unique(case.user)):,} users and {len(np.unique(case.item)):,} items; "
        f"lists of {len(case.list_users):,} users."
    )
    return Section(kind, note, "\n\n".join([markdown_table(head, rows), *failures]))


def format_difference(difference: NDArray[np.float64]) -> str:
    """Return the mean and the standard error of paired differences: `+.0123 ± .0010`."""
    mean, error = difference.mean(), difference.std() / max(len(difference), 1) ** 0.5
    sign = "−" if mean < 0 else "+"
    return f"{sign}{format_figure(abs(mean), '')} ± {format_figure(error, '')}"


def format_share(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> str:
    """Return the mean difference less two standard errors, as a share of the other model's mean: `−1.2 %`."""
    difference = ours - theirs
    bound = difference.mean() - 2 * difference.std() / max(len(difference), 1) ** 0.5
    return "" if not theirs.mean() else f"{100 * bound / theirs.mean():+.1f} %".replace("-", "−")


def kept_sections(path: Path, kinds: Sequence[str]) -> dict[str, Section]:
    """Return the sections of a document that was written before, but those of `kinds`."""
    if not path.exists():
        return {}
    parts = [part.partition("\n") for part in path.read_text().split("\n## ")[1:]]
    return {title: Section(title, "", body.strip()) for title, _, body in parts if title not in kinds}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line and write its tables."""
    parser = argparse.ArgumentParser(description="Lists on many kinds of data, beside those of others.")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--models", nargs="+", choices=list(LABELS), default=MODELS, help="compared with the first")
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the real ratings")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers", help="environment of the other libraries")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results-lists.md")
    options = parser.parse_args(arguments)
    python = options.peers.absolute() / "bin" / "python"
    console = Console(stderr=True, soft_wrap=True)
    sections = kept_sections(options.out, options.kinds)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(python, Path(folder), options.threads, len(options.kinds) * len(options.models), console)
        for kind in options.kinds:
            try:
                case = split_case(KINDS[kind](options.data), is_implicit=kind in IMPLICIT)
            except DataMissingError as error:
                console.print(f"{kind} is left out: {error}", markup=False)
                continue
            sections[kind] = compare_lists(kind, case, options.models, runner)
            ordered_sections = [sections[name] for name in KINDS if name in sections]
            options.out.write_text(markdown_document("Lists on many kinds of data", preface(), ordered_sections))
    console.print(f"written to {options.out}", markup=False)


def preface() -> str:
    """Return the first paragraphs of the document."""
    return "\n\n".join(
        [
            "Written by `make bench-lists`. Ours is what `recsys nightly` would publish with the defaults: the "
            "architecture is chosen on a validation part of the training part (in brackets, with what was found), and "
            "trained on all of it; the seconds are of both. The settings of the others are in `benchmarks/peers.py`. "
            "The differences are the means over users, with the standard error; the lower bound is the difference "
            "less two standard errors, as a share of the other model's NDCG@10. EASE sees the 6,000 most rated items.",
            f"Machine: {describe_machine()}.",
        ]
    )


if __name__ == "__main__":
    main()
