"""What was measured as Markdown: machine, versions, tables."""

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


@dataclass(slots=True)
class Outcome:
    """All that was measured of one model on one data set.

    Attributes:
        label: the column's head.
        values: for each figure, one value a seed.
        failure: why there are none, or not all.
    """

    label: str
    values: dict[str, list[float]] = field(default_factory=dict)
    failure: str | None = None

    def add(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what was done, and tables or lines about it."""

    title: str
    note: str
    body: str


def machine() -> str:
    """Processor, cores and memory in one line."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB of memory, Python {platform.python_version()}"
    )


def number(value: float, name: str) -> str:
    """A figure as people read it: .9091, 1.42 s, 310 MiB."""
    if name.endswith("MiB"):
        return f"{value:,.0f}"
    if name.endswith(", s"):
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{value:.4f}".removeprefix("0")


def spread(values: Sequence[float], name: str) -> str:
    """Median, and behind it the lowest and the highest where they differ: `.9091 (.9085–.9099)`."""
    middle, low, high = (number(value, name) for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def side_by_side(outcomes: Sequence[Outcome]) -> str:
    """A column for each model, a row for each figure; below it what failed and why."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.values))
    cells = [
        [name, *(spread(given, name) if (given := outcome.values.get(name)) else "–" for outcome in outcomes)]
        for name in names
    ]
    failures = [f"{outcome.label} failed: {outcome.failure}" for outcome in outcomes if outcome.failure]
    return "\n\n".join([table(["", *(outcome.label for outcome in outcomes)], cells), *failures])


def document(title: str, preface: str, sections: Iterable[Section]) -> str:
    parts = [f"# {title}", preface]
    for section in sections:
        parts += [f"## {section.title}", section.note, section.body]
    return "\n\n".join(part for part in parts if part) + "\n"
