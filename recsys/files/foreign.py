"""Files that are not tables in UTF-8 text, recognised by their first bytes."""

import codecs

from recsys.errors import InputError

FORMAT_OF_START = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip inside a zip",
    b"\x1f\x8b": "packed twice",
    b"7z\xbc\xaf": "a 7z archive",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a numpy array",
    b"ARROW1": "Arrow IPC",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"{\\rtf": "a text document",
    b"\x04\x22\x4d\x18": "packed with lz4",
    b"Rar!": "a RAR archive",
    b"<!": "HTML",
    b"<html": "HTML",
    b"<?xml": "XML",
}
CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r")) + b"\x7f"


def refuse_foreign(name: str, head: bytes) -> None:
    """Refuse a file whose first bytes are not UTF-8 text in lines.

    Raises:
        InputError: it is another format, UTF-16, binary, or ends its lines with a carriage return alone.
    """
    for start, what in FORMAT_OF_START.items():
        if head.startswith(start):
            raise InputError(
                f"{name} is {what}: expected CSV, TSV, '::' text, JSON lines, Parquet, or a zip of one; convert or "
                "unpack it"
            )
    if head[257:262] == b"ustar":
        raise InputError(f"{name} is a tar archive: expected one file, a folder or a zip; unpack it with tar -xf")
    if head.lstrip().startswith(b"["):
        first = head.lstrip()[1:].lstrip()
        if first.startswith((b"{", b"[")):
            raise InputError(
                f"{name} is one JSON array: expected one JSON object a line; convert it with jq -c '.[]' {name}"
            )
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or is_unmarked_utf16(head):
        raise InputError(
            f"{name} is UTF-16: expected UTF-8; save it as UTF-8, or convert it with iconv -f UTF-16 -t UTF-8"
        )
    n_controls = len(head) - len(head.translate(None, CONTROL_BYTES))
    if n_controls > len(head) * 0.3 or (n_controls > len(head) * 0.02 and not is_utf8(head, whole=False)):
        raise InputError(
            f"{name} is not text: expected CSV, TSV, '::' text, JSON lines, Parquet, or a zip of one; convert it"
        )
    if b"\n" not in head and b"\r" in head.strip():
        raise InputError(
            f"{name} ends its lines with a carriage return alone: expected line feeds; convert it with tr '\\r' '\\n'"
        )


def is_unmarked_utf16(head: bytes) -> bool:
    """Return whether the bytes are ASCII characters in UTF-16 without a byte order mark."""
    even, odd = head[::2], head[1::2]
    return len(head) >= 8 and (
        (not any(even) and odd.isascii() and all(odd)) or (not any(odd) and even.isascii() and all(even))
    )


def is_utf8(text: bytes, whole: bool = True) -> bool:
    """Return whether bytes are UTF-8.

    Args:
        whole: whether the last character must be complete.
    """
    if text.isascii():
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text, final=whole)
    except UnicodeDecodeError:
        return False
    return True
