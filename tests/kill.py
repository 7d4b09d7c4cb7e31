"""Kill every command at operations on its files, run it again, and compare: bytes must be those of a run never killed.

    python tests/kill.py [--points 12] [--only lora sweep ...] [--signal KILL]

Prints a line a command (how often it was killed, how often the result was equal) and what differed. Also collected by
`pytest tests/kill.py -m exhaustive`. Not part of the suite: it takes minutes.

Operations are counted by Python's audit events (files opened for writing, renamed, removed, folders made) below the
working folder, cache included, and by the statements to SQLite's files, which are compared by what they hold. The
interpreter is forked with its libraries loaded, and the child kills itself when the count is reached, so that a point
is the same place in every run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import commands
import photo_table
import pytest

from contrapose.cli.main import main

_UNSHARED = re.compile(rb'"seconds": [^,}\n]*')  # clocks
# TensorBoard's names and contents hold the time; a study's page and its notes of contents, how long training took
_LOOSE = ("events.out", "report.html", "done.yaml")
_DDSPO = "align ddspo --model model --pairs pairs --out OUT"
# Lines of what other commands have begun: each starts from a copy of the folder that is named first.
BEGUN = {
    "longer": ("lora", _DDSPO, (*commands.TRAINING, "--train-steps", "3")),
    "shorter": ("lora", _DDSPO, (*commands.TRAINING, "--train-steps", "1")),
    "longer_full": (
        "full", "align diffusion-dpo --full --model model --pairs pairs --out OUT",
        (*commands.TRAINING, "--train-steps", "3"),
    ),
    "watched": (
        None, f"{_DDSPO} --prompts star --image-steps 2 --keep-best colourfulness",
        (*commands.TRAINING, "--keep", "1"),
    ),
    "step": (None, "sample --adapter lora@1 --out OUT", commands.SAMPLE),
    "step_file": (None, "merge --model model --positive lora@1 --negative lora@last --out OUT", ()),
}  # fmt: skip
LINES = (
    *commands.LINES,
    *commands.METHOD_LINES,
    *(commands.Line(name, (*line.split(), *more), name) for name, (_, line, more) in BEGUN.items()),
)
WATCHED = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}


def child(line: commands.Line, kill_at: int | None, how: int, out: Path) -> tuple[int, int]:
    """Run a command in a fork; returns its wait status and the number of operations that it counted."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        sink = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        counted = _count(kill_at, how)
        code = 70
        try:
            code = main(line.at())
        finally:
            os.write(writing, str(counted()).encode())
            os._exit(code)
    os.close(writing)
    _, status = os.waitpid(process, 0)
    with os.fdopen(reading, "rb") as pipe:
        number = pipe.read()
    return status, int(number or 0)


def _count(kill_at: int | None, how: int) -> Callable[[], int]:
    """Count operations on files from now on, and end this process at one of them."""
    root = str(Path.cwd())
    state = {"number": 0}

    def count(_: object = None) -> None:
        state["number"] += 1
        if state["number"] == kill_at:
            os.kill(os.getpid(), how)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes:
                return
        elif event in WATCHED:
            path = arguments[0]
        else:
            return
        if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(root):  # noqa: PTH100
            return
        count()

    def connected(*args: object, **kwargs: object) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(count)
        return connection

    connect = sqlite3.connect
    sqlite3.connect = connected
    sys.addaudithook(hook)
    return lambda: state["number"]


def content(path: Path) -> dict[str, bytes]:
    """Bytes by file of what a command wrote, without clocks."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    kept = {}
    for file in files:
        if not file.name.startswith(_LOOSE):
            name = file.relative_to(path).as_posix() if file != path else path.name
            kept[name] = _UNSHARED.sub(b"", photo_table.content(file))
    return kept


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def begin(line: commands.Line) -> None:
    """Leave where the line writes what it is to find there."""
    out = Path(line.out)
    remove(out)
    source = BEGUN[line.name][0] if line.name in BEGUN else None
    if source is not None:
        shutil.copytree(source, out)


def try_command(line: commands.Line, points: int, how: int) -> tuple[int, list[str]]:
    """Kill a command at evenly spread operations; returns how often, and what was wrong with the results."""
    log, out, wrong = Path("child.log"), Path(line.out), []
    begin(line)
    status, total = child(line, None, how, log)
    if status != 0:
        return 0, [f"failed without a kill: {log.read_text()[-500:]}"]
    whole = content(out)
    chosen = sorted({1 + round(step * (total - 1) / max(1, points - 1)) for step in range(points)})
    killed = 0
    for point in chosen:
        begin(line)
        status, _ = child(line, point, how, log)
        if os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) in (130, 143):
            killed += 1
        status, _ = child(line, None, how, log)
        if status != 0:
            wrong.append(f"{line.name} at {point} of {total}: refused when run again: {log.read_text()[-300:]}")
            continue
        again = content(out)
        differ = [name for name in whole.keys() | again.keys() if whole.get(name) != again.get(name)]
        if differ:
            wrong.append(f"{line.name} at {point} of {total}: differ: {', '.join(sorted(differ)[:6])}")
    return killed, wrong


def prepare() -> None:
    """Inputs, and every command's result once, in the working folder; libraries are loaded on the way."""
    os.environ["CONTRAPOSE_CACHE"] = str(Path.cwd() / "cache")
    commands.write_inputs(Path.cwd())
    for line in commands.LINES:
        assert main(line.at()) == 0, line.name


@pytest.mark.exhaustive
def test_killed_and_run_again_is_never_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare()
    assert not [wrong for line in LINES for wrong in try_command(line, 4, signal.SIGKILL)[1]]


def run(points: int, only: list[str], how: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare()
        totals = [0, 0]
        for line in LINES:
            if only and line.name not in only:
                continue
            killed, wrong = try_command(line, points, how)
            totals[0] += killed
            totals[1] += len(wrong)
            print(f"{line.name:<12} killed {killed:>3}, equal {killed - len(wrong):>3}", flush=True)
            for message in wrong:
                print(f"    {' '.join(message.split())}", flush=True)
        print(f"{totals[0]} kills, {totals[0] - totals[1]} equal")
        os.chdir("/")
    return totals[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=12, help="operations at which each command is killed")
    parser.add_argument("--only", nargs="*", default=[], help="commands, by their names in tests/commands.py")
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM", "INT"])
    options = parser.parse_args()
    sys.exit(1 if run(options.points, options.only, signal.Signals[f"SIG{options.signal}"]) else 0)
