"""Files packed by themselves: gzip, bzip2, xz and zstd, unpacked in bounded steps while they are read."""

import bz2
import gzip
import lzma
import zlib
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa

from recsys.data.limits import FREE_EXPANSION_BYTES, MAX_EXPANSION, MAX_LZMA_WINDOW_BYTES
from recsys.errors import InputError

SIGNATURES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES = (".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd")
N_SIGNATURE_BYTES = 6
CHUNK_BYTES = 1 << 16


class Raw(Protocol):
    """The packed bytes in order."""

    def read(self, n_bytes: int = -1) -> bytes:
        """Return the next bytes, fewer than asked only at the end."""

    def close(self) -> None:
        """Release what the reader holds."""


def packing_of(start: bytes) -> str | None:
    """Return how a file is packed, by its first bytes; `None` if it is not."""
    return next((name for signature, name in SIGNATURES.items() if start.startswith(signature)), None)


class CountedRaw:
    """Counts the packed bytes that were read; a file-like object as the unpackers want it."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self.n_read = 0
        self.closed = False
        self.mode = "rb"

    def read(self, n_bytes: int = -1) -> bytes:
        """Return the next bytes."""
        data = self._raw.read(n_bytes)
        self.n_read += len(data)
        return data

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return false."""
        return False

    def close(self) -> None:
        """Release what the reader holds."""
        self.closed = True


class UnpackedStream:
    """The content of a packed file from the start.

    Args:
        raw: the packed bytes.
        packing: one of `SIGNATURES`.
        name: the file's name in messages.
    """

    def __init__(self, raw: Raw, packing: str, name: str) -> None:
        self._name = name
        self._raw = raw
        self._counted = CountedRaw(raw)
        self._n_unpacked = 0
        self._rest = b""
        self._unpacked = self._open(packing)

    @property
    def n_consumed(self) -> int:
        """Return how many packed bytes were read so far."""
        return self._counted.n_read

    def read(self, n_bytes: int = -1) -> bytes:
        """Return the next bytes: all that remain by default, fewer than asked only at the end.

        Raises:
            InputError: the file expands too much, or is cut short or damaged.
        """
        parts: list[bytes] = []
        wanted = n_bytes if n_bytes >= 0 else 1 << 62
        while wanted > 0:
            try:
                part = self._unpacked.read(min(wanted, CHUNK_BYTES))
            except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
                raise InputError(
                    f"{self._name} is cut short or damaged ({str(error)[:80]}): expected a whole file; download or "
                    "copy it again"
                ) from error
            if not part:
                break
            self._n_unpacked += len(part)
            wanted -= len(part)
            parts.append(part)
            if self._n_unpacked > max(FREE_EXPANSION_BYTES, MAX_EXPANSION * self._counted.n_read):
                raise InputError(
                    f"{self._name} expands {self._counted.n_read:,} bytes to more than {self._n_unpacked:,}: expected "
                    f"at most {MAX_EXPANSION} times the packed size; check its source, or unpack it first"
                )
        return b"".join(parts)

    def close(self) -> None:
        """Release what the reader holds."""
        self._raw.close()

    def _open(self, packing: str) -> Any:
        if packing == "gzip":
            return gzip.GzipFile(fileobj=cast(BinaryIO, self._counted), mode="rb")
        if packing == "bzip2":
            return bz2.BZ2File(cast(BinaryIO, self._counted))
        if packing == "xz":
            return XzReader(self._counted)
        return pa.CompressedInputStream(pa.PythonFile(self._counted, mode="r"), "zstd")


class XzReader:
    """Unpacks xz with bounded memory, which `lzma.LZMAFile` does not."""

    def __init__(self, raw: CountedRaw) -> None:
        self._raw = raw
        self._decompressor = lzma.LZMADecompressor(memlimit=2 * MAX_LZMA_WINDOW_BYTES)

    def read(self, n_bytes: int) -> bytes:
        """Return up to `n_bytes` bytes; none only at the end."""
        while True:
            if self._decompressor.eof:
                rest = self._decompressor.unused_data or self._raw.read(CHUNK_BYTES)
                rest = rest.lstrip(b"\0")  # padding between streams
                if not rest:
                    return b""
                self._decompressor = lzma.LZMADecompressor(memlimit=2 * MAX_LZMA_WINDOW_BYTES)
                part = self._decompressor.decompress(rest, n_bytes)
            else:
                data = self._raw.read(CHUNK_BYTES) if self._decompressor.needs_input else b""
                if not data and self._decompressor.needs_input:
                    raise EOFError("the data ends too early")
                part = self._decompressor.decompress(data, n_bytes)
            if part:
                return part
