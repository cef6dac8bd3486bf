"""Files and folders, on disk or inside a zip, under one kind of path.

A path may go on inside a zip: `x/ml-100k.zip/ml-100k/u1.base`. Members are streamed, never extracted.
Whatever the operating system, zip or zlib raise on the way leaves here as an `InputError` of one line.
"""

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Self

from recsys.data.messages import join_names
from recsys.errors import InputError

_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_ENCRYPTED = 0x1  # bit 0 of a member's general purpose flags


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, on disk or inside a zip.

    Attributes:
        name: what messages call it; a person can paste it as a path.
        path: the file on disk: the file itself, or the zip around it.
        member: its name inside the zip; None for a file on disk.
        n_bytes: its size, uncompressed.
    """

    name: str
    path: Path
    member: str | None
    n_bytes: int

    @property
    def basename(self) -> str:
        """The last part of its name, in lower case."""
        return PurePosixPath(self.member or self.path.as_posix()).name.lower()

    def open(self) -> "Stream":
        """The file's bytes, to be read from the start.

        Raises:
            InputError: it cannot be opened, or is encrypted.
        """
        return Stream(self)

    def read(self) -> bytes:
        """All of the file.

        Raises:
            InputError: it cannot be read.
        """
        with self.open() as stream:
            return stream.read()

    def folder(self) -> "Folder":
        """The folder the file lies in."""
        if self.member is None:
            return _disk_folder(str(Path(self.name).parent), self.path.parent)
        inside = self.member.rpartition("/")[0]
        return _zip_folder(self.name.removesuffix("/" + self.member), self.path, inside)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on disk (its own files) or a zip or a folder in one (all files below it)."""

    name: str
    entries: tuple[Entry, ...]

    def named(self, *basenames: str) -> list[Entry]:
        """The files that have one of these names, whatever the case, in the order of their names."""
        return [entry for entry in self.entries if entry.basename in basenames]


class Stream:
    """A file being read, whose errors are InputErrors that name it."""

    def __init__(self, entry: Entry) -> None:
        self._name = entry.name
        with said_plainly(entry.name), ExitStack() as opening:
            if entry.member is None:
                self._file: IO[bytes] = opening.enter_context(entry.path.open("rb"))
            else:
                archive = opening.enter_context(zipfile.ZipFile(entry.path))
                if archive.getinfo(entry.member).flag_bits & _ENCRYPTED:
                    raise InputError(f"{entry.name} is encrypted: expected a zip without a password; unpack it first")
                self._file = opening.enter_context(archive.open(entry.member))
            self._open = opening.pop_all()

    def read(self, n_bytes: int = -1) -> bytes:
        """The next `n_bytes` (all that is left by default); fewer only at the end."""
        with said_plainly(self._name):
            return self._file.read(n_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def locate(path: str | Path) -> Entry | Folder:
    """What lies at a path on disk or inside a zip.

    A zip itself is a folder. Nothing is read but directories and the first bytes.

    Raises:
        InputError: nothing is there, it cannot be read, or the zip is damaged.
    """
    name, on_disk = str(path) or ".", Path(path)
    with said_plainly(name):
        if on_disk.is_dir():
            return _disk_folder(name, on_disk)
        if on_disk.is_file():
            if _is_zip(on_disk):
                return _zip_folder(name, on_disk, "")
            return Entry(name, on_disk, None, on_disk.stat().st_size)
        if on_disk.exists():
            raise InputError(f"{name} is a device or pipe: expected a file or folder; save it as a file first")
        for parent in on_disk.parents:
            if parent.is_file() and _is_zip(parent):
                return _inside_zip(parent, on_disk.relative_to(parent).as_posix())
    raise InputError(f"{name} does not exist: expected a file or folder of ratings; check the path")


@contextmanager
def said_plainly(name: str) -> Iterator[None]:
    """Turn what reading a file can raise into an InputError that names the file and the fix."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{name} cannot be read: permission denied; give this user the right to read it (chmod +r)"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist: expected a file or folder of ratings; check the path") from error
    except RuntimeError as error:  # zipfile's word for a compression, a version or an encryption it does not know
        raise InputError(
            f"{name} is packed in a way that cannot be read ({error}): expected deflate; unpack it first"
        ) from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError) as error:
        raise InputError(
            f"{name} is cut short or damaged ({error or 'it ends too early'}): expected a whole zip; "
            "download or copy it again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{name} cannot be read ({error.strerror or error}): expected a readable file; check the path and the disk"
        ) from error


def _is_zip(path: Path) -> bool:
    if path.suffix.lower() == ".zip":
        return True
    with path.open("rb") as file:
        return file.read(4) in _ZIP_STARTS


def _disk_folder(name: str, path: Path) -> Folder:
    with said_plainly(name):
        files = sorted(file for file in path.iterdir() if file.is_file())
        return Folder(name, tuple(Entry(_joined(name, file.name), file, None, file.stat().st_size) for file in files))


def _zip_folder(name: str, path: Path, inside: str) -> Folder:
    """A zip, or the folder `inside` it; `name` is what the zip is called."""
    with said_plainly(name):
        if path.stat().st_size == 0:
            raise InputError(f"{name} is empty: expected a zip with ratings; download or copy it again")
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    prefix = inside + "/" if inside else ""
    return Folder(
        _joined(name, inside) if inside else name,
        tuple(
            Entry(_joined(name, info.filename), path, info.filename, info.file_size)
            for info in members
            # macOS packs a shadow of every file.
            if info.filename.startswith(prefix) and not info.filename.startswith("__MACOSX/")
        ),
    )


def _inside_zip(archive: Path, inside: str) -> Entry | Folder:
    whole = _zip_folder(str(archive), archive, "")
    for entry in whole.entries:
        if entry.member == inside:
            return entry
    folder = _zip_folder(str(archive), archive, inside)
    if not folder.entries:
        raise InputError(
            f"{archive} holds no {inside}: expected one of {join_names([entry.name for entry in whole.entries])}"
        )
    return folder


def _joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"
