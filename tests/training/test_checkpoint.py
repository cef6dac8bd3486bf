"""Checkpoints: a training that is killed goes on as if it had not been, and only from what is its own."""

import json
import signal
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from recsys.data.dataset import Ratings
from recsys.data.features import Features
from recsys.errors import TrainingError
from recsys.factors import Factors
from recsys.training import checkpoint
from recsys.training.build import EpochRecord
from recsys.training.checkpoint import Checkpoint
from recsys.training.config import Config, default_config
from recsys.training.fit import Fitted, fit
from tests import forked
from tests.training.made import checkerboard

REPOSITORY = Path(__file__).parents[2]

# Train with the checkpoint as a process of its own, which is killed as step `kill` ends; write every `every`th step.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
import torch
from recsys.training import checkpoint
from recsys.training.checkpoint import Checkpoint, save
from recsys.training.config import Config
from recsys.training.fit import fit
from tests.training.made import checkerboard

given = json.loads(sys.argv[1])
torch.set_num_threads(given["n_threads"])

def seldom(path, identity, state):
    if state["step"] % given["every"] == 0:
        save(path, identity, state)

def killed(step, n_steps):
    if step == given["kill"]:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save = seldom
fit(
    checkerboard(20, 12)[0],
    Config(**{**given["settings"], "hidden": tuple(given["settings"]["hidden"])}),
    device="cpu",
    seed=3,
    checkpoint=Checkpoint(Path(given["path"]), 0),
    on_step=killed,
)
"""


def train() -> Ratings:
    return checkerboard(20, 12)[0]


def settings(kind: str) -> Config:
    """Every use of chance: shuffling, hidden ratings, layers left out, candidates; and statistics that are kept."""
    n = train().n_ratings
    if kind == "dot rating":
        return default_config("rating", n, n_factors=4, n_epochs=3, batch_size=60)
    if kind == "dot ranking":
        return default_config("ranking", n, n_factors=4, n_epochs=3, batch_size=60, implicit_dropout=0.5)
    return default_config(
        "rating" if kind == "neural rating" else "ranking",
        n,
        architecture="neural",
        n_epochs=3,
        batch_size=60,
        hidden=(6, 4),
        dropout=0.3,
        batch_norm=True,
    )


KINDS = ["dot rating", "dot ranking", "neural rating", "neural ranking"]


def trained(
    config: Config,
    path: Path | None = None,
    *,
    data: Ratings | None = None,
    seed: int = 3,
    every_seconds: float = 0.0,
    on_step: Callable[[int, int], None] | None = None,
    **also: Any,
) -> Fitted:
    kept = None if path is None else Checkpoint(path, every_seconds)
    chosen = train() if data is None else data
    return fit(chosen, config, device="cpu", seed=seed, checkpoint=kept, on_step=on_step, **also)


def n_steps(config: Config) -> int:
    of_all: list[int] = []
    trained(config, on_step=lambda _, n: of_all.append(n))
    return of_all[0]


def arrays(of: object) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for field in fields(of):  # type: ignore[arg-type]
        value = getattr(of, field.name)
        if is_dataclass(value):
            found |= {f"{field.name}.{name}": array for name, array in arrays(value).items()}
        elif field.name == "layers":
            found |= {f"{place}": array for place, array in enumerate(array for layer in value for array in layer)}
        else:
            found[field.name] = np.asarray(value)
    return found


def assert_same(a: Fitted, b: Fitted) -> None:
    """Bit for bit, epochs included."""
    left, right = arrays(a.factors), arrays(b.factors)
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert np.array_equal(array, right[name]), name
    assert [(r.epoch, r.train_loss, r.valid) for r in a.history] == [
        (r.epoch, r.train_loss, r.valid) for r in b.history
    ]


def kill(config: Config, path: Path, step: int, *, every: int = 1) -> None:
    given = {
        "settings": config.as_record(),
        "path": str(path),
        "kill": step,
        "every": every,
        "n_threads": torch.get_num_threads(),
    }
    done = forked.run(["-c", PROGRAM, json.dumps(given)], cwd=REPOSITORY)
    assert done.returncode == -signal.SIGKILL, done.stderr


def step_of(path: Path) -> int:
    """How far a checkpoint is."""
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    step: int = json.loads(header["__metadata__"]["recsys"])["state"]["step"]
    return step


@pytest.mark.parametrize(("kind", "every"), [(kind, 1) for kind in KINDS[:3]] + [("neural rating", 4)])
def test_a_killed_training_goes_on_bit_for_bit(kind: str, every: int, tmp_path: Path) -> None:
    config, path = settings(kind), tmp_path / "checkpoint.safetensors"
    of_all = n_steps(config)
    step = int(np.random.default_rng(KINDS.index(kind) + every).integers(every + 1, of_all))
    kill(config, path, step, every=every)
    assert step_of(path) == (step - 1) // every * every  # the step that was killed had not been kept yet
    steps: list[int] = []
    again = trained(config, path, on_step=lambda step, _: steps.append(step))
    assert_same(again, trained(config))
    assert steps == list(range((step - 1) // every * every + 1, of_all + 1))
    assert [record.epoch for record in again.history] == [1, 2, 3]


def test_a_training_can_be_killed_twice(tmp_path: Path) -> None:
    config, path = settings("dot rating"), tmp_path / "checkpoint.safetensors"
    first, second = sorted(np.random.default_rng(0).choice(np.arange(2, n_steps(config)), 2, replace=False).tolist())
    kill(config, path, first)
    kill(config, path, second)
    assert step_of(path) == second - 1
    assert_same(trained(config, path), trained(config))


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_goes_on_from_any_step(kind: str, tmp_path: Path) -> None:
    """Ends of epochs, the first step and the last included."""
    config = settings(kind)
    whole = trained(config)
    for stop_at in range(1, n_steps(config) + 1):
        path = tmp_path / str(stop_at)

        def stop(step: int, _: int, stop_at: int = stop_at) -> None:
            if step == stop_at:
                raise StoppedError

        with pytest.raises(StoppedError):
            trained(config, path, on_step=stop)
        assert path.exists() == (stop_at > 1)
        assert_same(trained(config, path), whole)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_features_and_parts_of_batches_go_on_as_well(accumulate: int, tmp_path: Path) -> None:
    data = with_features(train())
    config, path = settings("dot rating"), tmp_path / "checkpoint"

    def stop(step: int, _: int) -> None:
        if step == 7:
            raise StoppedError

    with pytest.raises(StoppedError):
        trained(config, path, data=data, on_step=stop, accumulate=accumulate)
    again = trained(config, path, data=data, accumulate=accumulate)
    assert_same(again, trained(config, data=data, accumulate=accumulate))


def with_features(data: Ratings, name: str = "kind: a") -> Ratings:
    return replace(data, item_features=Features(np.arange(20), np.arange(21), np.zeros(20, np.int32), (name,)))


def test_a_training_that_is_done_is_not_repeated(tmp_path: Path) -> None:
    config, path = settings("neural rating"), tmp_path / "checkpoint"
    epochs: list[EpochRecord] = []
    steps: list[int] = []
    done = trained(config, path)
    again = trained(config, path, on_step=lambda step, _: steps.append(step), on_epoch=epochs.append)
    assert_same(done, again)
    assert steps == []
    assert epochs == []


def test_checkpoints_change_nothing_and_are_written_as_often_as_asked(tmp_path: Path) -> None:
    config = settings("dot ranking")
    plain = trained(config)
    assert_same(plain, trained(config, tmp_path / "often"))
    assert_same(plain, trained(config, tmp_path / "never", every_seconds=1e6))
    assert [path.name for path in tmp_path.iterdir()] == ["often"]


def test_seconds_count_from_the_first_start(tmp_path: Path) -> None:
    config, path = settings("dot rating"), tmp_path / "checkpoint"
    done = trained(config, path)
    assert trained(config, path).seconds > done.history[-1].seconds


def test_what_was_validated_is_kept(tmp_path: Path) -> None:
    config, path = settings("dot rating"), tmp_path / "checkpoint"

    def stop(step: int, n_steps: int) -> None:
        if step == n_steps - 1:
            raise StoppedError

    def validate(factors: Factors) -> float:
        return float(factors.item_bias.sum())

    with pytest.raises(StoppedError):
        trained(config, path, validate=validate, on_step=stop)
    again = trained(config, path, validate=validate)
    assert len({record.valid for record in again.history}) == 3
    assert_same(again, trained(config, validate=validate))


def made_checkpoint(path: Path) -> Config:
    config = settings("dot rating")
    trained(config, path)
    return config


def test_writing_that_breaks_off_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint"
    config = made_checkpoint(path)
    before = path.read_bytes()

    def broken(tensors: dict[str, torch.Tensor], aside: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, aside, metadata)
        aside.write_bytes(aside.read_bytes()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    state = checkpoint.load(path, identity_of(path))
    assert state is not None
    with pytest.raises(TrainingError, match=r"checkpoint .* cannot be written .*No space left.*free space"):
        checkpoint.save(path, identity_of(path), state)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert_same(trained(config, path), trained(config))


def identity_of(path: Path) -> dict[str, Any]:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    identity: dict[str, Any] = json.loads(header["__metadata__"]["recsys"])["identity"]
    return identity


def test_a_checkpoint_that_was_cut_off_beside_it_is_not_read(tmp_path: Path) -> None:
    """As a kill while writing leaves it: the file beside is only ever a whole one when it is renamed."""
    path = tmp_path / "checkpoint"
    config = made_checkpoint(path)
    (tmp_path / ".checkpoint.12345").write_bytes(path.read_bytes()[:100])
    assert_same(trained(config, path), trained(config))


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"data": train().select(np.arange(100))}, "order, ratings"),
        ({"data": with_features(train())}, "ratings"),
        ({"seed": 4}, "seed"),
        ({"config": replace(settings("dot rating"), l2=0.5)}, "settings"),
        ({"accumulate": 2}, "accumulate"),
        ({"rating_scale": (0, 5)}, "scale"),
        ({"seed": 4, "config": settings("neural rating")}, "seed, settings"),
    ],
    ids=["ratings", "features", "seed", "settings", "parts", "scale", "two things"],
)
def test_a_checkpoint_of_another_training_is_refused(change: dict[str, Any], differs: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    config = made_checkpoint(path)
    before = path.read_bytes()
    with pytest.raises(TrainingError, match=rf"of another training \({differs} differ\): delete it, or repeat"):
        trained(**({"config": config, "path": path} | change))
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_kind_of_device_is_refused(tmp_path: Path) -> None:
    """Its random generator has a state of another kind."""
    path = tmp_path / "checkpoint"
    made_checkpoint(path)
    assert checkpoint.load(path, identity_of(path)) is not None
    with pytest.raises(TrainingError, match=r"of another training \(device differ\)"):
        checkpoint.load(path, identity_of(path) | {"device": "cuda"})


def test_a_checkpoint_of_the_same_ratings_under_other_keys_is_refused(tmp_path: Path) -> None:
    """Their fingerprint is the same, but the rows of the tables are other items."""
    path, data = tmp_path / "checkpoint", train()
    config = made_checkpoint(path)
    turned = data.n_items - 1 - data.item_idx
    other = replace(data, item_idx=turned, item_hash=data.item_hash[::-1].copy())
    assert other.fingerprint() == data.fingerprint()
    with pytest.raises(TrainingError, match=r"of another training \(order differ\)"):
        trained(config, path, data=other)


def test_a_checkpoint_of_the_same_ratings_in_another_order_is_refused(tmp_path: Path) -> None:
    """Batches are drawn by the place of a rating: it would go on, but not as if it had not been stopped."""
    path, data = tmp_path / "checkpoint", train()
    config = made_checkpoint(path)
    with pytest.raises(TrainingError, match=r"of another training \(order differ\)"):
        trained(config, path, data=data.select(np.arange(data.n_ratings)[::-1]))


@pytest.mark.parametrize("content", ["nothing", "text", "cut off", "others", "pickle", "folder"])
def test_a_file_that_is_no_checkpoint_says_to_delete_it(content: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    config = made_checkpoint(path)
    whole = path.read_bytes()
    path.unlink()
    if content == "others":  # whole, but of something else
        save_file({"a": torch.zeros(1)}, path)
    elif content == "pickle":
        torch.save({"a": torch.zeros(1)}, path)
    elif content == "folder":
        path.mkdir()
    else:
        path.write_bytes({"nothing": b"", "text": b"not a checkpoint", "cut off": whole[: len(whole) // 2]}[content])
    with pytest.raises(TrainingError, match=r"checkpoint .* cannot be read .*delete it to train from the start"):
        trained(config, path)


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match=r"checkpoint .* cannot be written .*name another folder"):
        trained(settings("dot rating"), tmp_path / "file" / "checkpoint")


def test_folders_of_a_checkpoint_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "checkpoint"
    made_checkpoint(path)
    assert [found.name for found in path.parent.iterdir()] == ["checkpoint"]


def test_a_checkpoint_is_numbers_and_json(tmp_path: Path) -> None:
    """A safetensors file: the length of a header of JSON, the header, bytes. Nothing that could run."""
    path = tmp_path / "checkpoint"
    made_checkpoint(path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header.pop("__metadata__")["recsys"])
    assert set(about) == {"format", "identity", "state"}
    assert about["identity"]["settings"] == settings("dot rating").as_record()
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(content) - 8 - size
    assert {entry["dtype"] for entry in header.values()} <= {"F32", "F64", "I32", "I64", "U8"}
