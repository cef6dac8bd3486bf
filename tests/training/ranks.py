"""Ranks for tests: forks of the process that has imported torch already."""

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests import forked

LAUNCH = """
import json, os, runpy, sys, traceback
import torch
torch.set_num_threads(1)
ranks = json.loads({ranks!r})
children = []
for rank, arguments in enumerate(ranks):
    if arguments is None:
        continue
    child = os.fork()
    if child == 0:
        size = str(len(ranks))
        os.environ.update(RANK=str(rank), WORLD_SIZE=size, LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=size,
                          MASTER_ADDR="127.0.0.1", MASTER_PORT={port!r})
        sys.modules.pop("jobs.train", None)
        output = os.open(f"rank{{rank}}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        code = 1
        try:
            {run}
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(json.dumps(codes))
"""
COMMAND = "sys.argv = ['train', *arguments]; runpy.run_module('jobs.train', run_name='__main__')"


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def launch(
    folder: Path, ranks: Sequence[Sequence[str] | None], run: str = COMMAND, timeout: float = 240
) -> tuple[list[int], list[str]]:
    """Run `torchrun -m jobs.train` with these arguments of each rank, or other code; a rank of `None` does not start.

    Returns:
        The exit codes and the outputs.
    """
    program = LAUNCH.format(ranks=json.dumps(ranks), port=free_port(), run=run)
    env = os.environ | {"RECSYS_DATABASE_URL": f"sqlite:///{folder}/recsys.db", "OMP_NUM_THREADS": "1"}
    done = forked.run(["-c", program], cwd=folder, env=env, timeout=timeout)
    assert done.returncode == 0, done.stderr
    outputs = [(folder / f"rank{rank}.txt").read_text() for rank, each in enumerate(ranks) if each is not None]
    return json.loads(done.stdout), outputs


def elastic(
    folder: Path, size: int, restarts: int, setup: str, arguments: Sequence[str]
) -> subprocess.CompletedProcess:
    """Run ranks under torchrun's elastic agent; each runs `setup` first."""
    program = f"""
import os, runpy, sys
import torch
torch.set_num_threads(1)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
def entry():
    import signal
    sys.modules.pop("jobs.train", None)
{setup}
    sys.argv = ["train", *{list(arguments)!r}]
    try:
        runpy.run_module("jobs.train", run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
config = LaunchConfig(1, 1, {size}, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", run_id="test",
                      max_restarts={restarts}, monitor_interval=0.1, start_method="fork")
elastic_launch(config, entry)()
"""
    env = os.environ | {"RECSYS_DATABASE_URL": f"sqlite:///{folder}/recsys.db", "OMP_NUM_THREADS": "1"}
    return forked.run(["-c", program], cwd=folder, env=env)


def write_ratings(folder: Path, n_users: int = 300, n_items: int = 120, n: int = 9000, n_files: int = 3) -> None:
    """Write ratings that a product of factors explains, in several Parquet files."""
    folder.mkdir()
    random = np.random.default_rng(0)
    users, items = random.normal(size=(n_users, 3)), random.normal(size=(n_items, 3))
    for number in range(n_files):
        user = random.integers(0, n_users, n // n_files)
        item = (n_items * random.random(len(user)) ** 2).astype(int)
        rating = 3.3 + (users[user] * items[item]).sum(1) * 0.6 + random.normal(size=len(user)) * 0.4
        table = {
            "user_id": [f"u{each}" for each in user.tolist()],
            "item_id": [f"i{each}" for each in item.tolist()],
            "rating": np.clip(np.round(2 * rating) / 2, 0.5, 5).astype(np.float32),
            "timestamp": 1_500_000_000 + np.arange(len(user)) * 100 + number,
        }
        pq.write_table(pa.table(table), folder / f"part-{number:05d}.parquet")
