"""How a text file is written: its delimiter, quotes, encoding and header, found from its first lines."""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.data.messages import quote_value
from recsys.errors import InputError
from recsys.files.archives import Entry
from recsys.files.columns import looks_like_header

DELIMITERS = ("::", "\t", ",", ";", "|", " ")
"""What can stand between columns, the surest first; " " is any run of blanks and tabs."""

HEAD_BYTES = 1 << 18
"""How much of a file is looked at; no line may be longer."""

N_SAMPLED = 100
"""How many lines are compared."""

BLANKS = re.compile(r"[ \t]+")

_FOREIGN = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip inside a zip",
    b"\x1f\x8b": "packed with gzip",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ": "packed with xz",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"7z\xbc\xaf": "a 7z archive",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a numpy array",
    b"ARROW1": "Arrow IPC",
    b"\xd0\xcf\x11\xe0": "an old Excel sheet",
    b'{"': "JSON",
    b"[{": "JSON",
    b"<!": "HTML",
    b"<html": "HTML",
    b"<?xml": "XML",
}
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r")) + b"\x7f"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the lines of one text file are to be read.

    Attributes:
        delimiter: one of `DELIMITERS`.
        quoted: whether a field that starts with `"` goes on to the closing `"`, with `""` for one inside.
        encoding: `utf-8` or `latin-1`.
        header: names of the columns, None where the first line is data.
        n_columns: fields a line must have.
        first_line: 1-based number of the first line after the header.
        n_skipped_bytes: bytes before that line: byte order mark, blank lines and header.
    """

    delimiter: str
    quoted: bool
    encoding: str
    header: tuple[str, ...] | None
    n_columns: int
    first_line: int
    n_skipped_bytes: int


def sniff(
    entry: Entry,
    delimiters: Sequence[str],
    words: frozenset[str],
    min_columns: int,
    has_header: bool | None = None,
) -> Dialect:
    """The dialect of a text file.

    The delimiter is the one by which most of the first lines have the same number of fields. `::` files and
    MovieLens' `u.item` and `u.user` are UTF-8 if all of the file is, else Latin-1; all others are UTF-8.

    Args:
        delimiters: which of `DELIMITERS` may be meant.
        words: known names of columns, `simplified`; see `looks_like_header`.
        min_columns: fewer columns are chosen only where nothing else fits.
        has_header: whether the first line names the columns; None looks at it.

    Raises:
        InputError: the file is empty, holds only a header, or is not a table in text.
    """
    with entry.open() as stream:
        head = stream.read(HEAD_BYTES)
    whole = len(head) < HEAD_BYTES
    _refuse_foreign(entry, head)
    n_mark_bytes = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    lines = head[n_mark_bytes:].split(b"\n")
    if not whole:
        lines.pop()  # cut off in the middle
    filled = [i for i, line in enumerate(lines) if line.strip()]
    if not filled:
        if whole:
            raise InputError(f"{entry.name} is empty: expected ratings, items or users; write or copy the file again")
        raise _no_table(entry, 1, head[n_mark_bytes:])
    # One character per byte: nothing that is sniffed depends on the encoding.
    sample = [lines[i].decode("latin-1").rstrip("\r") for i in filled[:N_SAMPLED]]
    of_movielens = entry.basename.endswith((".item", ".user"))
    quotable = not of_movielens
    delimiter = _find_delimiter(sample, delimiters, quotable, min_columns)
    if delimiter is None:
        raise _no_table(entry, filled[0] + 1, lines[filled[0]])
    quoted = quotable and delimiter not in ("::", " ")
    fields = [split_line(line, delimiter, quoted) for line in sample]
    encoding = "utf-8"
    if (delimiter == "::" or of_movielens) and not _is_utf8(entry):
        encoding = "latin-1"
    if has_header is None:
        has_header = looks_like_header(fields[0], fields[1:], words)
    if not has_header:
        n_columns = Counter(map(len, fields)).most_common(1)[0][0]
        return Dialect(delimiter, quoted, encoding, None, n_columns, 1, n_mark_bytes)
    if len(filled) == 1 and whole:
        raise InputError(
            f"{entry.name}:{filled[0] + 1}: a header and no rows: expected rows after {quote_value(sample[0])}; "
            "write the file again"
        )
    header = tuple(name.encode("latin-1").decode(encoding, "replace").strip() for name in fields[0])
    n_header_bytes = sum(len(line) + 1 for line in lines[: filled[0] + 1])
    return Dialect(delimiter, quoted, encoding, header, len(header), filled[0] + 2, n_mark_bytes + n_header_bytes)


def split_line(line: str, delimiter: str, quoted: bool) -> list[str]:
    """The fields of one line."""
    if delimiter == " ":
        return BLANKS.split(line.strip(" \t\r\n"))
    if quoted and '"' in line:
        try:
            return next(csv.reader([line], delimiter=delimiter))
        except csv.Error:
            pass
    return line.split(delimiter)


def _find_delimiter(lines: Sequence[str], delimiters: Sequence[str], quotable: bool, min_columns: int) -> str | None:
    agreeing: dict[str, tuple[bool, int]] = {}
    for delimiter in delimiters:
        quoted = quotable and delimiter not in ("::", " ")
        counts = Counter(len(split_line(line, delimiter, quoted)) for line in lines)
        n_columns, n_lines = counts.most_common(1)[0]
        # Prose has blanks too, though not the same number in every line.
        enough = len(lines) / 2 if delimiter == " " else 0
        if n_columns >= (min_columns if delimiter == " " else 2) and n_lines > enough:
            agreeing[delimiter] = (n_columns >= min_columns, n_lines)
    return max(agreeing, key=agreeing.__getitem__) if agreeing else None


def _refuse_foreign(entry: Entry, head: bytes) -> None:
    for start, what in _FOREIGN.items():
        if head.startswith(start):
            raise InputError(
                f"{entry.name} is {what}: expected CSV, TSV, '::' text, Parquet, or a zip of one; convert or unpack it"
            )
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _is_half_zeros(head):
        raise InputError(
            f"{entry.name} is UTF-16: expected UTF-8; save it as UTF-8, or convert it with iconv -f UTF-16 -t UTF-8"
        )
    n_controls = len(head) - len(head.translate(None, _CONTROLS))
    if n_controls > len(head) * 0.3 or (n_controls > len(head) * 0.02 and not _is_text(head)):
        raise InputError(
            f"{entry.name} is not text: expected CSV, TSV, '::' text, Parquet, or a zip of one; convert it"
        )
    if b"\n" not in head and b"\r" in head.strip():
        raise InputError(
            f"{entry.name} ends its lines with a carriage return alone: expected line feeds; "
            "convert it with tr '\\r' '\\n'"
        )


def _is_half_zeros(head: bytes) -> bool:
    """Whether this is ASCII in UTF-16 without a byte order mark."""
    even, odd = head[::2], head[1::2]
    return len(head) >= 8 and (
        (not any(even) and odd.isascii() and all(odd)) or (not any(odd) and even.isascii() and all(even))
    )


def _is_text(head: bytes) -> bool:
    try:
        # The head may end inside a character.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _is_utf8(entry: Entry) -> bool:
    """Whether all of a file is UTF-8: one pass over it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with entry.open() as stream:
        try:
            while chunk := stream.read(1 << 22):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _no_table(entry: Entry, line: int, text: bytes) -> InputError:
    return InputError(
        f"{entry.name}:{line}: {quote_value(text)} is not a row of a table: expected columns between commas, tabs, "
        "semicolons, pipes, '::' or blanks, or a Parquet file; check the file and --format"
    )
