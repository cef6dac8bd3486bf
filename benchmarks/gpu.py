"""Measure the ratings per second that a device trains on beside the bound of its memory, and its time to quality.

    python -m benchmarks.gpu [--device cuda] [--ratings 25000000] [--out benchmarks/results-gpu.md]

Appends a section to the file. With `--device cpu` and few ratings it tests the benchmark itself.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console

from benchmarks import data
from benchmarks.case import Case
from benchmarks.metrics import rating_metrics
from benchmarks.ours import FAST, epoch_seconds, predictions, ratings, train_case
from benchmarks.report import Section, describe_machine, format_range, markdown_document, markdown_table
from recsys.training.build import build
from recsys.training.config import default_config
from recsys.training.fit import fit
from recsys.training.loop import train_step

TITLE = "Measured on a device"

SECONDS = "seconds, s"
N_COPIES = 10


def bytes_per_rating(n_factors: int, n_rows: int, batch_size: int) -> float:
    """Return the bytes of memory traffic per rating, if no cache serves any of it.

        16 (f + 1) + 12 + 32 · n_rows · (f + 1) / batch_size

    The rows of the user and of the item, f factors and a bias of 4 bytes each, are gathered twice: for the score and
    for the gradient of the other row. Indices and rating are read once. Once per step and row, the gradient is written
    (the sum over the batch stays on the chip), cleared, and read by AdamW, which also reads and writes the parameter,
    its mean and its variance: 8 times 4 bytes.

    Args:
        n_factors: f.
        n_rows: number of users and items.
        batch_size: ratings per step.
    """
    width = n_factors + 1
    return 16 * width + 12 + 32 * n_rows * width / batch_size


def copy_bandwidth(device: torch.device, n_bytes: int) -> float:
    """Return the bytes read and written per second while a large tensor is copied: the best of several copies."""
    source = torch.ones(max(1, n_bytes // 4), device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(N_COPIES):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * source.nbytes / best


def throughput(case: Case, n_factors: int, batch_size: int, *, n_epochs: int, device: torch.device) -> float:
    """Return the ratings trained on per second: the median over all epochs after the first."""
    config = default_config(
        "rating",
        len(case.rating),
        n_factors=n_factors,
        batch_size=batch_size,
        n_epochs=n_epochs,
        implicit=False,
    )
    fitted = fit(ratings(case), config, device=device.type)
    return len(case.rating) / median(epoch_seconds(fitted))


def throughputs(
    case: Case,
    factors: Sequence[int],
    batch_sizes: Sequence[int],
    *,
    n_epochs: int,
    device: torch.device,
    bandwidth: float,
    console: Console,
) -> Section:
    """Measure the throughput of each number of factors and batch size beside the bound."""
    rows = []
    for n_factors in factors:
        for batch_size in batch_sizes:
            rate = throughput(case, n_factors, batch_size, n_epochs=n_epochs, device=device)
            traffic = bytes_per_rating(n_factors, case.n_users + case.n_items, batch_size)
            bound = bandwidth / traffic
            console.print(f"{n_factors} factors, batches of {batch_size:,}: {rate:,.0f} ratings/s", markup=False)
            figures = [f"{n_factors}", f"{batch_size:,}", f"**{rate / 1e6:.2f} M**"]
            rows.append([*figures, f"{traffic:,.0f}", f"{bound / 1e6:,.2f} M", f"{rate / bound:.0%}"])
    head = ["factors", "batch", "ratings/s", "bytes/rating", "bound, ratings/s", "share of bound"]
    return Section(
        "Throughput",
        f"{len(case.rating):,} generated ratings, {case.n_users:,} users × {case.n_items:,} items, dot product "
        f"with biases, without implicit terms; the median over {n_epochs - 1} epochs after the first. Copying a "
        f"large tensor moves {bandwidth / 1e9:,.0f} GB/s. The bound is this bandwidth divided by 16 (f + 1) + 12 "
        "+ 32 · rows · (f + 1) / batch bytes per rating: the rows gathered for score and gradient, indices and "
        "rating, and once per step the gradient and AdamW's state of every row. It assumes that every row comes "
        "from memory; with a cache the throughput may exceed it.",
        markdown_table(head, rows),
    )


def exact_softmax(n_rows: int, n_factors: int, *, n_steps: int, device: torch.device, console: Console) -> Section:
    """Measure an epoch of the exact softmax over a large catalogue, from a few of its steps.

    Args:
        n_rows: number of users, and of items; each user has about 20 items.
        n_steps: steps that are measured, after two others.
    """
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(n_rows, dtype=np.int64), 20)
    drawn = (n_rows * random.random(len(user)) ** 2).astype(np.int64)  # popularity falls off
    pair = np.unique(user * n_rows + drawn)
    item = np.unique(pair % n_rows, return_inverse=True)[1].astype(np.int32)
    train = Case(
        user=(pair // n_rows).astype(np.int32),
        item=item,
        rating=np.ones(len(pair), np.float32),
        test_user=np.empty(0, np.int32),
        test_item=np.empty(0, np.int32),
        test_rating=np.empty(0, np.float32),
        n_users=n_rows,
        n_items=int(item.max()) + 1,
    )
    config = default_config(
        "ranking", len(pair), n_rows, n_factors=n_factors, n_sampled=0, implicit=False, implicit_dropout=0.0
    )
    run = build(ratings(train), config, None, torch.Generator(device).manual_seed(0))
    run.start_epoch()
    seconds = []
    for step in range(min(n_steps + 2, run.steps_per_epoch)):
        synchronize(device)
        started = time.perf_counter()
        start = step * run.batch_units
        train_step(run, start, min(start + run.batch_units, run.loss.n_units), 1e-3, 0.9)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    epoch = median(seconds[2:] or seconds) * run.steps_per_epoch
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    console.print(f"exact softmax over {train.n_items:,} items: {epoch:.1f} s an epoch", markup=False)
    row = [f"{n_rows:,}", f"{train.n_items:,}", f"{n_factors}", f"{run.steps_per_epoch:,}", f"**{epoch:.1f}**"]
    return Section(
        "Exact softmax",
        "An epoch of the ranking objective with the softmax over the whole catalogue, without implicit terms: the "
        f"median of {n_steps} steps times the number of steps.",
        markdown_table(
            ["users", "items", "factors", "steps", "epoch, s", "peak memory, GiB"], [[*row, f"{peak / 2**30:.1f}"]]
        ),
    )


def time_to_quality(case: Case, *, seeds: Sequence[int], device: torch.device, console: Console) -> Section:
    """Measure seconds and RMSE of the default settings and of each of `ours.FAST`."""
    rows = []
    for name in ("rating", *FAST):
        seconds, rmse = [], []
        for seed in seeds:
            cost, fitted = train_case(case, name, seed=seed, device=device.type)
            seconds.append(cost.seconds)
            rmse.append(rating_metrics(case, predictions(case, fitted.factors))["RMSE"])
        console.print(f"{name}: {median(seconds):.2f} s, RMSE {median(rmse):.4f}", markup=False)
        label = "defaults" if name == "rating" else f"as good as {name}"
        rows.append([label, format_range(rmse, "RMSE"), format_range(seconds, SECONDS)])
    return Section(
        "Time to quality",
        "MovieLens 1M, trained on folds 2–5, measured on fold 1; the settings of `benchmarks.ours`. The device was "
        f"warm from an earlier training. Medians of {len(seeds)} seeds.",
        markdown_table(["settings", "RMSE", "training, s"], rows),
    )


def device_name(device: torch.device) -> str:
    """Return the name of a device with its memory or threads."""
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def append_sections(path: Path, heading: str, preface: str, sections: list[Section]) -> None:
    """Append sections to a file, one level down, under their own heading."""
    before = path.read_text().rstrip() if path.exists() else f"# {TITLE}\n\nWritten by `make bench-gpu`."
    added = markdown_document(heading, preface, sections).replace("\n## ", "\n### ").removeprefix("# ")
    path.write_text(f"{before}\n\n## {added}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line and append its results to the file."""
    parser = argparse.ArgumentParser(description="Throughput and time to quality on a device.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--ratings", type=int, default=25_000_000, help="number of generated ratings")
    parser.add_argument("--factors", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1 << n for n in range(14, 21)])
    parser.add_argument("--epochs", type=int, default=4, help="at least 2; the first is not measured")
    parser.add_argument("--rows", type=int, default=1_000_000, help="users, and items, of the exact softmax")
    parser.add_argument("--copy-mib", type=int, default=2048, help="size of the copy that measures the bandwidth")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=data.SHARED_DATA, help="folder of ml-1m/")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results-gpu.md")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, soft_wrap=True)
    if options.epochs < 2:
        parser.error("--epochs must be at least 2: the first is not measured")
    if options.device == "cuda" and not torch.cuda.is_available():
        console.print("there is no CUDA device; --device cpu tests the benchmark without one", markup=False)
        sys.exit(1)
    device = torch.device(options.device)

    bandwidth = copy_bandwidth(device, options.copy_mib << 20)
    console.print(f"{device_name(device)}: {bandwidth / 1e9:,.0f} GB/s; generating ratings", markup=False)
    sections = [
        throughputs(
            data.generated(options.ratings),
            options.factors,
            options.batch_sizes,
            n_epochs=options.epochs,
            device=device,
            bandwidth=bandwidth,
            console=console,
        )
    ]
    sections.append(exact_softmax(options.rows, 64, n_steps=8, device=device, console=console))
    try:
        sections.append(time_to_quality(data.ml_1m(options.data), seeds=options.seeds, device=device, console=console))
    except data.DataMissingError as error:
        console.print(f"time to quality is left out: {error}", markup=False)
    preface = f"Host: {describe_machine()}; torch {torch.__version__}."
    append_sections(options.out, device_name(device), preface, sections)
    console.print(f"written to {options.out}", markup=False)


if __name__ == "__main__":
    main()
