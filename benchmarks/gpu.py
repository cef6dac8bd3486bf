"""How many ratings a device trains on in a second, beside what its memory would allow, and its time to quality.

    python -m benchmarks.gpu [--device cuda] [--ratings 25000000] [--out benchmarks/results-gpu.md]

Adds a section to the file. On the CPU, with few ratings, it is a trial of itself.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from rich.console import Console

from benchmarks import data
from benchmarks.case import Case
from benchmarks.metrics import rating_metrics
from benchmarks.ours import FAST, epoch_seconds, predictions, ratings, trained
from benchmarks.report import Section, document, machine, spread, table
from recsys.training.config import default_config
from recsys.training.fit import fit

TITLE = "Measured on a device"

_SECONDS = "seconds, s"
_REPEATS = 10


def bytes_per_rating(n_factors: int, n_rows: int, batch_size: int) -> float:
    """Memory traffic that one rating costs at least, if no cache serves any of it.

        16 (f + 1) + 12 + 32 · n_rows · (f + 1) / batch_size

    The user's and the item's row of f factors and a bias, 4 bytes each, are gathered twice, for the score and for the
    gradient of the other row; indices and rating are read once. Once a step, for every row there is: the gradient is
    written (what is scattered to a row adds up on the chip), cleared and read by AdamW, which also reads and writes
    parameter, mean and variance: 8 times 4 bytes.

    Args:
        n_rows: users and items.
    """
    width = n_factors + 1
    return 16 * width + 12 + 32 * n_rows * width / batch_size


def copy_bandwidth(device: torch.device, n_bytes: int) -> float:
    """Bytes read and written in a second while a large tensor is copied: the best of several copies."""
    source = torch.ones(max(1, n_bytes // 4), device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(_REPEATS):
        _wait_for(device)
        started = time.perf_counter()
        target.copy_(source)
        _wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2 * source.nbytes / best


def throughput(case: Case, n_factors: int, batch_size: int, *, n_epochs: int, device: torch.device) -> float:
    """Ratings a second: the median over epochs but the first."""
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
    """A row for each width and batch size, beside the bound."""
    rows = []
    for n_factors in factors:
        for batch_size in batch_sizes:
            rate = throughput(case, n_factors, batch_size, n_epochs=n_epochs, device=device)
            traffic = bytes_per_rating(n_factors, case.n_users + case.n_items, batch_size)
            bound = bandwidth / traffic
            console.print(f"{n_factors} factors, batches of {batch_size:,}: {rate:,.0f} ratings/s", markup=False)
            figures = [f"{n_factors}", f"{batch_size:,}", f"**{rate / 1e6:.2f} M**"]
            rows.append([*figures, f"{traffic:,.0f}", f"{bound / 1e6:,.2f} M", f"{rate / bound:.0%}"])
    head = ["factors", "batch", "ratings/s", "bytes a rating", "bound, ratings/s", "share reached"]
    return Section(
        "Throughput",
        f"{len(case.rating):,} generated ratings, {case.n_users:,} users × {case.n_items:,} items, dot product with "
        f"biases, without implicit terms; the median over {n_epochs - 1} epochs after a first one. Copying a large "
        f"tensor moves {bandwidth / 1e9:,.0f} GB/s. The bound is that over 16 (f + 1) + 12 + 32 · rows · (f + 1) / "
        "batch bytes a rating: rows gathered for score and gradient, indices and rating, and once a step gradient and "
        "AdamW's state of every row. It counts every row as coming from memory; what a cache serves may pass it.",
        table(head, rows),
    )


def time_to_quality(case: Case, *, seeds: Sequence[int], device: torch.device, console: Console) -> Section:
    """Seconds and RMSE of the default settings and of each of `ours.FAST`."""
    rows = []
    for name in ("rating", *FAST):
        seconds, rmse = [], []
        for seed in seeds:
            cost, fitted = trained(case, name, seed=seed, device=device.type)
            seconds.append(cost.seconds)
            rmse.append(rating_metrics(case, predictions(case, fitted.factors))["RMSE"])
        console.print(f"{name}: {median(seconds):.2f} s, RMSE {median(rmse):.4f}", markup=False)
        label = "defaults" if name == "rating" else f"as good as {name}"
        rows.append([label, spread(rmse, "RMSE"), spread(seconds, _SECONDS)])
    return Section(
        "Time to quality",
        "MovieLens 1M, trained on folds 2–5, measured on fold 1; the settings of `benchmarks.ours`. The device was "
        f"warm: something else had been trained on it. Medians of {len(seeds)} seeds.",
        table(["settings", "RMSE", "training, s"], rows),
    )


def device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _add(path: Path, heading: str, preface: str, sections: list[Section]) -> None:
    """Put the sections at the end of the file, one level down, under a heading of their own."""
    before = path.read_text().rstrip() if path.exists() else f"# {TITLE}\n\nWritten by `make bench-gpu`."
    added = document(heading, preface, sections).replace("\n## ", "\n### ").removeprefix("# ")
    path.write_text(f"{before}\n\n## {added}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Throughput and time to quality on a device.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--ratings", type=int, default=25_000_000, help="how many to generate")
    parser.add_argument("--factors", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1 << n for n in range(14, 21)])
    parser.add_argument("--epochs", type=int, default=4, help="the first is not counted; at least 2")
    parser.add_argument("--copy-mib", type=int, default=2048, help="how much to copy for the bandwidth")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=data.SHARED_DATA, help="folder of ml-1m/")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results-gpu.md")
    given = parser.parse_args(arguments)
    console = Console(stderr=True, soft_wrap=True)
    if given.epochs < 2:
        parser.error("--epochs: at least 2, since the first is not counted")
    if given.device == "cuda" and not torch.cuda.is_available():
        console.print("there is no CUDA device here; --device cpu tries the benchmark without one", markup=False)
        sys.exit(1)
    device = torch.device(given.device)

    bandwidth = copy_bandwidth(device, given.copy_mib << 20)
    console.print(f"{device_name(device)}: {bandwidth / 1e9:,.0f} GB/s; generating ratings", markup=False)
    sections = [
        throughputs(
            data.generated(given.ratings),
            given.factors,
            given.batch_sizes,
            n_epochs=given.epochs,
            device=device,
            bandwidth=bandwidth,
            console=console,
        )
    ]
    try:
        sections.append(time_to_quality(data.ml_1m(given.data), seeds=given.seeds, device=device, console=console))
    except data.DataMissingError as error:
        console.print(f"no time to quality: {error}", markup=False)
    preface = f"Host: {machine()}; torch {torch.__version__}."
    _add(given.out, device_name(device), preface, sections)
    console.print(f"written to {given.out}", markup=False)


if __name__ == "__main__":
    main()
