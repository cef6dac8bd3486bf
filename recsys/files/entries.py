"""Files and folders, on disk or inside a zip, under one kind of path.

A path may continue inside a zip: `x/ml-100k.zip/ml-100k/u1.base`. Members are streamed, never extracted. Errors of the
operating system, of zip files and of decompression become an `InputError` of one line.
"""

import io
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from recsys.data.messages import join_names, printable
from recsys.errors import InputError
from recsys.files.disk import DiskFile, DiskReader, translate_errors
from recsys.files.packed import N_SIGNATURE_BYTES, SUFFIXES, UnpackedStream, packing_of
from recsys.files.remote import fetch, remote_url, shown_name
from recsys.files.zips import START_SIGNATURES, MemberStream, read_directory

STDIN = "-"
"""The path that stands for standard input."""

HEAD_BYTES = 1 << 18
"""Bytes at the start of a file that decide how it is read."""


class ByteReader(Protocol):
    """Bytes in order."""

    def read(self, n_bytes: int = -1) -> bytes:
        """Return the next bytes, fewer than asked only at the end."""

    def close(self) -> None:
        """Release what the reader holds."""


class Stream:
    """A file that is being read from its start; its errors are `InputError`s that name it."""

    def __init__(self, entry: "Entry") -> None:
        self._name = entry.name
        with translate_errors(entry.name):
            self._reader: ByteReader = entry.open_raw()
            packing = entry.packing
            self._unpacked = None if packing is None else UnpackedStream(self._reader, packing, entry.name)
            self._n_read = 0

    @property
    def n_consumed(self) -> int:
        """Return how many bytes of the file were read so far, packed ones if it is packed."""
        return self._n_read if self._unpacked is None else self._unpacked.n_consumed

    def read(self, n_bytes: int = -1) -> bytes:
        """Return the next `n_bytes` (all that remain by default); fewer only at the end.

        Raises:
            InputError: the file is damaged or cannot be read.
        """
        with translate_errors(self._name):
            data = (self._unpacked or self._reader).read(n_bytes)
        self._n_read += len(data)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()


