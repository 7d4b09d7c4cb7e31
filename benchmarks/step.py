"""What one training step costs beside the bare cost of the predictions that its method cannot do without.

    ours   the real Trainer: data, text embeddings, Objective, backward, metrics, gradient clipping, AdamW
    bare   written out here: reference rows without gradient, trainee rows with, backward, AdamW, and nothing else

Both sides share one module (LoRA on a frozen base, or a full copy beside a frozen one), one precision and one process,
and take turns; the time ratio is the median over the turns. A pair of DDSPO needs 2 trainee and 3 reference rows, one
of Diffusion-DPO 2 and 2. Peak memory comes from a process of its own a side: resident set, or allocated on CUDA.

    python benchmarks/step.py                              the table (one core: some minutes)
    python benchmarks/step.py --device cuda --precision bf16   the same on a GPU
    python benchmarks/step.py --tiny                       seconds, for the tests
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import Accelerator
from narrow import TEXT_LENGTH, TEXT_WIDTH, options, print_table, save_pairs, save_pipeline, synchronise
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.loading import DTYPES
from contrapose.backbones.policies import Policies
from contrapose.cli.notes import quiet_libraries
from contrapose.methods import METHODS
from contrapose.store.mixture import Mixture
from contrapose.train.data import Groups
from contrapose.train.loop import Trainer
from contrapose.train.settings import Optimisation, Run, Watching

Side = Literal["bare", "ours"]
Step = Callable[[], Any]

RANK = 16
LEARNING_RATE = 1e-9  # random weights would soon run off
REFERENCE_ROWS = {"ddspo": 3, "diffusion-dpo": 2}  # a pair
ROWS = [(method, full) for method in REFERENCE_ROWS for full in (False, True)]
# The counter does not know attention's CPU kernels; the same formulas as for CUDA's.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
        sdpa_backward_flop_count(g, q, k, v)
    ),
}


@dataclass(frozen=True)
class Cost:
    """What a side's step costs."""

    flops: float
    seconds: float
    megabytes: float


def build_trainer(
    work: Path, method: str, full: bool, args: Namespace, learning_rate: float = LEARNING_RATE
) -> Trainer:
    """The real thing, put together as `contrapose align` does it."""
    optimisation = Optimisation(
        learning_rate=learning_rate, train_steps=1_000_000, batch_size=args.pairs, micro_batch=args.pairs
    )
    run = Run(
        str(work / "model"),
        work / "pairs",
        METHODS[method](),
        full=full,
        precision=args.precision,
        optimisation=optimisation,
        watching=Watching(holdout=0),
    )
    accelerator = Accelerator(
        cpu=args.device == "cpu", mixed_precision="no" if args.precision == "fp32" else args.precision
    )
    dtype = DTYPES[args.precision]
    backbone = load_backbone(run.model, torch.float32 if full else dtype, accelerator.device)
    denoiser = backbone.denoiser
    trainable = denoiser.full(dtype) if full else denoiser.lora(RANK, RANK)
    store = Mixture(run.pairs if run.pairs.exists() else save_pairs(run.pairs, backbone, max(16, args.pairs)))
    groups = Groups(
        store, run.method.composition(), Embeddings(backbone.text, folder=work / "cache"), backbone.denoiser.path, 0, 0
    )
    groups.embeddings.settle(groups.prompts())
    backbone.release_encoders()
    return Trainer(run, trainable, groups, accelerator)


def our_step(trainer: Trainer) -> Step:
    states = trainer.steps()
    return lambda: next(states)


