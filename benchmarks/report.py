"""Results as Markdown: machine, versions, tables."""

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


@dataclass(slots=True)
class ModelFigures:
    """The figures of one model on one data set.

    Attributes:
        label: heading of its column.
        values: figure → one value per seed.
        failure: the reason why values are missing, or None.
    """

    label: str
    values: dict[str, list[float]] = field(default_factory=dict)
    failure: str | None = None

    def add(self, figures: dict[str, float]) -> None:
        """Add the figures of one seed."""
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a document: a heading, a note on the method, and the results in Markdown."""

    title: str
    note: str
    body: str


def describe_machine() -> str:
    """Return processor, cores, memory and Python version in one line."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB of memory, Python {platform.python_version()}"
    )


def format_figure(value: float, name: str) -> str:
    """Return a figure with the digits that suit its name: `.9091`, `1.42` for seconds, `310` for MiB."""
    if name.endswith("MiB"):
        return f"{value:,.0f}"
    if name.endswith(", s"):
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{value:.4f}".removeprefix("0")


def format_range(values: Sequence[float], name: str) -> str:
    """Return the median, and the lowest and highest value in brackets if they differ: `.9091 (.9085–.9099)`."""
    middle, low, high = (format_figure(value, name) for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def comparison_table(models: Sequence[ModelFigures]) -> str:
    """Return a table with a column per model and a row per figure, and below it the failures."""
    names = list(dict.fromkeys(name for model in models for name in model.values))
    cells = [
        [name, *(format_range(values, name) if (values := model.values.get(name)) else "–" for model in models)]
        for name in names
    ]
    failures = [f"{model.label} failed: {model.failure}" for model in models if model.failure]
    return "\n\n".join([markdown_table(["", *(model.label for model in models)], cells), *failures])


def markdown_document(title: str, preface: str, sections: Iterable[Section]) -> str:
    """Return a document."""
    parts = [f"# {title}", preface]
    for section in sections:
        parts += [f"## {section.title}", section.note, section.body]
    return "\n\n".join(part for part in parts if part) + "\n"
