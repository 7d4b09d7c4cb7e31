"""Processes of a run, alone or several as a launcher starts them, but forked from one that has the libraries loaded.

As a script this is that one: it reads lines of JSON that say what it is to start, and answers each with a line: how
all of several processes ended, the number of one alone, or how that one ended. A fork of the tests' own process would
hang, as torch's threads are no part of a fork.
"""

from __future__ import annotations

import errno
import gc
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
from collections.abc import Iterator, Sequence
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

SECONDS = 600  # a process that waits longer for the other one is ended
ACQUAINTED = {"ACCELERATE_USE_CPU": "true"}
"""With it processes on CPUs know of each other, as those on GPUs do."""


def own_groups(num_prompts: int) -> list[str]:
    """Settings of groups that a model draws and judges itself, all of `num_prompts` prompts in one batch."""
    judge = [
        "--rollout-judges",
        "self-confidence",
        "--rollout-judges.0.probes",
        "2",
        "--rollout-judges.0.probe-steps",
        "3",
    ]
    num = str(num_prompts)
    # samples of one prompt fill a batch, so that all batches are the same in one process
    return [*judge, "--samples-per-prompt", "2", "--prompts-per-draw", num, "--rollout-steps", "2", "--buffer", num]


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
        return self.start(2, [arguments], write_last=write_last, **environment)

    def start(
        self,
        num: int,
        lines: Sequence[list[object]],
        write_last: bool = False,
        kill_at: int = 0,
        kill_keeping: int = 0,
        full_keeping: int = 0,
        **environment: str,
    ) -> list[Ended]:
        """So many processes, ended, each of one `contrapose` after another, up to the first that fails.

        With `kill_at` they are killed in the last one, after this optimiser step and before it is written down. With
        `kill_keeping` the last process is, when it has written its shards of so many steps and that one is not kept;
        with `full_keeping` its disk is full when it is about to.
        """
        shared = {"WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **environment}
        request = {"lines": [[str(a) for a in line] for line in lines], "environment": shared, "kill_at": kill_at}
        request |= {"kill_keeping": kill_keeping, "full_keeping": full_keeping}
        return [Ended(*ended) for ended in self._ask({**request, "write_last": write_last, "num": num})]

    def start_one(self, arguments: list[object]) -> int:
        """The number of a process of `contrapose ARGUMENTS` that has begun, and says nothing."""
        return self._ask({"lines": [[str(a) for a in arguments]], "environment": {}, "kill_at": 0, "alone": True})

    def code_of(self, process: int) -> int:
        """The exit code of a process that was started alone, once it ends: that of a signal is negative."""
        return self._ask({"ending": process})

    def _ask(self, request: dict[str, Any]) -> Any:
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _serve() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the forks look for what is to be freed among their own objects alone
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


def _answer(request: dict[str, Any]) -> Any:
    if "ending" in request:
        return _code_of(request["ending"])
    if "alone" in request:
        return _forked(request, {}, Path(os.devnull))
    with tempfile.TemporaryDirectory() as folder:
        numbers = range(request["num"])
        written = [Path(folder) / f"{rank}.err" for rank in numbers]
        waits = [Path(folder) / f"{rank}.waits" for rank in numbers] if request["write_last"] else []
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in numbers]
        processes = [_forked(request, of_rank, path, waits) for of_rank, path in zip(ranks, written, strict=True)]
        codes = [_code_of(process) for process in processes]
        return [[code, path.read_text()] for code, path in zip(codes, written, strict=True)]


def _code_of(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _forked(request: dict[str, Any], of_rank: dict[str, str], written: Path, waits: Sequence[Path] = ()) -> int:
    process = os.fork()
    if process:
        return process
    code = 70
    signal.alarm(SECONDS)
    try:
        os.environ |= request["environment"] | of_rank
        from huggingface_hub import constants

        # the library read it when it was imported
        constants.HF_HUB_CACHE = os.environ.get("HF_HUB_CACHE", constants.HF_HUB_CACHE)
        stderr = os.open(written, os.O_WRONLY | os.O_CREAT)
        os.dup2(stderr, 1)  # this process's own standard output is for answers
        os.dup2(stderr, 2)
        if waits:
            _write_last(int(of_rank["RANK"]), waits)
        from contrapose.cli.main import main

        *lines, last = request["lines"]
        code = 0
        for line in lines:
            code = code or main(line)
        if request["kill_at"]:
            _kill_at(request["kill_at"])
        if request.get("kill_keeping") and int(of_rank["RANK"]) == request["num"] - 1:
            _kill_keeping(request["kill_keeping"])
        if request.get("full_keeping") and int(of_rank["RANK"]) == request["num"] - 1:
            _full_keeping(request["full_keeping"])
        code = code or main(last)
    except BaseException:
        code = 70  # whatever the lines before it gave
        traceback.print_exc()
    finally:
        if waits:
            _count(waits[int(of_rank["RANK"])], 1_000)  # whoever waits for this process to wait need not any more
        sys.stderr.flush()
        os._exit(code)


def _kill_at(step: int) -> None:
    """This process is killed in its next run, once this optimiser step is taken."""
    from contrapose.train.loop import Trainer

    steps = Trainer.steps

    def mortal(trainer: Trainer, start: int = 0) -> Iterator[Any]:
        for state in steps(trainer, start):
            if state.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            yield state

    Trainer.steps = mortal


def _kill_keeping(step: int) -> None:
    """This process is killed when it has written its shards for so many times."""
    from contrapose.runs import training_state

    write_shards = training_state.write_shards
    kept: list[object] = []

    def mortal(*arguments: Any) -> dict[str, int]:
        kept.append(write_shards(*arguments))
        if len(kept) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return kept[-1]

    training_state.write_shards = mortal


def _full_keeping(step: int) -> None:
    """This process has no room for its shards of so many steps."""
    from torch.distributed.checkpoint.filesystem import FileSystem

    from contrapose.runs import training_state

    write_shards = training_state.write_shards
    num_begun = 0

    def without_room(files: object, path: str, mode: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))

    def short_of_room(*arguments: Any) -> dict[str, int]:
        nonlocal num_begun
        num_begun += 1
        if num_begun == step:
            FileSystem.create_stream = without_room
        return write_shards(*arguments)

    training_state.write_shards = short_of_room


def _write_last(rank: int, waits: Sequence[Path]) -> None:
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

    def save_last(*arguments: Any, **named: Any) -> None:
        while waits[1].stat().st_size <= waits[0].stat().st_size:
            time.sleep(0.02)
        save_step(*arguments, **named)

    Accelerator.wait_for_everyone = counted
    align.save_step = save_last


def _count(waits: Path, times: int = 1) -> None:
    with waits.open("a") as file:
        file.write("." * times)


if __name__ == "__main__":
    _serve()