@dataclass(frozen=True)
class Entry:
    """One file, on disk or inside a zip.

    Attributes:
        name: the name in messages, without control characters. A person can paste it as a path.
        path: the file on disk: the file itself, or the zip around it.
        member: the file in the zip; `None` for a file on disk.
        opened: the open file on disk, if it is open already.
    """

    name: str
    path: Path
    member: zipfile.ZipInfo | None = None
    opened: DiskFile | None = field(default=None, repr=False)

    @cached_property
    def file(self) -> DiskFile:
        """Return the file on disk; it is opened once, at the first use.

        Raises:
            InputError: it cannot be opened.
        """
        return self.opened or DiskFile(self.path, self.name)

    @property
    def n_bytes(self) -> int:
        """Return the size: uncompressed in a zip, as it is if the file is packed by itself."""
        return self.member.file_size if self.member else self.file.n_bytes

    @property
    def n_stored_bytes(self) -> int:
        """Return the size of the file on disk: the file itself, or the zip around it."""
        return self.file.n_bytes

    def open_raw(self) -> ByteReader:
        """Open the file as it is stored: a packed one is not unpacked."""
        if self.member is None:
            return DiskReader(self.file)
        return MemberStream(self.file, self.member, self.name)

    @cached_property
    def packing(self) -> str | None:
        """Return how the file is packed by itself, by its first bytes; `None` if it is not."""
        with translate_errors(self.name):
            reader = self.open_raw()
            start = reader.read(N_SIGNATURE_BYTES)
            reader.close()
        return packing_of(start)

    @cached_property
    def head(self) -> bytes:
        """Return the first `HEAD_BYTES` bytes.

        Raises:
            InputError: the file cannot be read.
        """
        with self.open() as stream:
            return stream.read(HEAD_BYTES)

    @property
    def basename(self) -> str:
        """Return the last part of the path in lower case, without a suffix such as `.gz`."""
        name = PurePosixPath(self.member.filename if self.member else self.path.as_posix()).name.lower()
        return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)

    @property
    def suffix(self) -> str:
        """Return the part of the basename from its last dot, such as `.dat`."""
        return "." + self.basename.rpartition(".")[2]

    def open(self) -> Stream:
        """Open the file for reading from its start.

        Raises:
            InputError: it cannot be opened, or is encrypted.
        """
        return Stream(self)

    def chunks(self, n_bytes: int) -> Iterator[bytes]:
        """Return the file in chunks of `n_bytes`; the last one may be shorter.

        Raises:
            InputError: the file cannot be read.
        """
        with self.open() as stream:
            while chunk := stream.read(n_bytes):
                yield chunk

    def folder(self) -> "Folder":
        """Return the folder of the file."""
        if self.member is None:
            return Folder.on_disk(str(self.path.parent), self.path.parent)
        inside = self.member.filename.rpartition("/")[0]
        return Folder.in_zip(str(self.path), self.file, inside)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on disk (its own files), or a zip or a folder in one (all files below it)."""

    name: str
    entries: tuple[Entry, ...]
    path: Path | None = None
    holder: object = None

    def named(self, *basenames: str) -> list[Entry]:
        """Return the files with one of these names, in any case, in the order of their names."""
        return [entry for entry in self.entries if entry.basename in basenames]

    @classmethod
    def on_disk(cls, name: str, path: Path) -> "Folder":
        """List a folder on disk.

        Raises:
            InputError: it cannot be read.
        """
        shown = printable(name)
        with translate_errors(shown):
            files = sorted(file for file in path.iterdir() if file.is_file())
        return cls(shown, tuple(Entry(join_path(shown, file.name), file) for file in files), path)

    @classmethod
    def in_zip(cls, name: str, file: DiskFile, inside: str) -> "Folder":
        """List a zip, or the folder `inside` it.

        Args:
            name: what the zip is called.

        Raises:
            InputError: the zip is empty or damaged, or its directory is too large.
        """
        shown = printable(name)
        with translate_errors(shown):
            if file.n_bytes == 0:
                raise InputError(f"{shown} is empty: expected a zip with ratings; download or copy it again")
            members = read_directory(file)
            refuse_spreadsheet(shown, [info.filename for info in members])
        prefix = inside + "/" if inside else ""
        return cls(
            join_path(shown, inside) if inside else shown,
            tuple(
                Entry(join_path(shown, info.filename), file.path, info, file)
                for info in members
                # macOS adds a metadata file for every file.
                if info.filename.startswith(prefix) and not info.filename.startswith("__MACOSX/")
            ),
        )


def locate(path: str | Path) -> Entry | Folder:
    """Return the file or folder at a path on disk or inside a zip; a zip itself is a folder.

    Raises:
        InputError: the path does not exist, cannot be read, or the zip is damaged.
    """
    typed, on_disk = str(path) or ".", Path(path)
    name = printable(typed)
    if typed == STDIN:
        return read_stdin()
    if (url := remote_url(typed)) is not None:
        return locate_remote(url)
    with translate_errors(name):
        if on_disk.is_dir():
            return Folder.on_disk(typed, on_disk)
        # A path below a file does not exist, unless the file is a zip.
        zips = [parent for parent in on_disk.parents if parent.is_file()] if not on_disk.exists() else []
    if zips:
        archive = DiskFile(zips[0], printable(str(zips[0])))
        if is_zip(archive):
            return locate_in_zip(archive, on_disk.relative_to(zips[0]).as_posix())
    file = DiskFile(on_disk, name)
    if is_zip(file):
        return Folder.in_zip(typed, file, "")
    return Entry(name, on_disk, opened=file)


def locate_remote(url: str) -> Entry | Folder:
    """Copy a file or folder from an object store or web server, and return the copy: a table, a folder or a zip.

    Raises:
        InputError: it cannot be read.
    """
    fetched, name = fetch(url), shown_name(url)
    if not isinstance(fetched, DiskFile):
        return replace(Folder.on_disk(name, fetched.path), holder=fetched)
    if is_zip(fetched):
        return Folder.in_zip(name, fetched, "")
    return Entry(name, Path(PurePosixPath(urlsplit(url).path).name or "file"), opened=fetched)


def refuse_spreadsheet(name: str, members: list[str]) -> None:
    """Refuse a zip that is a workbook of a spreadsheet.

    Raises:
        InputError: it is one.
    """
    kind = None
    if any(member.startswith("xl/") for member in members):
        kind = "an Excel workbook"
    elif "content.xml" in members and "mimetype" in members:
        kind = "an OpenDocument spreadsheet"
    elif any(member.startswith("Index/") and member.endswith(".iwa") for member in members):
        kind = "a Numbers spreadsheet"
    if kind is not None:
        raise InputError(
            f"{name} is {kind}: expected text; in the spreadsheet save the sheet of ratings as CSV UTF-8 (File, Save "
            "as), and load that"
        )


def read_stdin() -> "Entry | Folder":
    """Copy standard input to a file that has no name any more, and return it: a table or a zip.

    Raises:
        InputError: the terminal is the standard input, or the disk is full.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("-: expected ratings on standard input; pipe a file into the command, or name the file")
    with translate_errors("standard input"):
        descriptor, path = tempfile.mkstemp(prefix="recsys-")
        try:
            with os.fdopen(descriptor, "wb") as copy:
                shutil.copyfileobj(getattr(sys.stdin, "buffer", io.BytesIO()), copy, 1 << 20)
            file = DiskFile(Path(path), "standard input")
        finally:
            os.unlink(path)  # the open descriptor keeps the content
    if is_zip(file):
        return Folder.in_zip("standard input", file, "")
    return Entry("standard input", Path("standard input"), opened=file)


def is_zip(file: DiskFile) -> bool:
    """Return whether a file is a zip, by its name or its first bytes."""
    return file.path.suffix.lower() == ".zip" or file.read_at(0, 4) in START_SIGNATURES


def locate_in_zip(archive: DiskFile, inside: str) -> Entry | Folder:
    """Return the file or folder at a path inside a zip.

    Raises:
        InputError: the zip holds nothing at that path.
    """
    whole = Folder.in_zip(str(archive.path), archive, "")
    for entry in whole.entries:
        if entry.member is not None and entry.member.filename == inside:
            return entry
    folder = Folder.in_zip(str(archive.path), archive, inside)
    if not folder.entries:
        raise InputError(
            f"{whole.name} holds no {printable(inside)}: "
            f"expected one of {join_names([entry.name for entry in whole.entries])}"
        )
    return folder


def join_path(folder: str, name: str) -> str:
    """Return a file's name in messages."""
    return f"{folder.rstrip('/')}/{printable(name)}"
