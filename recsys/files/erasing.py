"""Take a user out of files that this program wrote. The new file is written beside the old one and renamed."""

import csv
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import ParquetFile, ParquetWriter

from recsys.data.whole_file import whole_file
from recsys.files.exported import note_removal

COLUMN = "user_id"


def erase_from_table(path: Path, user_id: str) -> int:
    """Take the rows of a user out of a CSV or Parquet file with a column `user_id`.

    Returns:
        Number of rows that were taken out; without any the file is as it was.

    Raises:
        OSError: the file cannot be read or replaced.
        ValueError: it is not a file of this kind.
    """
    n_rows = _replaced(path, _copy_csv if path.suffix == ".csv" else _copy_parquet, user_id)
    if n_rows:
        note_removal(path, n_rows)
    return n_rows


def erase_from_rejects(path: Path, user_id: str) -> int:
    """Take the lines that have the id of a user out of a file of rejected rows; return their number.

    Raises:
        OSError: the file cannot be read or replaced.
    """
    return _replaced(path, _copy_lines, user_id)


def _replaced(path: Path, copy: Callable[[Path, Path, str], int], user_id: str) -> int:
    with whole_file(path) as beside:
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        n_rows = copy(path, beside, user_id)
        if n_rows:
            shutil.copymode(path, beside)
        else:
            beside.unlink()
    return n_rows


def _copy_parquet(source: Path, target: Path, user_id: str) -> int:
    n_rows = 0
    with ParquetFile(source) as file, ParquetWriter(target, file.schema_arrow) as writer:
        if COLUMN not in file.schema_arrow.names:
            raise ValueError(f"{source} has no column {COLUMN}")
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            kept = pc.fill_null(pc.not_equal(table[COLUMN].cast(pa.string()), user_id), True)
            left = table.filter(kept)
            n_rows += len(table) - len(left)
            writer.write_table(left)
    return n_rows


def _copy_csv(source: Path, target: Path, user_id: str) -> int:
    """Copy the records of other users as they are, byte for byte."""
    n_rows = 0
    with source.open(encoding="utf-8", newline="") as read, target.open("w", encoding="utf-8", newline="") as written:
        pending: list[str] = []
        csv.field_size_limit(1 << 28)
        records = csv.reader(_noted(read, pending))
        header = next(records, [])
        if COLUMN not in header:
            raise ValueError(f"{source} has no column {COLUMN}")
        at = header.index(COLUMN)
        written.writelines(pending)
        pending.clear()
        for record in records:
            if len(record) > at and record[at] == user_id:
                n_rows += 1
            else:
                written.writelines(pending)
            pending.clear()
    return n_rows


def _noted(lines: TextIO, pending: list[str]) -> Iterator[str]:
    for line in lines:
        pending.append(line)
        yield line


def _copy_lines(source: Path, target: Path, user_id: str) -> int:
    is_named = re.compile(rf"(?<!\w){re.escape(user_id)}(?!\w)")
    n_rows = 0
    with source.open(encoding="utf-8") as read, target.open("w", encoding="utf-8") as written:
        for line in read:
            _, colon, reason = line.partition(": ")
            if colon and not line.startswith("#") and is_named.search(reason):
                n_rows += 1
            else:
                written.write(line)
    return n_rows
