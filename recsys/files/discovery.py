"""Which files of a folder or zip hold ratings, items and users, and how each is opened."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from recsys.data.columns import EVENT_COLUMNS, ITEM_COLUMNS, RATING_COLUMNS, USER_COLUMNS, normalize_name
from recsys.data.messages import join_names, printable
from recsys.errors import InputError
from recsys.files.delimited import DelimitedFile
from recsys.files.dialect import DELIMITERS, sniff
from recsys.files.entries import Entry, Folder, locate
from recsys.files.exported import MANIFEST
from recsys.files.items import ItemFile, MovieLens100KItems
from recsys.files.json_lines import JsonLinesFile, is_json_lines
from recsys.files.parquet import MAGIC, ParquetFile
from recsys.files.parts import PartsEntry, PartsFile, find_parts
from recsys.files.tabular import TabularFile
from recsys.files.users import UserFile

FORMATS = ("auto", "ml-100k", "ml-latest", "dat", "csv", "tsv", "jsonl", "parquet")
"""Values of `format`: `auto` decides by the content; `dat` is `::` between columns."""

RATING_FILES: Mapping[str, tuple[str, ...]] = {
    "auto": ("u.data", "ratings.csv", "ratings.tsv", "ratings.dat", "ratings.jsonl", "ratings.parquet"),
    "ml-100k": ("u.data",),
    "ml-latest": ("ratings.csv",),
    "dat": ("ratings.dat",),
    "csv": ("ratings.csv",),
    "tsv": ("ratings.tsv", "u.data"),
    "jsonl": ("ratings.jsonl",),
    "parquet": ("ratings.parquet",),
}
"""Format → names of files of ratings in a folder or zip."""
DELIMITERS_OF_FORMAT: Mapping[str, tuple[str, ...]] = {
    "auto": DELIMITERS,
    "ml-100k": ("\t",),
    "ml-latest": (",",),
    "dat": ("::",),
    "csv": (",", ";", "|"),
    "tsv": ("\t",),
}
TABLE_SUFFIXES = ("csv", "tsv", "dat", "jsonl", "parquet")
METADATA_FILES: Mapping[str, tuple[str, ...]] = {
    "items": ("u.item", *(f"{name}.{suffix}" for name in ("movies", "items") for suffix in TABLE_SUFFIXES)),
    "users": ("u.user", *(f"users.{suffix}" for suffix in TABLE_SUFFIXES)),
}
"""Names of files of items and of users in a folder or zip."""


def choose_ratings(folder: Folder, format: str) -> Entry:
    """Return the one file of ratings in a folder or zip.

    Raises:
        InputError: there is none, or more than one.
    """
    candidates = folder.named(*RATING_FILES[format])
    if folder.named(MANIFEST) and folder.named(*(f"events.{suffix}" for suffix in ("parquet", "csv"))):
        raise InputError(
            f"{folder.name} is an export with events, of which only the ratings would be loaded: expected a folder on "
            "the disk; unpack or copy it there"
        )
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise InputError(
            f"{folder.name} holds {len(candidates)} files of ratings: expected one; "
            f"name the one to read: {join_names([entry.name for entry in candidates])}"
        )
    if folder.path is not None and (parts := find_parts(folder.path, folder.name, folder.holder)) is not None:
        return parts
    others = f"; it holds {join_names([entry.name for entry in folder.entries])}" if folder.entries else ""
    raise InputError(
        f"{folder.name} holds no ratings: expected {' or '.join(RATING_FILES[format])}; name the file to read{others}"
    )


def find_metadata(what: Literal["items", "users"], typed: str | Path | None, beside: Folder | None) -> Entry | None:
    """Return the file of items or users: the named one, or the one beside the ratings, if there is one.

    Args:
        typed: the path that the user named.
        beside: the folder of the ratings; `None` if files beside them are not to be read.

    Raises:
        InputError: there are several, or the named folder holds none.
    """
    located = beside if typed is None else locate(typed)
    if not isinstance(located, Folder):
        return located
    names = METADATA_FILES[what]
    candidates = located.named(*names)
    if len(candidates) > 1:
        raise InputError(
            f"{located.name} holds {len(candidates)} files of {what}: expected one; "
            f"name one with --{what}: {join_names([entry.name for entry in candidates])}"
        )
    if not candidates and typed is not None:
        raise InputError(
            f"{printable(str(typed))} holds no {what}: expected {' or '.join(names)}; name the file with --{what}"
        )
    return candidates[0] if candidates else None


def open_ratings(entry: Entry, format: str, mapping: Mapping[str, str], min_columns: int = 3) -> TabularFile:
    """Open a file of ratings.

    Args:
        format: one of `FORMATS`.
        mapping: role → the column's name or number that the user named.
        min_columns: of a row; 2 if there is no rating.

    Raises:
        InputError: the file is not a table, or of another format.
    """
    if isinstance(entry, PartsEntry):
        return PartsFile(entry, lambda part: open_ratings(part, format, mapping, min_columns))
    if format == "parquet" or (is_parquet(entry) and format == "auto"):
        return ParquetFile(entry)
    if is_parquet(entry):
        raise InputError(f"{entry.name} is Parquet: expected {format}; leave --format out, or give parquet")
    if format == "jsonl" or (format == "auto" and is_json_lines(entry)):
        return JsonLinesFile(entry)
    names = (
        normalized(RATING_COLUMNS)
        | normalized(EVENT_COLUMNS)
        | {normalize_name(name) for name in mapping.values() if not name.isdecimal()}
    )
    return DelimitedFile(entry, sniff(entry, DELIMITERS_OF_FORMAT[format], names, min_columns=min_columns))


def open_items(
    entry: Entry, mapping: Mapping[str, str], own: Mapping[str, str] | None = None
) -> ItemFile | MovieLens100KItems:
    """Open a file of items.

    Raises:
        InputError: the file is not a table of items.
    """
    if is_parquet(entry):
        return ItemFile(ParquetFile(entry), mapping, own)
    if is_json_lines(entry):
        return ItemFile(JsonLinesFile(entry), mapping, own)
    if entry.suffix == ".item" and b":token" not in entry.head[:4096]:
        return MovieLens100KItems(DelimitedFile(entry, sniff(entry, ("|",), frozenset(), min_columns=3)))
    return ItemFile(
        DelimitedFile(entry, sniff(entry, DELIMITERS, normalized(ITEM_COLUMNS), min_columns=2)), mapping, own
    )


def open_users(entry: Entry, mapping: Mapping[str, str], own: Mapping[str, str] | None = None) -> UserFile:
    """Open a file of users.

    Raises:
        InputError: the file is not a table of users.
    """
    if is_parquet(entry):
        return UserFile(ParquetFile(entry), mapping, own)
    if is_json_lines(entry):
        return UserFile(JsonLinesFile(entry), mapping, own)
    names = normalized(USER_COLUMNS)
    if entry.suffix == ".user" and b":token" not in entry.head[:4096]:
        return UserFile(DelimitedFile(entry, sniff(entry, ("|",), names, min_columns=3)), mapping, own)
    # Only MovieLens' own files have no header.
    has_header = None if entry.suffix == ".dat" else True
    return UserFile(DelimitedFile(entry, sniff(entry, DELIMITERS, names, 2, has_header)), mapping, own)


def is_parquet(entry: Entry) -> bool:
    """Return whether a file is Parquet, by its first bytes or its name: an empty file has no bytes."""
    return entry.head.startswith(MAGIC) or entry.suffix == ".parquet"


def normalized(columns: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return all names of some roles, normalized."""
    return frozenset(normalize_name(name) for names in columns.values() for name in names)
