"""What a training step over several processes sends and costs, beside one process and beside the bare minimum.

    alone        one process takes the whole batch
    one by one   the gradient of one parameter after another, when the backward pass is over: how it was done before
    buckets      as `contrapose align` does it: buckets of 25 MiB, while the backward pass goes on

Processes talk by gloo on this machine's processors, each with a micro-batch of one pair; all three ways take turns in
them, on one trainer. Bytes are those that a process hands over to be summed, and the bare minimum is one copy of the
gradients; a ring carries 2 (n - 1) / n times as many over each wire. Seconds are those of the processors, summed over
the processes, since other work leaves none of the clock's: efficiency is those of `alone` over those of all processes,
and tells of work that is added, not of waiting.

    python benchmarks/processes.py                         the table (some minutes)
    python benchmarks/processes.py --tiny                  seconds, for the tests
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.distributed
from accelerate import Accelerator
from narrow import options, print_table, save_pipeline
from step import build_trainer
from torch import nn

from contrapose.cli.notes import quiet_libraries
from contrapose.train.loop import Trainer
from contrapose.train.reduction import NothingToSum, Reduction

Way = Literal["alone", "one by one", "buckets"]

ROWS = [("ddspo", False), ("ddspo", True), ("chats", False)]
WARM_UP = 2  # steps, in which the order of buckets is found and the optimiser's moments are made


@dataclass(frozen=True)
class Cost:
    """What a step costs a process."""

    calls: int
    """Tensors that are handed over to be summed."""
    megabytes: float
    early: float
    """Those that are handed over before the backward pass is over."""
    seconds: float


@dataclass(frozen=True)
class Row:
    """A method's costs; the seconds are those of all processes."""

    minimum: float
    """Megabytes of one copy of the gradients."""
    costs: dict[Way, Cost]

    def efficiency(self, way: Way) -> float:
        return self.costs["alone"].seconds / self.costs[way].seconds


class OneByOne:
    """The reduction that waits for the backward pass, and then for each parameter."""

    def __init__(self, parameters: Sequence[nn.Parameter], accelerator: Accelerator):
        self.parameters = parameters
        self.accelerator = accelerator

    def before_backward(self, is_last: bool) -> None:
        pass

    def finish(self) -> None:
        have_gradients = torch.tensor([parameter.grad is not None for parameter in self.parameters])
        nums = self.accelerator.reduce(have_gradients.float(), "sum").tolist()
        for parameter, num in zip(self.parameters, nums, strict=True):
            if num:
                assert parameter.grad is not None
                parameter.grad.copy_(self.accelerator.reduce(parameter.grad, "sum"))


class Counted:
    """A reduction, and what is handed over to be summed while it is in use."""

    def __init__(self, reduction: Reduction):
        self._reduction = reduction
        self._all_reduce = torch.distributed.all_reduce
        self._is_backward = True
        self.calls = 0
        self.bytes = 0
        self.early = 0

    def before_backward(self, is_last: bool) -> None:
        self._reduction.before_backward(is_last)

    def finish(self) -> None:
        self._is_backward = False
        self._reduction.finish()

    def all_reduce(self, tensor: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        """In place of torch's."""
        size = tensor.numel() * tensor.element_size()
        self.calls += 1
        self.bytes += size
        self.early += size * self._is_backward
        return self._all_reduce(tensor, *arguments, **named)


class Alone:
    """An accelerator that knows of no other process."""

    num_processes = 1
    process_index = 0

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)


def cost_of(trainer: Trainer, step: int, reduction: Reduction) -> Cost:
    """The cost to this process of one step."""
    counted = Counted(reduction)
    trainer.reduction = counted
    all_reduce = torch.distributed.all_reduce
    torch.distributed.all_reduce = counted.all_reduce
    started = time.process_time()
    trainer._take(step, trainer.prepared([step]))
    seconds = time.process_time() - started
    torch.distributed.all_reduce = all_reduce
    return Cost(counted.calls, counted.bytes / 1e6, counted.early / 1e6, seconds)


