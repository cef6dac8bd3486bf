"""Files on disk, opened once.

Everything that is read from a file, its first bytes, a zip's directory and members, and the rows, comes through the
same descriptor: a file that is replaced meanwhile does not mix with its successor. A file that is changed in place is
refused at the end.
"""

import errno
import io
import lzma
import os
import stat
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.data.messages import printable
from recsys.errors import InputError


class DiskFile:
    """One open regular file that several readers share.

    Args:
        name: the file's name in messages.

    Raises:
        InputError: the file does not exist, cannot be read, or is not a regular file.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        with translate_errors(name):
            # O_NONBLOCK: opening a pipe without a writer would wait for one.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._closing = weakref.finalize(self, os.close, self._descriptor)
            self._opened = os.fstat(self._descriptor)
            if stat.S_ISDIR(self._opened.st_mode):
                raise IsADirectoryError(errno.EISDIR, "is a folder")
            if not stat.S_ISREG(self._opened.st_mode):
                raise InputError(
                    f"{name} is a device or pipe: expected a file or folder; save the data as a file first"
                )
        self.n_bytes = self._opened.st_size

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes` bytes from `offset`; fewer only at the end."""
        return os.pread(self._descriptor, n_bytes, offset)

    def check_unchanged(self) -> None:
        """Refuse a file whose size or time of change is another one than when it was opened.

        Raises:
            InputError: the file was written to meanwhile.
        """
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise InputError(
                f"{self.name} changed while it was read, so nothing was loaded: expected a file that is complete; "
                "wait until its writer has finished, and load it again"
            )

    def close(self) -> None:
        """Close the descriptor; reading afterwards is an error."""
        self._closing()


class DiskReader(io.RawIOBase):
    """A seekable reader of a `DiskFile` with a position of its own."""

    def __init__(self, file: DiskFile, max_read_bytes: int | None = None) -> None:
        """Start at the first byte.

        Args:
            max_read_bytes: refuse to read more at once; see `zips.read_directory`.
        """
        super().__init__()
        self._file = file
        self._max_read_bytes = max_read_bytes
        self._position = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.n_bytes}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "position before the start of the file")  # which zipfile expects
        self._position = start + offset
        return self._position

    def read(self, n_bytes: int | None = -1) -> bytes:
        """Return the next bytes: all that remain by default, fewer than asked only at the end."""
        remaining = max(self._file.n_bytes - self._position, 0)
        wanted = remaining if n_bytes is None or n_bytes < 0 else min(n_bytes, remaining)
        if self._max_read_bytes is not None and wanted > self._max_read_bytes:
            raise OverflowError(wanted)
        parts: list[bytes] = []
        while wanted > 0 and (part := self._file.read_at(self._position, wanted)):
            self._position += len(part)
            wanted -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readall(self) -> bytes:
        """Return all bytes that remain."""
        return self.read()

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Fill a buffer and return the number of bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def translate_errors(name: str) -> Iterator[None]:
    """Turn errors of reading a file into an `InputError` that names the file and the fix."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{name} cannot be read: permission denied; give this user the right to read it (chmod +r)"
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{name} does not exist: expected a file or folder of ratings; check the path") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile: unknown compression, version or encryption
        raise InputError(
            f"{name} cannot be unpacked ({printable(str(error))}): expected deflate; unpack it first"
        ) from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError) as error:
        reason = printable(str(error)) or "it ends too early"
        raise InputError(
            f"{name} is cut short or damaged ({reason}): expected a whole zip; download or copy it again"
        ) from error
    except OSError as error:
        reason = printable(error.strerror or str(error))
        raise InputError(
            f"{name} cannot be read ({reason}): expected a readable file; check the path and the disk"
        ) from error
