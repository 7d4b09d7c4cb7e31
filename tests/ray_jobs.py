"""What workers on Ray do in tests, besides commands; they find it here by its name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from contrapose.cli.ray_worker import run_as_worker
from contrapose.files import write_text
from contrapose.on_ray import HowFar, News
from contrapose.processes import launched
from contrapose.workers import Worker

NUM_FILES = 10


def killed(tell: Callable[[News], None]) -> str | None:
    """Be killed before anything is done."""
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def killed_once(death: Path, tell: Callable[[News], None]) -> None:
    """Be killed, if no worker has been yet, which a file notes."""
    if not death.exists():
        death.touch()
        killed(tell)


def run_when_killed_once(death: Path, line: list[str], tell: Callable[[News], None]) -> str | None:
    """Run a command line as a worker, in the process that comes after one that was killed."""
    killed_once(death, tell)
    return run_as_worker(line, tell)


def make_files(out: Path, notes: Path, death: Path, tell: Callable[[News], None]) -> str | None:
    """Make files with one other worker, noting who makes which; both hold one before either has made any.

    The second one is killed when it first holds one.
    """
    worker = Worker.of(None, launched())
    until = time.monotonic() + 300
    files = [(out / f"{index}.txt", index) for index in range(NUM_FILES)]
    with worker.writing(out):
        for path, index, task in worker.turns(files):
            if task != "make":
                continue
            if worker.number == 1:
                killed_once(death, tell)
            (notes / f"{index} by {worker.number}").touch()
            while not all(any(notes.glob(f"* by {number}")) for number in (0, 1)):
                if time.monotonic() > until:
                    return "the other worker has not come"
                time.sleep(0.01)
            write_text(path, str(index))
            tell(HowFar("making", index, NUM_FILES))
    return None
