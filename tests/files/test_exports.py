"""Generated exports: every combination of habits is read as it was meant, or refused with file, line and fix."""

import bz2
import gzip
import lzma
import random
import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from recsys.data.dataset import NO_TIME
from recsys.errors import InputError
from recsys.files.source import open_source

Row = tuple[str, str, float, int | None]

PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
TIMES = {
    "s": lambda at: str(at),
    "ms": lambda at: str(at * 1000),
    "us": lambda at: str(at * 1_000_000),
    "ns": lambda at: str(at * 1_000_000_000),
    "iso": lambda at: f"{moment(at):%Y-%m-%dT%H:%M:%SZ}",
    "utc": lambda at: f"{moment(at):%Y-%m-%d %H:%M:%S} UTC",
    "slashes": lambda at: f"{moment(at):%Y/%m/%d %H:%M:%S}",
    "german": lambda at: f"{moment(at):%d.%m.%Y %H:%M:%S}",
    "rfc": lambda at: f"{moment(at):%d %b %Y %H:%M:%S} GMT",
    "compact": lambda at: f"{moment(at):%Y%m%d%H%M%S}",
    "us-style": lambda at: f"{moment(at):%m/%d/%Y %I:%M:%S %p}",
}
NULLS = ("", "NULL", r"\N", "NaN")


def moment(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def export(rng: random.Random) -> tuple[str, bytes, list[Row], str]:
    """Return name, content, meaning and habits of one generated file."""
    delimiter = rng.choice((",", ";", "\t", "|"))
    quoting = rng.choice(("needed", "all", "escaped"))
    newline = rng.choice(("\n", "\r\n"))
    encoding = rng.choice(("utf-8", "utf-8-sig", "utf-16"))
    decimal = rng.choice((".", ","))
    time = rng.choice((None, *TIMES))
    null = rng.choice(NULLS)
    pack = rng.choice(tuple(PACK))
    columns = ["user_id", "item_id", "rating", "note"] + (["rated_at"] if time else [])
    rng.shuffle(columns)
    names = {name: rng.choice((name, name.upper(), name.replace("_", " "))) for name in columns}
    lines: list[list[str]] = [[names[name] for name in columns]]
    meant: list[Row] = []
    for n in range(rng.randint(1, 30)):
        user, item = rng.choice(("ann", "007", "Å b", "x|y;z,", "-abc")) + str(n), rng.choice(("b", "10", 'say "hi"'))
        rating = rng.randint(1, 10) / 2
        at = rng.randint(1_000_000_000, 1_700_000_000) if time else None
        is_unknown = at is not None and rng.random() < 0.1
        values = {
            "user_id": user,
            "item_id": item,
            "rating": f"{rating:g}".replace(".", decimal),
            "note": rng.choice(("", "plain", f"two{newline}lines", 'a "quote"', f"a{delimiter}b")),
            "rated_at": null if is_unknown or time is None or at is None else TIMES[time](at),
        }
        lines.append([values[name] for name in columns])
        meant.append((user, item, rating, None if at is None or is_unknown else at * 1000))

    def field(text: str) -> str:
        if quoting == "needed" and not re.search(r'["\r\n]|' + re.escape(delimiter), text):
            return text
        inside = text.replace("\\", "\\\\").replace('"', '\\"') if quoting == "escaped" else text.replace('"', '""')
        return text if text in NULLS and quoting == "escaped" else f'"{inside}"'

    body = newline.join(delimiter.join(map(field, line)) for line in lines) + newline
    if delimiter == ";" and rng.random() < 0.2:
        body = f"sep=;{newline}" + body
    habits = f"{delimiter!r} {quoting} {newline!r} {encoding} {decimal} {time} {null!r} {pack} {columns}"
    return f"export.csv{pack}", PACK[pack](body.encode(encoding)), meant, habits


def check(seed: int, folder: Path) -> bool:
    """Check one file; return whether it was read."""
    name, content, meant, habits = export(random.Random(seed))
    path = folder / name
    path.write_bytes(content)
    rejected: list[str] = []
    rows: list[Row] = []
    try:
        for batch in open_source(path).ratings(lambda row: rejected.append(str(row))):
            times = [None if at == NO_TIME else at for at in batch.rated_at.tolist()]
            rows += zip(
                batch.user_ids.to_pylist(), batch.item_ids.to_pylist(), batch.rating.tolist(), times, strict=True
            )
    except InputError as error:
        message = str(error)
        assert name in message and "expected" in message and "; " in message, (seed, habits, message)  # noqa: PT018
        return False
    assert set(rows) <= set(meant), (seed, habits, sorted(set(rows) - set(meant))[:3])
    assert len(rows) + len(rejected) == len(meant), (seed, habits, rejected[:2])
    for reason in rejected:
        assert re.match(r".*export\.csv[.a-z0-9]*:[0-9]+: .*expected .*; ", reason), (seed, habits, reason)
    return bool(rows)


def test_fifty_generated_exports(tmp_path: Path) -> None:
    assert sum(check(seed, tmp_path) for seed in range(50)) >= 25


@pytest.mark.long
def test_two_thousand_generated_exports(tmp_path: Path) -> None:
    assert sum(check(seed, tmp_path) for seed in range(2000)) >= 1000
