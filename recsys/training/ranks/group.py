"""The ranks of one training: how they find each other, exchange rows, and fail together.

Tensors on the CPU go through gloo, tensors on CUDA devices through NCCL. Every function is called by all ranks, in the
same order.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from secrets import token_hex
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from recsys import errors
from recsys.errors import InputError, RecsysError, TrainingError

START_SECONDS = 50.0
"""Time that ranks wait for each other at the start, and until they agree about the data."""
WORK_SECONDS = 2 * 3600.0
"""Time that ranks wait for each other later: rank 0 measures and stores for all. One that died is noticed at once."""

T = TypeVar("T")


class Group:
    """The ranks of one training; a single process is a group of one.

    Attributes:
        rank, size: number of this rank, from 0, and of all ranks.
        device: where the tables of this rank are.
        n_bytes: bytes that this rank has sent to others in `exchange`, `sum_` and `gather`.
        work: the process group that waits long for its ranks; `None`: the one that waits `START_SECONDS`.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None, work: Any = None) -> None:
        self.rank, self.size = rank, size
        self.device = device or torch.device("cpu")
        self.n_bytes = 0
        self.work = work

    @property
    def starting(self) -> "Group":
        """The same ranks, which wait for each other no longer than at the start."""
        return Group(self.rank, self.size, self.device)

    def agree(self, call: Callable[[], T]) -> T:
        """Return what `call` returns on this rank; if it fails on one, every rank raises the error of the first one.

        Raises:
            RecsysError: the call failed on a rank.
        """
        result, failure = None, None
        try:
            result = call()
        except RecsysError as error:
            failure = error
        except (OSError, MemoryError) as error:
            failure = TrainingError(f"{type(error).__name__}: {error}")
        self.raise_first(failure)
        return result  # type: ignore[return-value]

    def raise_first(self, failure: RecsysError | None) -> None:
        """Raise the error of the first rank that has one, on every rank."""
        said = self.gather_objects(None if failure is None else (type(failure).__name__, str(failure)))
        for rank, each in enumerate(said):
            if each is None:
                continue
            if failure is not None and each == (type(failure).__name__, str(failure)):
                raise failure
            kind = getattr(errors, each[0], TrainingError)
            if kind not in (InputError, TrainingError):
                kind = TrainingError
            raise kind(f"rank {rank}: {each[1]}")

    def gather_objects(self, value: T) -> list[T]:
        """Return the value of every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with explain_loss():
            dist.all_gather_object(found, value, group=self.work)
        return found

    def sum_(self, values: Tensor) -> None:
        """Replace the values of each rank by their sums over the ranks."""
        if self.size > 1:
            self.n_bytes += values.numel() * values.element_size()
            with explain_loss():
                dist.all_reduce(values, group=self.work)

    def sum_array(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sums over the ranks of an array of int64 or float64."""
        tensor = torch.from_numpy(np.ascontiguousarray(values).copy())
        self.sum_(tensor)
        return tensor.numpy()

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all ranks, one after the other: (n, …) → (size, n, …)."""
        if self.size == 1:
            return values[None]
        found = values.new_empty(self.size, *values.shape)
        self.n_bytes += values.numel() * values.element_size() * (self.size - 1)
        with explain_loss():
            dist.all_gather(list(found.unbind()), values.contiguous(), group=self.work)
        return found

    def exchange(self, values: Tensor, n_to: Sequence[int], n_from: Sequence[int]) -> Tensor:
        """Send rows to every rank, and return those that the ranks send to this one, in the order of the ranks.

        Args:
            values: (Σ n_to, …), the rows for rank 0 first.
            n_to, n_from: rows for each rank, and rows from each.
        """
        return self.start_exchange(values, n_to, n_from)()

    def start_exchange(self, values: Tensor, n_to: Sequence[int], n_from: Sequence[int]) -> Callable[[], Tensor]:
        """Start an `exchange`, and return the function that waits for it."""
        if self.size == 1:
            return lambda: values
        values = values.contiguous()
        received = values.new_empty(sum(n_from), *values.shape[1:])
        width = values[0].numel() if len(values) else int(np.prod(values.shape[1:]))
        self.n_bytes += (len(values) - n_to[self.rank]) * width * values.element_size()
        with explain_loss():
            # gloo takes the rows as one flat tensor only where their number may be 0.
            work = dist.all_to_all_single(received, values, list(n_from), list(n_to), group=self.work, async_op=True)

        def wait() -> Tensor:
            with explain_loss():
                work.wait()
            return received

        return wait

    def exchange_counts(self, n_to: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many rows each rank will send to this one: (size, …) → (size, …)."""
        if self.size == 1:
            return n_to
        sent = torch.from_numpy(np.ascontiguousarray(n_to, np.int64))
        return self.exchange(sent, [1] * self.size, [1] * self.size).numpy()

    def exchange_bytes(self, parts: Sequence[bytes]) -> list[bytes]:
        """Send bytes to every rank, and return those that each sends to this one."""
        if self.size == 1:
            return list(parts)
        n_to = np.array([len(part) for part in parts], np.int64)
        n_from = self.exchange_counts(n_to)
        joined = np.frombuffer(b"".join(parts), np.uint8)
        sent = torch.from_numpy(joined.copy() if len(joined) else np.empty(0, np.uint8))
        received = self.exchange(sent, n_to.tolist(), n_from.tolist()).numpy()
        ends = np.cumsum(n_from)
        return [received[end - n : end].tobytes() for end, n in zip(ends.tolist(), n_from.tolist(), strict=True)]

    def stream_to_first(self, parts: Iterator[T]) -> Iterator[T]:
        """Send the parts of every rank to rank 0, one at a time; it yields them rank by rank, the others yield nothing.

        The iterators of all ranks must be taken to their end.
        """
        if self.rank:
            for part in parts:
                self._send(part)
            self._send(None)
            return
        yield from parts
        for rank in range(1, self.size):
            while (part := self._receive(rank)) is not None:
                yield part

    def _send(self, part: object) -> None:
        with explain_loss():
            dist.send_object_list([part], 0, group=self.work)

    def _receive(self, rank: int) -> Any:
        holder: list[Any] = [None]
        with explain_loss():
            dist.recv_object_list(holder, rank, group=self.work)
        return holder[0]

    def from_rank(self, rank: int, value: T | None) -> T:
        """Return the value of one rank on every rank."""
        holder: list[Any] = [value]
        if self.size > 1:
            with explain_loss():
                dist.broadcast_object_list(holder, src=rank, group=self.work)
        return holder[0]  # type: ignore[no-any-return]


