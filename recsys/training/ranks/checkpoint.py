"""Checkpoints of a training over ranks, by `torch.distributed.checkpoint`: to be continued on any number of ranks.

The tables are saved lane by lane, each by the rank that has it. A checkpoint counts once the file `run.json`, which is
written last, is there. The folder must be one that all ranks share. Its files are pickles, as those of
`torch.distributed.checkpoint` are: keep others from writing there (the folder is made with mode 0700).
"""

import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp

from recsys.errors import TrainingError
from recsys.training.checkpoint import EVERY_SECONDS
from recsys.training.ranks.group import Group
from recsys.training.ranks.tables import Tables

_FORMAT = 1
_NUMBERS = "run.json"


class RankCheckpoint:
    """The folder of the checkpoints of one training.

    Args:
        identity: what the data and the settings of a training must agree in, by JSON's types.
        every_seconds: time after which the state is saved at the end of the next window.
    """

    def __init__(
        self, group: Group, folder: Path, identity: Mapping[str, Any], every_seconds: float = EVERY_SECONDS
    ) -> None:
        self._group, self._folder = group, folder
        self._identity = json.loads(json.dumps(identity))
        self._every = every_seconds
        self._last_kept = time.perf_counter()

    def restore(self, tables: Tables) -> dict[str, Any] | None:
        """Load the newest checkpoint into the tables, and return its numbers; `None` if there is none.

        Raises:
            TrainingError: it is of another training or cannot be read, or the ranks see different folders.
        """
        found = self._group.agree(self._newest)
        seen = self._group.gather_objects(None if found is None else found[0].name)
        if len(set(seen)) > 1:
            raise TrainingError(
                f"the ranks see different checkpoints in {self._folder} ({', '.join(map(str, seen))}): name a folder "
                "that all machines share (RECSYS_CHECKPOINTS)"
            )
        if found is None:
            return None
        path, stored = found
        tables.prepare(stored["numbers"]["tables"])
        state = tables.state()

        def load() -> None:
            try:
                with quietly():
                    dcp.load(state, checkpoint_id=path, process_group=self._group.work, no_dist=self._group.size == 1)
            except Exception as error:
                raise TrainingError(
                    f"checkpoint {path} cannot be read ({str(error).splitlines()[0][:120]}): delete it to train from "
                    "the one before, or from the start"
                ) from error

        self._group.agree(load)
        self._last_kept = time.perf_counter()
        return dict(stored["numbers"])

    def keep(self, tables: Tables, numbers: Mapping[str, Any], *, is_last: bool) -> None:
        """Save the state if the last time is long ago, or if it is the last one of a long training.

        Raises:
            TrainingError: it cannot be written.
        """
        due = time.perf_counter() - self._last_kept >= self._every or (is_last and numbers["seconds"] >= self._every)
        if not self._group.from_rank(0, due):
            return
        path = self._folder / f"step-{numbers['step']:09d}"

        def save() -> None:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with quietly():
                    dcp.save(
                        tables.state(),
                        checkpoint_id=path,
                        process_group=self._group.work,
                        no_dist=self._group.size == 1,
                    )
            except Exception as error:
                raise TrainingError(
                    f"checkpoint {path} cannot be written ({str(error).splitlines()[0][:120]}): free space, or name "
                    "another folder (RECSYS_CHECKPOINTS)"
                ) from error

        self._group.agree(save)
        if self._group.rank == 0:
            stored = {
                "format": _FORMAT,
                "identity": self._identity,
                "numbers": {**numbers, "tables": tables.numbers()},
            }
            beside = path / f".{_NUMBERS}"
            with beside.open("w") as file:
                json.dump(stored, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path / _NUMBERS)
            for other in self._folder.glob("step-*"):
                if other != path:
                    shutil.rmtree(other, ignore_errors=True)
        self._last_kept = time.perf_counter()

    def delete(self) -> None:
        """Delete all checkpoints of this training."""
        if self._group.rank == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        for path in sorted(self._folder.glob("step-*"), reverse=True):
            try:
                stored = json.loads((path / _NUMBERS).read_text())
            except FileNotFoundError:  # a rank was killed while it was written
                continue
            except (OSError, ValueError) as error:
                raise TrainingError(
                    f"checkpoint {path} cannot be read ({error}): delete it to train from the start"
                ) from error
            if stored["format"] != _FORMAT or stored["identity"] != self._identity:
                names = {*stored["identity"], *self._identity}
                differs = sorted(
                    name for name in names if stored["identity"].get(name) != self._identity.get(name)
                ) or ["format"]
                raise TrainingError(
                    f"checkpoint {path} is of another training ({', '.join(differs)} differ): delete it, or repeat the "
                    "training that wrote it"
                )
            return path, stored
        return None


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out the warnings of `torch.distributed.checkpoint` about a process without ranks and its own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
