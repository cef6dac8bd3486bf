"""A folder of Parquet files of ratings that several processes read, each its own files."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.messages import printable, quote_names
from recsys.data.rows import RatingBatch, Rejected
from recsys.errors import InputError
from recsys.files.options import AS_RECOGNISED, ReadOptions
from recsys.files.remote import CopiedFolder, fetch, remote_url, shown_name
from recsys.files.source import open_source

_NUMBERED = re.compile(r"^(.*?)(\d+)(?:-of-(\d+))?(.*)$")
_COMPLETE = "_SUCCESS"
"""File that writers leave beside the parts when they have written all of them; empty parts may then be missing."""


@dataclass(frozen=True, slots=True)
class FolderFile:
    """A file of the folder: its name below it, rows, bytes, and the columns with their types."""

    name: str
    n_rows: int
    n_bytes: int
    columns: tuple[tuple[str, str], ...]


@dataclass
class ParquetFolder:
    """All Parquet files of a folder, with the same columns.

    Attributes:
        name: the path that the user typed.
        files: by name.
        n_rejected: rows that `batches` left out so far; `rejected` are the first of them.
    """

    name: str
    files: list[FolderFile]
    _path: Path
    _holder: object = field(default=None, repr=False)
    n_rejected: int = 0
    n_kept: int = 0
    rejected: list[Rejected] = field(default_factory=list)

    @classmethod
    def open(cls, path: str | Path) -> "ParquetFolder":
        """List a folder on the disk, or copy one of an object store to it.

        Raises:
            InputError: there is no such folder, it has no Parquet files, one is missing or damaged, or they have
                different columns.
        """
        name, folder, holder = shown_name(path), Path(path), None
        if (url := remote_url(path)) is not None:
            holder = fetch(url)
            if not isinstance(holder, CopiedFolder):
                raise InputError(f"{name} is a file: expected a folder of Parquet files; name the folder")
            folder = holder.path
        if not folder.is_dir():
            raise InputError(f"{name} is no folder: expected a folder of Parquet files; name one with --from")
        files = [
            read_footer(folder, each, name)
            for each in sorted(folder.rglob("*.parquet"))
            if each.is_file() and not any(part[0] in "_." for part in each.relative_to(folder).parts)
        ]
        if not files:
            raise InputError(f"{name} holds no Parquet files: expected files whose names end in .parquet")
        refuse_gaps(name, files, complete=(folder / _COMPLETE).exists())
        first = files[0]
        for other in files[1:]:
            if other.columns != first.columns:
                raise InputError(
                    f"{name}/{other.name} has the columns {describe(other)}, and {first.name} has {describe(first)}: "
                    "expected the same columns and types in every file; write the folder again"
                )
        return cls(name, files, folder, holder)

    @property
    def n_rows(self) -> int:
        """Number of rows of all files."""
        return sum(file.n_rows for file in self.files)

    def fingerprint(self) -> str:
        """Return a digest of the names, sizes and columns of all files."""
        return blake2b(repr(self.files).encode(), digest_size=8).hexdigest()

    def part(self, number: int, size: int) -> list[FolderFile]:
        """Return the files of one of `size` readers: by turns, the largest first."""
        by_size = sorted(self.files, key=lambda file: (-file.n_rows, file.name))
        return by_size[number::size]

    def batches(
        self,
        files: list[FolderFile],
        columns: Mapping[str, str] | None = None,
        rating_range: tuple[float | None, float | None] = (None, None),
        options: ReadOptions = AS_RECOGNISED,
    ) -> Iterator[RatingBatch]:
        """Yield the good ratings of some files, one row group after the other.

        Args:
            columns, rating_range, options: as in `open_source`.

        Raises:
            InputError: a file is damaged, has no column for a role or holds events, or most rows are bad.
        """
        for file in files:
            if not file.n_rows:
                continue
            source = open_source(
                self._path / file.name, format=None, columns=columns, rating_range=rating_range, options=options
            )
            if source.is_implicit:
                raise InputError(
                    f"{self.name}/{file.name} holds events, and training over ranks takes ratings: load them with "
                    "`recsys load`, and train with `recsys nightly`"
                )
            for batch in source.ratings(self._reject):
                self.n_kept += len(batch.line)
                yield batch
        if self.n_rejected > self.n_kept:
            raise InputError(
                f"{self.name}: {self.n_rejected:,} rows are bad and {self.n_kept:,} good: {self.rejected[0]}; correct "
                "the files, or name their columns with --map"
            )

    def _reject(self, row: Rejected) -> None:
        self.n_rejected += 1
        if len(self.rejected) < 5:
            self.rejected.append(row)


def read_footer(folder: Path, path: Path, name: str) -> FolderFile:
    """Return what the footer of a file says.

    Raises:
        InputError: it is damaged or not Parquet.
    """
    inside = path.relative_to(folder).as_posix()
    try:
        with pq.ParquetFile(path) as file:
            columns = tuple((each.name, str(each.type)) for each in file.schema_arrow)
            return FolderFile(inside, file.metadata.num_rows, path.stat().st_size, columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = printable(str(error).splitlines()[0])[:120]
        raise InputError(
            f"{name}/{inside} is cut short, damaged or not Parquet ({reason}): expected a whole Parquet file; write or "
            "copy it again"
        ) from error


def refuse_gaps(name: str, files: list[FolderFile], *, complete: bool) -> None:
    """Refuse numbered files of which one is missing.

    Args:
        complete: whether the writer said that it wrote all parts.

    Raises:
        InputError: a number is missing.
    """
    numbers: dict[tuple[str, str | None], set[int]] = {}
    for file in files:
        match = _NUMBERED.match(Path(file.name).name)
        if match is None:
            return
        numbers.setdefault((match.group(1), match.group(3)), set()).add(int(match.group(2)))
    for (prefix, of), found in numbers.items():
        first = min(min(found), 1)
        n = max(found) + 1 - first if of is None else int(of)
        missing = sorted(set(range(first, first + n)) - found)
        # Names that only look numbered, as those of days, have more gaps than files.
        if missing and (of is not None or not (complete or len(missing) >= len(found))):
            raise InputError(
                f"{name}: part {missing[0]} of {prefix}… is missing: {len(found)} of {n} files are there; copy the "
                f"folder again, or put an empty file {_COMPLETE} into it if it is whole"
            )


def describe(file: FolderFile) -> str:
    """Return the columns of a file with their types, for a message."""
    return quote_names([f"{column} {kind}" for column, kind in file.columns])
