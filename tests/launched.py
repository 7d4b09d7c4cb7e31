"""Two processes of one run, as a launcher starts them, but forked from one that has the libraries loaded.

As a script this is that one: it reads a line of JSON for each pair of processes that it is to start, and answers with a
line that tells how both ended. A fork of the tests' own process would hang, as torch's threads are no part of a fork.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

# what `align` imports for a Stable Diffusion, much of it only once a run has begun
LIBRARIES = (
    "contrapose.cli.align",
    "contrapose.train.align",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers.models.clip.modeling_clip",
    "torch.utils.tensorboard",
    "diffusers.guiders",
    "peft",
)

SECONDS = 240  # a process that waits longer for the other one is ended


class Ended(NamedTuple):
    """How a process ended: its exit code and what it wrote to its standard error."""

    code: int
    err: str


class Launcher:
    """The process that others are forked from; it ends with this object's `close`."""

    def __init__(self) -> None:
        quiet = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | quiet,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start_two(self, arguments: list[object], write_last: bool = False, **environment: str) -> list[Ended]:
        """Both processes of `contrapose ARGUMENTS`, ended; with `write_last` the first writes weights last of all."""
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), **environment}
        request = {"arguments": [str(a) for a in arguments], "environment": shared, "write_last": write_last}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return [Ended(*ended) for ended in json.loads(self._process.stdout.readline())]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _serve() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            written = [Path(folder) / f"{rank}.err" for rank in (0, 1)]
            waits = [Path(folder) / f"{rank}.waits" for rank in (0, 1)]
            processes = [_forked(request, rank, written[rank], waits) for rank in (0, 1)]
            codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
            print(json.dumps([[code, path.read_text()] for code, path in zip(codes, written, strict=True)]), flush=True)


def _forked(request: dict[str, Any], rank: int, written: Path, waits: list[Path]) -> int:
    process = os.fork()
    if process:
        return process
    code = 70
    signal.alarm(SECONDS)
    try:
        os.environ |= request["environment"] | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        stderr = os.open(written, os.O_WRONLY | os.O_CREAT)
        os.dup2(stderr, 1)  # this process's own standard output is for answers
        os.dup2(stderr, 2)
        if request["write_last"]:
            _write_last(rank, waits)
        from contrapose.cli.main import main

        code = main(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        _count(waits[rank], 1_000)  # whoever waits for this process to wait need not any more
        sys.stderr.flush()
        os._exit(code)


def _write_last(rank: int, waits: list[Path]) -> None:
    """The first process writes its weights when the second waits for it, or has gone on and ended, as on a slow disk.

    Of a run that writes them once.
    """
    from accelerate import Accelerator

    from contrapose.train import align

    wait_for_everyone = Accelerator.wait_for_everyone
    save_step = align.save_step

    def counted(accelerator: Accelerator) -> None:
        _count(waits[rank])
        wait_for_everyone(accelerator)

    def save_last(*arguments: Any) -> None:
        while waits[1].stat().st_size <= waits[0].stat().st_size:
            time.sleep(0.02)
        save_step(*arguments)

    Accelerator.wait_for_everyone = counted
    align.save_step = save_last


def _count(waits: Path, times: int = 1) -> None:
    with waits.open("a") as file:
        file.write("." * times)


if __name__ == "__main__":
    _serve()
