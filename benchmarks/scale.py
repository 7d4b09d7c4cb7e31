"""What a store of very many groups costs beside the networks: seconds and peak memory of every stage, by its size.

    python benchmarks/scale.py --records 10000 100000

Synthetic pairs of tiny latents [4, 2, 2], two of a prompt. Each stage is a fork of its own, whose peak (VmHWM) is told
less what it began with; what a stage reads is written beforehand. Seconds are those of the processor, since the disk's
and other work's say little here. The growth is the power of the number of records that seconds grow by, between the two
largest sizes. Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from contrapose.draw.pairs import plan_pairs
from contrapose.draw.settings import Draw
from contrapose.runfile import converter
from contrapose.store.check import check_pairs, look_at_records
from contrapose.store.groups import GroupStore
from contrapose.store.mixture import Mixture
from contrapose.store.prompts import read_prompts
from contrapose.store.records import GroupRecord
from contrapose.store.shards import begin, fill
from contrapose.store.splits import Splitting, split_prompts
from contrapose.train.data import Order


class Cost(NamedTuple):
    """What a stage took."""

    cpu: float
    """Seconds of the processor."""
    megabytes: float
    """The peak of memory, beyond what the process began with."""


def text(number: int) -> str:
    return (
        f"a prompt of about as many words as people write, with its number {number // 2}, in the style of {number % 97}"
    )


def write_inputs(folder: Path, num: int) -> None:
    """A store of pairs, and a file of as many prompts."""
    records = [
        GroupRecord.pair(f"{number:016x}-0", text(number), f"a prompt with its number {number // 2}", number)
        for number in range(num)
    ]
    shards = [(None, records[first : first + 64]) for first in range(0, num, 64)]
    begin(folder / "pairs", {}, converter(), "f", records, [])
    for _ in fill(folder / "pairs", shards, 64, lambda _, batch: torch.zeros(len(batch), 2, 4, 2, 2) + batch[0].seed):
        pass
    lines = (json.dumps({"prompt": f"{text(number)} {number}", "tag": "all"}) + "\n" for number in range(num))
    (folder / "prompts.jsonl").write_text("".join(lines))


def start_training(folder: Path) -> None:
    """What `align` does with its pairs before the first step, but for their digest: the order of the first epoch."""
    mixture = Mixture([folder / "pairs"])
    Order(mixture, range(len(mixture)), 0, "epoch")(0)


def draw(folder: Path) -> Draw:
    return Draw("model", (str(folder / "prompts.jsonl"),))


STAGES: dict[str, Callable[[Path], Any]] = {
    "open a store": lambda folder: GroupStore(folder / "pairs"),
    "its digest": lambda folder: GroupStore(folder / "pairs").digest,
    "look at its records": lambda folder: look_at_records(GroupStore(folder / "pairs")),
    "check all latents": lambda folder: check_pairs(GroupStore(folder / "pairs")),
    "mix, first epoch": start_training,
    "read prompts": lambda folder: read_prompts(folder / "prompts.jsonl"),
    "split prompts": lambda folder: split_prompts(folder / "prompts.jsonl", Splitting(folder / "test.jsonl")),
    "plan a draw": lambda folder: plan_pairs(draw(folder)),
}


def memory(entry: str) -> float:
    """Of this process, in MB: VmRSS as it is, or VmHWM at its peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 1000


def measure(stage: str, folder: Path, answer: Connection) -> None:
    """Carry out a stage in this process, and send its cost."""
    before = memory("VmRSS")
    started = time.process_time()
    kept = STAGES[stage](folder)
    answer.send(Cost(time.process_time() - started, memory("VmHWM") - before))
    del kept


def in_fork(stage: str, folder: Path) -> Cost:
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=measure, args=(stage, folder, theirs))
    process.start()
    theirs.close()  # so that a stage that fails is told
    cost: Cost = ours.recv()
    process.join()
    return cost


def table(costs: dict[int, dict[str, Cost]]) -> str:
    """A row a stage: seconds and MB of each size, and the growth."""
    sizes = list(costs)
    heads = [f"{size:,}: s | MB" for size in sizes]
    lines = [f"| stage | {' | '.join(heads)} | growth |", "|---" * (2 * len(sizes) + 2) + "|"]
    for stage in STAGES:
        of_stage = [costs[size][stage] for size in sizes]
        cells = [f"{cost.cpu:.2f} | {cost.megabytes:.0f}" for cost in of_stage]
        growth = ""
        if len(sizes) > 1:
            growth = f"{math.log(of_stage[-1].cpu / of_stage[-2].cpu) / math.log(sizes[-1] / sizes[-2]):.2f}"
        lines.append(f"| {stage} | {' | '.join(cells)} | {growth} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args(arguments)
    costs: dict[int, dict[str, Cost]] = {}
    for size in options.records:
        with tempfile.TemporaryDirectory() as name:
            write_inputs(Path(name), size)
            costs[size] = {stage: in_fork(stage, Path(name)) for stage in STAGES}
        print(table(costs), flush=True)


if __name__ == "__main__":
    main()
