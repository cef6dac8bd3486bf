"""Members of zips, decompressed in bounded steps.

`zipfile` reads the directory; the members are decompressed here, because `zipfile` decompresses a whole block of
bzip2 or LZMA at once, however large it becomes.
"""

import bz2
import lzma
import struct
import zipfile
import zlib
from typing import Protocol

from recsys.data.limits import FREE_EXPANSION_BYTES, MAX_EXPANSION, MAX_LZMA_WINDOW_BYTES, MAX_ZIP_DIRECTORY_BYTES
from recsys.errors import InputError
from recsys.files.disk import DiskFile, DiskReader

START_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
ENCRYPTED = 0x1  # bit 0 of a member's general purpose flags
COMPRESSED_CHUNK_BYTES = 1 << 16


def read_directory(file: DiskFile) -> list[zipfile.ZipInfo]:
    """Return the members of a zip, without folders.

    Raises:
        InputError: the directory is larger than `MAX_ZIP_DIRECTORY_BYTES`.
    """
    try:
        # zipfile reads the whole directory in one step, so the limit of a step is a limit of the directory.
        with zipfile.ZipFile(DiskReader(file, max_read_bytes=MAX_ZIP_DIRECTORY_BYTES)) as archive:
            return [info for info in archive.infolist() if not info.is_dir()]
    except OverflowError as error:
        raise InputError(
            f"{file.name} has a directory of {int(error.args[0]):,} bytes: expected at most "
            f"{MAX_ZIP_DIRECTORY_BYTES:,}; pack only the files of ratings, items and users"
        ) from error


class Decompressor(Protocol):
    """Decompresses a stream in steps of bounded size."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return at most `max_length` bytes; data that is not needed yet is kept."""

    @property
    def needs_input(self) -> bool:
        """Return whether more compressed data is needed."""

    @property
    def eof(self) -> bool:
        """Return whether the end of the stream was reached."""


class Inflater:
    """Deflate with the interface of `bz2` and `lzma`."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return at most `max_length` bytes."""
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        """Return whether all data so far is used."""
        return not self._zlib.unconsumed_tail

    @property
    def eof(self) -> bool:
        """Return whether the end of the stream was reached."""
        return self._zlib.eof


class MemberStream:
    """The bytes of one member from the start.

    Args:
        name: the member's name in messages.

    Raises:
        InputError: the member is encrypted, packed in an unknown way, or expands too much.
        zipfile.BadZipFile: the member's header is damaged.
    """

    def __init__(self, file: DiskFile, info: zipfile.ZipInfo, name: str) -> None:
        if info.flag_bits & ENCRYPTED:
            raise InputError(f"{name} is encrypted: expected a zip without a password; unpack it first")
        if info.file_size > max(FREE_EXPANSION_BYTES, MAX_EXPANSION * info.compress_size):
            raise InputError(
                f"{name} expands {info.compress_size:,} bytes to {info.file_size:,}: expected at most "
                f"{MAX_EXPANSION} times the compressed size; check the source of the zip, or unpack it first"
            )
        self._info = info
        self._reader = DiskReader(file)
        self._reader.seek(info.header_offset)
        header = self._reader.read(30)
        if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile("Bad magic number for file header")
        n_name_bytes, n_extra_bytes = struct.unpack_from("<HH", header, 26)
        self._reader.seek(n_name_bytes + n_extra_bytes, 1)
        self._n_compressed = info.compress_size  # that remain
        self._n_read = 0
        self._crc = 0
        self._decompressor = self._make_decompressor()

    def read(self, n_bytes: int = -1) -> bytes:
        """Return the next bytes: all that remain by default, fewer than asked only at the end.

        Raises:
            zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError: the member is damaged.
        """
        remaining = self._info.file_size - self._n_read
        wanted = remaining if n_bytes < 0 else min(n_bytes, remaining)
        parts: list[bytes] = []
        while wanted > 0:
            part = self._next(wanted)
            self._crc = zlib.crc32(part, self._crc)
            self._n_read += len(part)
            wanted -= len(part)
            parts.append(part)
        if self._n_read == self._info.file_size and self._crc != self._info.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self._info.filename!r}")
        return b"".join(parts)

    def close(self) -> None:
        """Do nothing: the disk file stays open for other readers."""

    def _next(self, n_bytes: int) -> bytes:
        """Return from 1 to `n_bytes` bytes."""
        if self._decompressor is None:
            part = self._compressed(n_bytes)
            if not part:
                raise EOFError("the data ends too early")
            return part
        while True:
            if self._decompressor.eof:
                raise zipfile.BadZipFile("the data ends before the size in the directory")
            data = self._compressed(COMPRESSED_CHUNK_BYTES) if self._decompressor.needs_input else b""
            part = self._decompressor.decompress(data, n_bytes)
            if part:
                return part
            if not data and self._decompressor.needs_input and not self._decompressor.eof:
                raise EOFError("the data ends too early")

    def _compressed(self, n_bytes: int) -> bytes:
        data = self._reader.read(min(n_bytes, self._n_compressed))
        self._n_compressed -= len(data)
        return data

    def _make_decompressor(self) -> Decompressor | None:
        match self._info.compress_type:
            case zipfile.ZIP_STORED:
                return None
            case zipfile.ZIP_DEFLATED:
                return Inflater()
            case zipfile.ZIP_BZIP2:
                return bz2.BZ2Decompressor()
            case zipfile.ZIP_LZMA:
                return self._make_lzma()
            case other:
                raise NotImplementedError(f"compression type {other}")

    def _make_lzma(self) -> Decompressor:
        """Read the header of LZMA data: version, size of the properties, properties. Source: APPNOTE 5.8.8."""
        header = self._compressed(9)
        if len(header) < 9 or struct.unpack_from("<H", header, 2)[0] != 5:
            raise zipfile.BadZipFile("damaged LZMA header")
        packed, window = struct.unpack_from("<BI", header, 4)
        if packed >= 9 * 5 * 5 or window > MAX_LZMA_WINDOW_BYTES:
            raise NotImplementedError(f"LZMA with a window of {window:,} bytes")
        lp_pb, lc = divmod(packed, 9)
        pb, lp = divmod(lp_pb, 5)
        filters = [{"id": lzma.FILTER_LZMA1, "dict_size": window, "lc": lc, "lp": lp, "pb": pb}]
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
