"""Run Python programs as forks of one process that has already imported what they need.

Starting Python and importing torch, SQLAlchemy and pyarrow takes most of the time of a small command. The server
imports them once. Each program is still a process of its own, with its own folder, environment, output and exit code.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import importlib.util
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jobs
import recsys

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "alembic.command",
    "optuna",
    "plotly.graph_objects",
    "pyarrow.csv",
    "pyarrow.parquet",
    "rich.progress",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
)
STARTED = "jobs.cli.main"  # run as `__main__`, so not imported before


@functools.cache
def server() -> "Server":
    """Start the server, once for each test process."""
    return Server()


def run(
    arguments: list[str], *, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS`, where the arguments begin with `-m MODULE` or `-c CODE`, in a fork of the server.

    Returns:
        What `subprocess.run(..., capture_output=True, text=True)` returns.
    """
    return server().run(arguments, cwd, dict(os.environ if env is None else env), timeout)


class Server:
    """The process that forks, seen from the test."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "200", "JE_ARROW_MALLOC_CONF": "background_thread:false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.lock = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def run(
        self, arguments: list[str], cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with tempfile.TemporaryDirectory() as folder, self.lock:
            outputs = Path(folder, "stdout"), Path(folder, "stderr")
            request = {"arguments": arguments, "cwd": str(cwd), "env": env, "outputs": [str(path) for path in outputs]}
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            pid = int(self.process.stdout.readline())
            timer = threading.Timer(timeout, kill, (pid,))
            timer.start()
            code = int(self.process.stdout.readline())
            timer.cancel()
            stdout, stderr = (path.read_text(encoding="utf-8") for path in outputs)
        return subprocess.CompletedProcess([sys.executable, *arguments], code, stdout, stderr)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def serve() -> dict[str, Any] | None:
    """Fork for each request on standard input.

    Returns:
        In the server, None at the end of the input. In a fork, the request that it is to run.
    """
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            request: dict[str, Any] = json.loads(line)
            return request
        os.write(1, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return None


def become(request: dict[str, Any]) -> NoReturn:
    """Run the program of a request in this process, and end it with the exit code of the program."""
    for descriptor, path in enumerate(request["outputs"], start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    option, program, *rest = request["arguments"]
    sys.argv = [option, *rest]
    code: object = None
    try:
        if option == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(program, {"__name__": "__main__"})
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)  # noqa: T201 - as Python does
        code = 1
    # The end of an interpreter visits every imported object: in a fork this copies all their memory, for a second.
    # Of what the program itself left behind, `collect` closes files and connections; imported objects are frozen.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    for package in (recsys, jobs):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name == "recsys.training.kernels" and importlib.util.find_spec("triton") is None:
                continue  # only CUDA builds of torch bring Triton
            if module.name != STARTED:
                importlib.import_module(module.name)
    gc.freeze()
    request = serve()
    if request is not None:
        become(request)
