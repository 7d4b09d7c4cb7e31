"""What sharing a folder costs workers: the processor's seconds of several, beside those of one process alone.

Each side is a fork, or several that know of their number alone, as torchrun's do, made when all libraries are imported:
what is counted begins with loading the model, which each of them does: it is what the same command takes where all is
done already. Efficiency is the seconds of one process over those of all workers; that of the clock is its seconds over
those of the slowest worker, times their number, and says little where other work shares the processors. Sides take
turns, and the median of their seconds is told.

    OMP_NUM_THREADS=1 python benchmarks/workers.py         the table (minutes), by the shapes model that ships
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from narrow import print_table

from contrapose.cli.main import main as contrapose
from contrapose.cli.notes import quiet_libraries
from contrapose.files import CACHE
from contrapose.worlds.shapes.grammar import prompts
from contrapose.worlds.shapes.shipped import shipped_model

LIBRARIES = (
    "contrapose.cli.evaluate",
    "contrapose.evaluate.evidence",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers.models.clip.modeling_clip",
    "peft",
)
COMMANDS = ("pairs draw", "pairs score", "sample", "evaluate")


class Cost(NamedTuple):
    """Seconds of one process."""

    cpu: float
    clock: float


def lines(work: Path, num_steps: int) -> dict[str, list[str]]:
    """The commands, each of which reads what those before it have made."""
    drawing = ["--model", str(shipped_model()), "--prompts", str(work / "prompts.txt"), "--steps", str(num_steps)]
    few = ["--batch-size", "4", "--device", "cpu"]
    return {
        "pairs draw": [*drawing, *few, "--shard-size", "4"],
        "pairs score": [str(work / "pairs draw"), "--judges", "colourfulness", *few, "--shard-size", "4"],
        "sample": [*drawing, *few, "--num-images", "2"],
        "evaluate": ["--images", f"base={work / 'sample'}", "--suite", "scores", "--judges", "colourfulness"],
    }


def measure(answer: Connection, environment: dict[str, str], line: list[str], said: Path) -> None:
    """Carry out a command in this process, and send its seconds."""
    os.environ |= environment
    written = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(written, 1)
    os.dup2(written, 2)
    clock, cpu = time.monotonic(), time.process_time()
    code = contrapose(line)
    if code == 0:
        answer.send(Cost(time.process_time() - cpu, time.monotonic() - clock))


def in_forks(num: int, line: list[str], work: Path) -> list[Cost]:
    """What a command costs each of so many workers."""
    fork = multiprocessing.get_context("fork")
    waiting: list[Connection] = []
    for rank in range(num):
        ours, theirs = fork.Pipe()
        of_rank = {CACHE: str(work / "cache")}
        if num > 1:
            of_rank |= {"WORLD_SIZE": str(num), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        said = work / f"said-{rank}"
        process = fork.Process(target=measure, args=(theirs, of_rank, line, said), daemon=True)
        process.start()
        theirs.close()
        waiting.append(ours)
    costs: list[Cost] = []
    for rank, connection in enumerate(waiting):
        try:
            costs.append(connection.recv())
        except EOFError:
            raise SystemExit(f"{' '.join(line)}: failed: {(work / f'said-{rank}').read_text()}") from None
    return costs


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "--commands", nargs="+", default=COMMANDS, choices=COMMANDS, help="each needs what those before it make"
    )
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(arguments)
    for name in LIBRARIES:
        importlib.import_module(name)
    quiet_libraries()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        texts = [line["prompt"] for line in prompts("train", args.prompts)[: args.prompts]]
        (work / "prompts.txt").write_text("".join(f"{text}\n" for text in texts))
        for command, options in lines(work, args.steps).items():
            if command not in args.commands:
                continue
            costs: dict[int, list[list[Cost]]] = {1: [], args.workers: []}
            for _ in range(args.repeats):
                for num, of_side in costs.items():
                    shutil.rmtree(work / command, ignore_errors=True)
                    shutil.rmtree(work / "cache", ignore_errors=True)
                    line = [*command.split(), *options, "--out", str(work / command)]
                    of_side.append(in_forks(num, line, work))
            [again] = in_forks(1, line, work)
            rows.append(row(command, costs[1], costs[args.workers], again.cpu))
            print(*rows[-1], file=sys.stderr)
    names = [
        "CPU s: done already",
        "one",
        "workers",
        "efficiency",
        "clock s: one",
        "workers",
        "efficiency of the clock",
    ]
    print_table(["command", *names], rows)


def row(command: str, alone: list[list[Cost]], shared: list[list[Cost]], again: float) -> list[str]:
    """A command's medians over its turns."""
    num = len(shared[0])
    cpu_alone, cpu_shared = (statistics.median(sum(c.cpu for c in turn) for turn in side) for side in (alone, shared))
    clock_alone, clock_shared = (
        statistics.median(max(c.clock for c in turn) for turn in side) for side in (alone, shared)
    )
    cpu = [f"{again:.2f}", f"{cpu_alone:.2f}", f"{cpu_shared:.2f}", f"{cpu_alone / cpu_shared:.2f}"]
    return [command, *cpu, f"{clock_alone:.2f}", f"{clock_shared:.2f}", f"{clock_alone / clock_shared / num:.2f}"]


if __name__ == "__main__":
    main()
