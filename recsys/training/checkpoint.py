"""Checkpoints: all that a training needs to go on as if it had not been stopped.

safetensors and JSON, so that nothing that is loaded can run code.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recsys.errors import TrainingError
from recsys.training.optimizer import AdamW

EVERY_SECONDS = 60.0
"""How much work a killed training loses at most."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where to keep the state of a training, and how often.

    Attributes:
        path: a file; there or not. It is written aside and renamed, so a reader sees all of one or nothing.
        every_seconds: at the end of the first step after so long.
    """

    path: Path
    every_seconds: float = EVERY_SECONDS


@dataclass(frozen=True, slots=True)
class State:
    """A training between two steps.

    Attributes:
        tensors: parameters, optimiser and random generators by name.
        identity: what is trained on what; another training must not go on from here.
        progress: how far it is, and the record of its epochs.
    """

    tensors: Mapping[str, Tensor]
    identity: Mapping[str, Any]
    progress: Mapping[str, Any]


def save(path: Path, state: State) -> None:
    """Write a state, aside first.

    Raises:
        TrainingError: the file cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    about = json.dumps({"identity": state.identity, "progress": state.progress})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in state.tensors.items()}, aside, {"recsys": about})
        with aside.open("rb+") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):  # nor is there anything to delete where a file is in the way of a folder
            aside.unlink()
        raise TrainingError(
            f"checkpoint {path} cannot be written ({error}): free space, or name another folder (RECSYS_CHECKPOINTS)"
        ) from error


def load(path: Path, identity: Mapping[str, Any]) -> State | None:
    """The state in a file; None where there is no file.

    Raises:
        TrainingError: it cannot be read, or is of another training than `identity` says.
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
            about = json.loads((file.metadata() or {})["recsys"])
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        of, progress = about["identity"], about["progress"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"checkpoint {path} cannot be read ({error}): delete it to train from the start") from error
    wanted = json.loads(json.dumps(identity))
    if of != wanted:
        differs = sorted(name for name in {*of, *wanted} if of.get(name) != wanted.get(name))
        raise TrainingError(
            f"checkpoint {path} is of another training ({', '.join(differs)} differ): "
            "delete it, or train what it was made with"
        )
    return State(tensors, of, progress)


def tensors_of(model: torch.nn.Module, optimizer: AdamW, extra: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters, buffers and the optimiser's state, by name."""
    tensors = {f"model.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.tensors().items()}
    return {**tensors, **{f"extra.{name}": tensor for name, tensor in extra.items()}}


def restore(model: torch.nn.Module, optimizer: AdamW, state: State) -> dict[str, Tensor]:
    """Put what `tensors_of` took back in place; returns the extra tensors.

    Raises:
        TrainingError: the tensors are not those of this model, as after an upgrade.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "extra": {}}
    try:
        for name, tensor in state.tensors.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = tensor
        model.load_state_dict(parts["model"])
        optimizer.restore(parts["optimizer"])
    except (RuntimeError, KeyError) as error:
        raise TrainingError(
            "the checkpoint is of a model of another shape: delete it to train from the start"
        ) from error
    return parts["extra"]
