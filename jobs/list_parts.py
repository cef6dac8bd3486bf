"""The lists of all users as a folder of Parquet files: by several processes, and again after an interruption."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from pyarrow.parquet import ParquetWriter
from sqlalchemy import Engine

from jobs.progress import progress
from jobs.recommend import CHUNK_USERS, SCHEMA, UserQuery, chunk_lists
from recsys.data.whole_file import whole_file
from recsys.database.engine import reading
from recsys.database.made_files import note_files
from recsys.database.user_chunks import count_users, last_user_key, read_chunks
from recsys.errors import InputError
from recsys.results import AllListsReport
from recsys.serving.snapshot import load_recommender

PART_KEYS = 65_536
"""Keys of users whose lists are one file: what an interrupted run loses at most."""

ABOUT, DONE = "_lists.json", "_SUCCESS"
"""The file that says what the folder holds, and the one that says that it holds all of it."""


class Share(NamedTuple):
    """The share of the files that a process writes: every `n`-th, from the `number`-th on; `number` is from 1."""

    number: int = 1
    n: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Return the share that a text such as `2/4` names.

        Raises:
            InputError: it is not one.
        """
        number, _, n = text.partition("/")
        if not (number.isdecimal() and n.isdecimal() and 1 <= int(number) <= int(n)):
            raise InputError(f"--share {text}: expected the number of this process and how many there are, such as 2/4")
        return cls(int(number), int(n))


def recommend_parts(engine: Engine, folder: Path, query: UserQuery, share: Share = Share()) -> AllListsReport:  # noqa: B008
    """Write the lists of all users, or a share of them, to `part-00000.parquet`, … in a folder.

    The files have the columns of `recommend_all`. Each is written under another name and renamed when it is on the
    disk. Files that are there already stay as they are, so that a run that was interrupted goes on where it stopped.
    The file `_SUCCESS` appears with the last one.

    Raises:
        InputError: the folder holds lists of another version or with other settings, or cannot be written.
    """
    started = perf_counter()
    with reading(engine) as connection:
        recommender = load_recommender(connection)
        model = recommender.list_model(query.model)
        n_users, n_parts = count_users(connection), -(-last_user_key(connection) // PART_KEYS)
    list_query = query.list_query(recommender.catalogue)
    paths = [folder / f"part-{part:05}.parquet" for part in range(n_parts)]
    metadata = {"recsys.model_version": str(model.number) if model else "none"}
    n_rows = n_listed = n_written = 0
    with named_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        claim(folder, metadata["recsys.model_version"], query)
        with progress("recommending", n_users) as advance:
            for part in range(share.number - 1, n_parts, share.n):
                if paths[part].exists():
                    continue
                for left in folder.glob(f".{paths[part].name}.*"):  # by a process that was killed
                    left.unlink(missing_ok=True)
                with (
                    whole_file(paths[part]) as partial,
                    reading(engine) as connection,
                    ParquetWriter(partial, SCHEMA.with_metadata(metadata)) as file,
                ):
                    for chunk in read_chunks(connection, CHUNK_USERS, part * PART_KEYS, (part + 1) * PART_KEYS):
                        table = chunk_lists(connection, recommender, model, chunk, list_query)
                        file.write_table(table)
                        n_rows, n_listed = n_rows + len(table), n_listed + len(chunk.user_ids)
                        advance(len(chunk.user_ids))
                note_files(engine, [paths[part]], "table")
                n_written += 1
        n_left = sum(not path.exists() for path in paths)
        if not n_left:
            (folder / DONE).touch()
    return AllListsReport(
        model_version=model.number if model else None,
        users=n_listed,
        rows=n_rows,
        file=str(folder),
        seconds=round(perf_counter() - started, 3),
        files_written=n_written,
        files_left=n_left,
        ignored=list(query.ignored(recommender.catalogue)) or None,
    )


def claim(folder: Path, model_version: str, query: UserQuery) -> None:
    """Note in a folder what its lists are, or check that they are the same.

    Raises:
        InputError: they are of another version, or have other settings.
    """
    settings = json.dumps(asdict(query), sort_keys=True, default=repr)
    mine = {
        "model_version": model_version,
        "settings": blake2b(settings.encode(), digest_size=8).hexdigest(),
        "part_keys": PART_KEYS,
    }
    path = folder / ABOUT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        with whole_file(path) as beside:
            beside.write_text(json.dumps(mine), encoding="utf-8")
        return
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): choose another folder with --out, or delete it") from error
    if found != mine:
        version = found.get("model_version") if isinstance(found, dict) else None
        what = f"lists of model version {version}" if version != model_version else "lists with other options"
        raise InputError(
            f"{folder} holds {what}, and these are of version {model_version}: choose another folder with --out, or "
            "delete it"
        )


@contextmanager
def named_errors(folder: Path) -> Iterator[None]:
    """Raise `InputError` where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror or error}): choose another folder with --out"
        ) from error