@contextmanager
def explain_loss() -> Iterator[None]:
    """Turn an error of the transport into one that says that a rank was lost.

    Raises:
        TrainingError: another rank is gone, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"another rank stopped or did not answer ({str(error).splitlines()[0][:120]}): see its own message; "
            "torchrun --max-restarts 3 starts all ranks again, and they go on from the last checkpoint"
        ) from error


@contextmanager
def joined(device: str = "auto", seconds: float = START_SECONDS) -> Iterator[Group]:
    """Join the ranks that `torchrun` started, and leave them at the end. Without torchrun, it is a group of one.

    Args:
        device: `auto` (CUDA if every rank of this machine has a device of its own, else the CPU), `cpu` or `cuda`.
        seconds: how long to wait for the other ranks.

    Raises:
        TrainingError: not all ranks came, or the device is missing.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = pick_rank_device(device)
    if size == 1 and "MASTER_ADDR" not in os.environ:
        yield Group(0, 1, chosen)
        return
    backend = "gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl"
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=seconds)))
        store = dist.PrefixStore(agree_on_start(store, rank, size, seconds), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=seconds))
        dist.monitored_barrier(dist.new_group(backend="gloo"), timedelta(seconds=seconds))
    except (RuntimeError, ValueError, TimeoutError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise TrainingError(
            f"rank {rank} of {size}: not all ranks met at {where} within {seconds:g} seconds "
            f"({str(error).splitlines()[0][:120]}): start the same command on every machine, with the same "
            "--rdzv-endpoint, which each must reach"
        ) from error
    try:
        work = dist.new_group(backend=backend, timeout=timedelta(seconds=WORK_SECONDS))
        yield Group(rank, size, chosen, work)
    finally:
        dist.destroy_process_group()


def agree_on_start(store: dist.Store, rank: int, size: int, seconds: float) -> str:
    """Return a name for this start of the ranks, which rank 0 draws.

    torchrun keeps one store for all its restarts: without such a name a rank would try to reach one that was killed, by
    what that one wrote.

    Raises:
        TimeoutError: not all ranks came.
    """
    until, own = time.monotonic() + seconds, token_hex(8)

    def wait_for(key: str) -> None:
        while not store.check([key]):
            if time.monotonic() > until:
                raise TimeoutError(f"rank {key.rpartition('/')[2]} did not come")
            time.sleep(0.01)

    if rank:
        store.set(f"hello/{rank}", own)
        wait_for(f"start/{own}/0")
        start = store.get(f"start/{own}/0").decode()
        store.set(f"{start}/{rank}", "here")
        return start
    for other in range(1, size):
        while not store.check([f"{own}/{other}"]):
            wait_for(f"hello/{other}")
            store.set(f"start/{store.get(f'hello/{other}').decode()}/0", own)
            if time.monotonic() > until:
                raise TimeoutError(f"rank {other} did not come")
            time.sleep(0.01)
    return own


def pick_rank_device(name: str) -> torch.device:
    """Return the device of this rank.

    Raises:
        TrainingError: there is no CUDA device for it.
    """
    local, n_local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    n_devices = torch.cuda.device_count() if name != "cpu" else 0
    if name == "cuda" and n_devices < n_local:
        raise TrainingError(
            f"device cuda: {n_local} ranks on this machine and {n_devices} CUDA devices: start as many ranks as it has "
            "devices (torchrun --nproc-per-node), or train with --device cpu"
        )
    if n_devices < n_local or n_devices == 0:
        return torch.device("cpu")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
