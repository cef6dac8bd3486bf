"""Files that a reader sees whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the name of a new file in the same folder, which takes the place of `path` once the block has ended.

    It is on the disk by then. If the block raises, or makes no file, what was at `path` stays.

    Raises:
        OSError: the file cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        yield beside
        if beside.exists():
            with beside.open("rb+") as written:
                os.fsync(written.fileno())
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