def costs_here(trainer: Trainer, args: Namespace) -> dict[Way, list[Cost]]:
    """This process's costs, of all repeats; alone the first process takes steps, while the others wait."""
    accelerator: Any = trainer.accelerator
    ways: dict[Way, tuple[Any, Reduction]] = {
        "alone": (Alone(accelerator), NothingToSum()),
        "one by one": (accelerator, OneByOne(trainer.parameters, accelerator)),
        "buckets": (accelerator, trainer.reduction),
    }
    costs: dict[Way, list[Cost]] = {way: [] for way in ways}
    for step in range(WARM_UP + args.repeats):
        for way, (trainer.accelerator, reduction) in ways.items():
            accelerator.wait_for_everyone()
            if way == "alone" and not accelerator.is_main_process:
                continue
            costs[way].append(cost_of(trainer, step, reduction))
    return {way: of_way[WARM_UP:] for way, of_way in costs.items()}


def measure(work: Path, method: str, full: bool, args: Namespace) -> Row:
    """The costs, in processes of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, __file__, "--child", str(work), method, "full" if full else "lora"]
    command += ["--processes", str(args.processes), "--repeats", str(args.repeats)]
    shared = {"WORLD_SIZE": str(args.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    children: list[subprocess.Popen[str]] = []
    for rank in range(args.processes):
        environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    answers: list[Any] = []
    for child in children:
        told, _ = child.communicate()
        if child.returncode:
            raise SystemExit(f"a process ended with {child.returncode}")
        answers.append(json.loads(told.splitlines()[-1]))
    costs: dict[Way, Cost] = {}
    for way in get_args(Way):
        of_processes = [[Cost(**cost) for cost in answer["costs"][way]] for answer in answers]
        first = of_processes[0][-1]
        seconds = [statistics.median(cost.seconds for cost in each) for each in of_processes if each]
        costs[way] = Cost(first.calls, first.megabytes, first.early, sum(seconds))
    return Row(answers[0]["minimum"], costs)


def child(work: Path, method: str, full: bool, args: Namespace) -> None:
    """Print this process's costs."""
    trainer = build_trainer(work, method, full, args, micro_batch=1)
    costs = costs_here(trainer, args)
    minimum = sum(parameter.numel() * parameter.element_size() for parameter in trainer.parameters) / 1e6
    answer = {way: [asdict(cost) for cost in of_way] for way, of_way in costs.items()}
    print(json.dumps({"minimum": minimum, "costs": answer}))


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = options(__doc__ or "")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--child", nargs=3, metavar=("WORK", "METHOD", "TRAINEE"), help="used by this script")
    args = parser.parse_args(arguments)
    args.pairs = args.processes
    quiet_libraries()
    if args.child:
        work, method, trainee = args.child
        child(Path(work), method, trainee == "full", args)
        return []
    header = ["method", "trainee", "MB: minimum", "one by one", "buckets", "calls: one by one", "buckets"]
    header += ["sent before the pass ends", "CPU s a step: alone", "one by one", "buckets", "efficiency: one by one"]
    rows: list[Row] = []
    lines: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_pipeline(work / "model", args.tiny)
        build_trainer(work, "ddspo", False, args)  # pairs and embeddings, for all processes
        for method, full in ROWS:
            rows.append(measure(work, method, full, args))
            lines.append([method, "full" if full else "LoRA", *_cells(rows[-1])])
            print(*lines[-1], file=sys.stderr)
    print_table([*header, "buckets"], lines)
    return rows


def _cells(row: Row) -> list[str]:
    before = row.costs["one by one"]
    now = row.costs["buckets"]
    cells = [f"{row.minimum:.2f}", f"{before.megabytes:.2f}", f"{now.megabytes:.2f}"]
    cells += [f"{before.calls}", f"{now.calls}", f"{now.early / now.megabytes:.0%}"]
    cells += [f"{cost.seconds:.3f}" for cost in row.costs.values()]
    return [*cells, f"{row.efficiency('one by one'):.2f}", f"{row.efficiency('buckets'):.2f}"]


if __name__ == "__main__":
    main()