def bare_step(trainer: Trainer, reference_rows: int, full: bool, args: Namespace) -> Step:
    """Forward of the reference rows, forward and backward of the trainee rows, AdamW."""
    device = torch.device(args.device)
    policies = trainer.trainable.policies
    optimizer = torch.optim.AdamW(trainer.parameters, LEARNING_RATE)
    scaler = torch.amp.GradScaler(args.device, enabled=args.precision == "fp16")
    rows, wanted = reference_rows * args.pairs, slice(2 * args.pairs)
    x = torch.randn(rows, *trainer.groups.store.usual_shape, device=device)
    text = torch.randn(rows, TEXT_LENGTH, TEXT_WIDTH, device=device)
    t = torch.randint(1000, (rows,), device=device)
    autocast = torch.autocast(args.device, DTYPES[args.precision]) if args.precision != "fp32" else nullcontext()

    def step() -> None:
        with autocast:
            with torch.no_grad():
                reference = _predict(policies, "reference", x, t, text)
            predicted = _predict(policies, "trainee", x[wanted], t[wanted], text[wanted])
            loss = (predicted.float() - reference[wanted].float()).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def _predict(policies: Policies, policy: str, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    denoiser, dtype = policies.denoiser(policy), policies.dtype(policy)
    return denoiser(x.to(dtype), t, text.to(dtype), return_dict=False)[0]


def make_step(side: Side, trainer: Trainer, method: str, full: bool, args: Namespace) -> Step:
    return our_step(trainer) if side == "ours" else bare_step(trainer, REFERENCE_ROWS[method], full, args)


def compare(work: Path, method: str, full: bool, args: Namespace) -> tuple[dict[Side, Cost], float]:
    """Both sides' costs, and ours over bare in time."""
    trainer = build_trainer(work, method, full, args)
    steps: dict[Side, Step] = {side: make_step(side, trainer, method, full, args) for side in get_args(Side)}
    flops = {side: count_flops(step) / args.pairs for side, step in steps.items()}  # and the warm-up
    taken: dict[Side, list[float]] = {side: [] for side in steps}
    for turn in range(args.repeats):
        for side in sorted(steps, reverse=turn % 2 == 1):
            taken[side].append(seconds(steps[side], args.device))
    del trainer, steps
    gc.collect()
    memory = {side: peak_in_child(work, side, method, full, args) for side in taken}
    costs = {side: Cost(flops[side], statistics.median(taken[side]), memory[side]) for side in taken}
    return costs, statistics.median(o / b for o, b in zip(taken["ours"], taken["bare"], strict=True))


def count_flops(step: Step) -> int:
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        step()
    return counter.get_total_flops()


def seconds(step: Step, device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - start


def peak_in_child(work: Path, side: Side, method: str, full: bool, args: Namespace) -> float:
    """Peak megabytes of two steps of one side in a process of its own; 0 when memory is not asked for."""
    if args.no_memory:
        return 0.0
    command = [sys.executable, __file__, "--child", str(work), side, method, "full" if full else "lora"]
    command += ["--device", args.device, "--precision", args.precision, "--pairs", str(args.pairs)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(told.splitlines()[-1]))


def peak_here(work: Path, side: Side, method: str, full: bool, args: Namespace) -> float:
    step = make_step(side, build_trainer(work, method, full, args), method, full, args)
    for _ in range(2):  # AdamW's moments exist from the first
        step()
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of Linux counts what the parent took before this process was started from it
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def main(arguments: list[str] | None = None) -> list[tuple[dict[Side, Cost], float]]:
    parser = options(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=1, help="pairs in one step")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory, which takes a process a side")
    parser.add_argument("--child", nargs=4, metavar=("WORK", "SIDE", "METHOD", "TRAINEE"), help="used by this script")
    args = parser.parse_args(arguments)
    quiet_libraries()
    if args.child:
        work, side, method, trainee = args.child
        print(json.dumps(peak_here(Path(work), side, method, trainee == "full", args)))
        return []
    header = ["method", "trainee", "GFLOP a pair: bare", "ours", "ratio", "s a step: bare", "ours", "ratio"]
    header += ["peak MB: bare", "ours", "ratio"]
    found, lines = [], []
    with tempfile.TemporaryDirectory() as folder:
        save_pipeline(Path(folder) / "model", args.tiny)
        for method, full in ROWS:
            costs, slower = compare(Path(folder), method, full, args)
            found.append((costs, slower))
            lines.append([method, "full" if full else "LoRA", *_cells(costs["bare"], costs["ours"], slower)])
    print_table(header, lines)
    return found


def _cells(bare: Cost, ours: Cost, slower: float) -> list[str]:
    cells = [f"{bare.flops / 1e9:.2f}", f"{ours.flops / 1e9:.2f}", f"{ours.flops / bare.flops:.3f}"]
    cells += [f"{bare.seconds:.3f}", f"{ours.seconds:.3f}", f"{slower:.3f}"]
    share = f"{ours.megabytes / bare.megabytes:.3f}" if bare.megabytes else "-"
    return [*cells, f"{bare.megabytes:.0f}", f"{ours.megabytes:.0f}", share]


if __name__ == "__main__":
    main()
