"""Folders that `recsys export` wrote: a manifest with checksums, and users and items exactly as they were stored."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from recsys.data.messages import printable
from recsys.data.rows import ItemRow, UserRow
from recsys.data.whole_file import whole_file
from recsys.errors import InputError

FORMAT = 1
"""Number of the format. A reader refuses a larger one."""
MANIFEST = "export.json"

What = Literal["ratings", "events", "items", "users"]


class ExportedFile(BaseModel):
    """What the manifest says of one file."""

    name: str
    holds: str
    n_rows: int
    sha256: str


class ExportManifest(BaseModel):
    """What an export holds."""

    format: int
    made_by: str
    files: list[ExportedFile]

    def file_of(self, what: What) -> str | None:
        """Return the name of the file that holds something; `None` if there is none."""
        return next((file.name for file in self.files if file.holds == what), None)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> ExportManifest | None:
    """Return what an export holds, once each of its files was checked; `None` if the folder is no export.

    Raises:
        InputError: a file is missing or changed, or another version wrote the folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    name = printable(str(folder))
    try:
        content = json.loads(path.read_bytes())
        format = content.get("format") if isinstance(content, dict) else None
        if isinstance(format, int) and format > FORMAT:
            raise InputError(
                f"{name} is an export of format {format}, and this version reads up to {FORMAT}: recsys "
                f"{printable(str(content.get('made_by')))} wrote it; install that version, or load its files one by one"
            )
        manifest = ExportManifest.model_validate(content)
        for file in manifest.files:
            if Path(file.name).name != file.name or checksum(folder / file.name) != file.sha256:
                raise InputError(
                    f"{name}/{printable(file.name)} is not as it was exported, so nothing was loaded: copy it "
                    f"again; or delete {MANIFEST} and load the files one by one"
                )
    except (ValueError, ValidationError) as error:
        raise InputError(f"{name}/{MANIFEST} is damaged: export or copy the folder again") from error
    except OSError as error:
        raise InputError(
            f"{printable(str(error.filename))} cannot be read ({error.strerror}): copy it again"
        ) from error
    return manifest


def note_removal(path: Path, n_rows: int) -> None:
    """Change the manifest of an export whose file lost some rows; nothing where the file is of no export.

    Raises:
        OSError: the manifest cannot be replaced.
        ValueError: it is damaged.
    """
    manifest = path.with_name(MANIFEST)
    if not manifest.is_file():
        return
    content = ExportManifest.model_validate_json(manifest.read_bytes())
    for file in content.files:
        if file.name == path.name:
            file.n_rows -= n_rows
            file.sha256 = checksum(path)
            if not file.n_rows:
                path.unlink()  # a file without rows is refused by every reader
    content.files = [file for file in content.files if file.n_rows]
    with whole_file(manifest) as beside:
        beside.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_items(path: Path) -> tuple[list[ItemRow], list[str]]:
    """Return the items of an export, and the ids of those that are hidden.

    Raises:
        InputError: the file is not what an export writes.
    """
    items, hidden = [], []
    with naming_file(path):
        for row in read_rows(path):
            categories = tuple(json.loads(row["categories"]))
            items.append(ItemRow(row["item_id"], row["title"] or None, categories, None, json.loads(row["attributes"])))
            if row["hidden"] in (True, "true"):
                hidden.append(row["item_id"])
    return items, hidden


def read_users(path: Path) -> list[UserRow]:
    """Return the users of an export.

    Raises:
        InputError: the file is not what an export writes.
    """
    with naming_file(path):
        return [
            UserRow(row["user_id"], tuple(json.loads(row["categories"])), json.loads(row["attributes"]))
            for row in read_rows(path)
        ]


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Turn errors of a file whose checksum is right, and which an export did not write, into an `InputError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{printable(str(path))} is not what `recsys export` writes ({printable(str(error)[:80])}): export it "
            f"again, or delete {MANIFEST} and load the files one by one"
        ) from error


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, by name of the column."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
        return
    csv.field_size_limit(1 << 28)
    with path.open(newline="", encoding="utf-8") as text:
        yield from csv.DictReader(text)
