"""The file of a backup: a zip of one Arrow stream for each table, and a manifest; the last bytes are a SHA-256.

The checksum is of everything before it, and stands in the comment of the zip, so that any tool opens the file, and one
changed byte anywhere shows before anything is restored.
"""

import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated, BinaryIO, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from recsys.data.messages import printable
from recsys.database.file_lock import lock_file
from recsys.errors import InputError

FORMAT = 1
"""Number of the format. A reader refuses a larger one."""
MANIFEST = "manifest.json"
_PREFIX = b"recsys backup sha256 "
_TRAILER_BYTES = len(_PREFIX) + 64
_CHUNK_BYTES = 1 << 20


class TableSummary(BaseModel):
    """What the manifest says of one table."""

    n_rows: int
    digest: str


class Manifest(BaseModel):
    """What a backup holds.

    Attributes:
        revision: of the schema.
        snapshot_at: Unix milliseconds: every later change is missing.
        last_keys: name of a table → the largest key that it ever handed out.
    """

    model_config = ConfigDict(frozen=True)

    format: int
    made_by: str
    revision: str
    snapshot_at: int
    database: str
    tables: dict[Annotated[str, Field(pattern=r"^[a-z][a-z_]*$")], TableSummary]
    last_keys: dict[str, int]

    @field_validator("tables")
    @classmethod
    def _has_all(cls, tables: dict[str, TableSummary]) -> dict[str, TableSummary]:
        if missing := {"users", "items", "ratings", "models"} - tables.keys():
            raise ValueError(f"no table {min(missing)}")
        return tables


class BackupWriter:
    """Writes a backup under another name and renames it at the end, so that a reader never sees half of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._remove_left_over()
        descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "w+b")
        lock_file(descriptor, wait=False)
        self._is_finished = False
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)

    def _remove_left_over(self) -> None:
        """Delete what a backup left that was killed.

        Raises:
            BlockingIOError: another backup of this name is being written.
        """
        try:
            descriptor = os.open(self._part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            lock_file(descriptor, wait=False)
            self._part.unlink()
        finally:
            os.close(descriptor)

    def add_table(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Add the rows of a table."""
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with (
            self._zip.open(f"{name}.arrow", "w", force_zip64=True) as member,
            pa.ipc.new_stream(pa.PythonFile(member, "w"), schema, options=options) as stream,
        ):
            for batch in batches:
                stream.write_batch(batch)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and the checksum, wait until all is on the disk, and give the file its name."""
        self._zip.writestr(MANIFEST, manifest.model_dump_json(indent=1))
        self._zip.comment = _PREFIX + b"0" * 64
        self._zip.close()
        checksum = checksum_of(self._file)
        self._file.seek(-64, os.SEEK_END)
        self._file.write(checksum.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.replace(self._path)
        self._is_finished = True
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def discard(self) -> None:
        """Delete what was written, if it was not finished."""
        if not self._is_finished:
            self._part.unlink(missing_ok=True)
        self._file.close()


class BackupReader:
    """A backup whose every byte was checked.

    Raises:
        InputError: the file cannot be read, is no backup, is cut short or damaged, or was made by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._name = printable(str(path))
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise InputError(f"{self._name} cannot be read ({error.strerror}): name the file of a backup") from error
        try:
            self._check()
            self._zip = zipfile.ZipFile(self._file)
            self.manifest = self._read_manifest()
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            self._file.close()
            raise self._no_backup() from error
        except BaseException:
            self._file.close()
            raise

    def _read_manifest(self) -> Manifest:
        content = json.loads(self._zip.read(MANIFEST))
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise ValueError("no manifest")
        if content["format"] > FORMAT:
            raise InputError(
                f"{self._name} has format {content['format']}, and this version reads up to {FORMAT}: "
                f"recsys {printable(str(content.get('made_by')))} made it; install that version"
            )
        return Manifest.model_validate(content)  # its errors are ValueErrors

    @contextmanager
    def open_table(self, name: str) -> Iterator[pa.RecordBatchReader]:
        """Open the rows of a table."""
        with self._zip.open(f"{name}.arrow") as member, pa.ipc.open_stream(pa.PythonFile(member, "r")) as stream:
            yield stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _check(self) -> None:
        n_bytes = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(n_bytes - _TRAILER_BYTES, 0))
        trailer = self._file.read()
        self._file.seek(0)
        starts_as_zip = self._file.read(4) == b"PK\x03\x04"
        if not starts_as_zip and not trailer.startswith(_PREFIX):
            raise self._no_backup()
        if not trailer.startswith(_PREFIX) or checksum_of(self._file) != trailer[-64:].decode("ascii", "replace"):
            raise InputError(
                f"{self._name} is cut short, damaged or not a backup: its checksum is not that of its content, so "
                "nothing was restored; copy it again, or take an earlier backup"
            )

    def _no_backup(self) -> InputError:
        return InputError(f"{self._name} is not a backup: expected a file that `recsys backup` wrote")


def checksum_of(file: BinaryIO) -> str:
    """Return the SHA-256 of a file without its last 64 bytes."""
    left = file.seek(0, os.SEEK_END) - 64
    file.seek(0)
    total = sha256()
    while left > 0 and (chunk := file.read(min(left, _CHUNK_BYTES))):
        total.update(chunk)
        left -= len(chunk)
    return total.hexdigest()


def is_backup(path: Path) -> bool:
    """Return whether a file is a backup, whole or not."""
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TRAILER_BYTES, 0))
            return file.read(len(_PREFIX)) == _PREFIX
    except OSError:
        return False
