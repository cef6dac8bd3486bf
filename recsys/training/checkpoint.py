"""Checkpoints: the state of a training in a file, from which it continues as if it had not been stopped.

A file is safetensors with JSON metadata, so that loading one cannot run code.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recsys.data.whole_file import whole_file
from recsys.errors import TrainingError
from recsys.training.build import Run

FORMAT = 3
"""Version of the layout of a file. Files of format 1 have no such number."""

EVERY_SECONDS = 60.0
"""Default time between two checkpoints: the most work that a killed training loses."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The file of a checkpoint, and how often to write it.

    Attributes:
        path: existing or not. A new state is written beside it and renamed, so that a reader sees all of it.
        every_seconds: time after which the state is written at the end of the next step.
        save_last: whether to write the last state too, so that a later `fit` returns the same without training.
    """

    path: Path
    every_seconds: float = EVERY_SECONDS
    save_last: bool = False


class Keeper:
    """Saves the state of a run in its checkpoint, and restores it.

    Args:
        identity: what the ratings, settings and device of a training must agree in, by JSON's types.
    """

    def __init__(self, checkpoint: Checkpoint, identity: Mapping[str, Any], run: Run) -> None:
        self._checkpoint, self._identity, self._run = checkpoint, identity, run
        self._last_kept = time.perf_counter()

    def restore(self) -> bool:
        """Continue from the checkpoint and return whether there is one.

        Raises:
            TrainingError: it cannot be read, or is of another training.
        """
        state = load(self._checkpoint.path, self._identity)
        if state is None:
            return False
        try:
            self._run.load_state_dict(state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise TrainingError(
                f"checkpoint {self._checkpoint.path} is of a model of another shape: delete it to train from the start"
            ) from error
        self._last_kept = time.perf_counter()
        return True

    def keep(self) -> None:
        """Save the state if the last save is `every_seconds` ago, or if it is the last and that one is wanted.

        Raises:
            TrainingError: the file cannot be written.
        """
        is_last = self._checkpoint.save_last and self._run.step == self._run.n_steps
        if not is_last and time.perf_counter() - self._last_kept < self._checkpoint.every_seconds:
            return
        save(self._checkpoint.path, self._identity, self._run.state_dict())
        self._last_kept = time.perf_counter()


def save(path: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the state of a training, through a file beside it.

    Args:
        identity: what another training differs in, by JSON's types.
        state: dicts, lists, tensors and JSON's types, as `Run.state_dict` returns them.

    Raises:
        TrainingError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    plain = take_tensors(state, tensors)
    metadata = json.dumps({"format": FORMAT, "identity": identity, "state": plain})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as beside:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside, {"recsys": metadata})
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"checkpoint {path} cannot be written ({error}): free space, or name another folder (RECSYS_CHECKPOINTS)"
        ) from error


def load(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state that `save` wrote, `None` if there is no file.

    Raises:
        TrainingError: the file cannot be read, is of an earlier version of recsys, or has another identity.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)
    except OSError as error:
        raise TrainingError(
            f"checkpoint {path} cannot be written ({error}): name another folder (RECSYS_CHECKPOINTS)"
        ) from error
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})["recsys"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        found, format = metadata["identity"], metadata.get("format", 1)
        state = put_tensors(metadata["state"], tensors) if format == FORMAT else {}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(f"checkpoint {path} cannot be read ({error}): delete it to train from the start") from error
    if format != FORMAT:
        raise TrainingError(
            f"checkpoint {path} has format {format}, and this version of recsys reads format {FORMAT}: "
            "delete it to train from the start"
        )
    expected = json.loads(json.dumps(identity))
    if found != expected:
        differs = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise TrainingError(
            f"checkpoint {path} is of another training ({', '.join(differs)} differ): "
            "delete it, or repeat the training that wrote it"
        )
    return dict(state)


def take_tensors(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Return a nested value with a reference in place of every tensor, and put the tensors into `tensors` by name.

    A tensor's name is its path, such as `model.users.own_factors`.
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {str(key): take_tensors(part, tensors, f"{name}.{key}".lstrip(".")) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [take_tensors(part, tensors, f"{name}.{idx}") for idx, part in enumerate(value)]
    return value


def put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return a nested value with the tensors that `take_tensors` took out of it.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            return tensors[value["tensor"]]
        # JSON has no integers as keys, by which an optimiser's state dict numbers its parameters.
        return {int(key) if key.isdigit() else key: put_tensors(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [put_tensors(part, tensors) for part in value]
    return value
