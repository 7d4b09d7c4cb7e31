"""What one training step costs beside the bare cost of the predictions that its method cannot do without.

    ours   the real Trainer: data, text embeddings, Objective, backward, metrics, gradient clipping, AdamW
    bare   written out here: frozen rows without gradient, trained rows with, backward, AdamW, and nothing else

Both sides share one module (LoRA on a frozen base, or a full copy beside a frozen one), one precision and one process,
and take turns; the time ratio is the median over the turns. What a pair of each method needs stands in NEEDED, by hand:
2 trainee and 3 reference rows for DDSPO, 2 and 2 for Diffusion-DPO. Peak memory comes from a process of its own a side:
resident set, or allocated on CUDA.

    python benchmarks/step.py                              the table (one core: some minutes)
    python benchmarks/step.py --device cuda --precision bf16   the same on a GPU
    python benchmarks/step.py --count --tiny               every method's operations, whatever else the machine does
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
from dataclasses import dataclass, field
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
from contrapose.core.group import OwnSteps
from contrapose.judges.self_confidence import SelfConfidence
from contrapose.methods import METHODS
from contrapose.methods.judged_groups import JudgedGroups
from contrapose.methods.own_samples import OwnSamples
from contrapose.methods.own_steps import StepSampling
from contrapose.store.mixture import Mixture
from contrapose.train.comparable import comparable
from contrapose.train.data import Groups
from contrapose.train.judged_rollouts import JudgedRollouts
from contrapose.train.loop import Trainer
from contrapose.train.settings import Optimisation, RolloutJudging, Run, Watching
from contrapose.train.step_rollouts import StepRollouts

Side = Literal["bare", "ours"]
Step = Callable[[], Any]

RANK = 16
LEARNING_RATE = 1e-9  # random weights would soon run off
TIMED = ("ddspo", "diffusion-dpo")
ROWS = [(method, full) for method in TIMED for full in (False, True)]
# The counter does not know attention's CPU kernels; the same formulas as for CUDA's.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
        sdpa_backward_flop_count(g, q, k, v)
    ),
}


@dataclass(frozen=True)
class Needed:
    """The predictions that a pair of a method cannot do without, rows by policy: worked out from the papers' formulas.

    `settings` are the method's, where the usual ones look at more than a pair, or draw more than one step needs.
    """

    frozen: dict[str, int]
    trained: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)


_PAIR = {"trainee": 2}
_DPO = Needed({"reference": 2}, _PAIR)
_OF_TWO = {"groups": JudgedGroups(OwnSamples(2), stored=True)}
_STEPS = StepSampling(prompts_per_draw=1, rollout_steps=3)
_ROLLOUTS = {"rollouts": 1, "rollout_steps": 4, "states": 1, "buffer": 1}
NEEDED = {
    "ddspo": Needed({"reference": 3}, _PAIR),
    "ddspo-data": Needed({"reference": 2, "winner": 1, "loser": 1}, _PAIR),
    "diffusion-dpo": _DPO,
    "realalign": _DPO,
    # a rollout of four steps for each pair
    "diffusion-dro": Needed({"reference": 2, "lagged": 4}, _PAIR, _ROLLOUTS),
    "sft": Needed({}, {"trainee": 1}),
    "chats": Needed({"reference": 2}, {"positive": 1, "negative": 1}),
    "diffusion-kto": Needed({"reference": 1}, {"trainee": 1}),
    "dspo": _DPO,
    # ten steps of inversion for each image; five, of which each asks twice
    "inpo": Needed({"reference": 2, "trainee": 20}, _PAIR),
    "smpo": Needed({"reference": 2, "trainee": 20}, _PAIR),
    # five steps down and the answer
    "self-npo": Needed({"teacher": 6}, {"trainee": 1}),
    "dmpo": _DPO,
    "mapo": Needed({}, _PAIR),
    "online-dpo": Needed({"reference": 2}, _PAIR, {"sampling": OwnSamples(2, 1, rollout_steps=2)}),
    # with guidance a row without the prompt beside each; winner and loser from one state are one prediction
    "spo": Needed({"reference": 2}, _PAIR, {"sampling": _STEPS, "first_fork": 0, "tie_margin": 0.0}),
    "tailorpo": Needed({"reference": 2}, _PAIR, {"sampling": _STEPS}),
    "d3po": Needed({"reference": 4}, {"trainee": 4}, {"sampling": _STEPS}),
    "tdpo": _DPO,
    "tkto": _DPO,
    "capo": _DPO,
    "diffusion-lpo": Needed({"reference": 2}, _PAIR, {"num_samples": 2}),
    "rankdpo": Needed({"reference": 2}, _PAIR, {"num_samples": 2}),
    "dgpo": Needed({"reference": 2, "old": 2}, _PAIR, _OF_TWO),
    "nft": Needed({"reference": 2, "old": 2}, _PAIR, _OF_TWO),
    "awm": Needed({"reference": 2, "old": 2}, _PAIR, _OF_TWO),
    "crd": Needed({"reference": 2, "old": 2}, _PAIR, _OF_TWO),
}
"""What methods compare of their own drawing is drawn before a step, and not counted: it is sampling."""


@dataclass(frozen=True)
class Cost:
    """What a side's step costs."""

    flops: float
    seconds: float
    megabytes: float


def build_trainer(
    work: Path,
    method: str,
    full: bool,
    args: Namespace,
    learning_rate: float = LEARNING_RATE,
    micro_batch: int | None = None,
) -> Trainer:
    """The real thing, put together as `contrapose align` does it; a micro-batch holds all pairs where it is None."""
    optimisation = Optimisation(
        learning_rate=learning_rate,
        train_steps=1_000_000,
        batch_size=args.pairs,
        micro_batch=micro_batch or args.pairs,
    )
    own_groups = METHODS[method](**NEEDED[method].settings).composition().own_groups
    judging = RolloutJudging((SelfConfidence(probes=2, probe_steps=4),)) if own_groups else RolloutJudging()
    run = Run(
        str(work / "model"),
        work / "pairs",
        METHODS[method](**NEEDED[method].settings),
        full=full,
        precision=args.precision,
        optimisation=optimisation,
        watching=Watching(holdout=0),
        judging=judging,
    )
    accelerator = Accelerator(
        cpu=args.device == "cpu", mixed_precision="no" if args.precision == "fp32" else args.precision
    )
    dtype = DTYPES[args.precision]
    backbone = load_backbone(run.model, torch.float32 if full else dtype, accelerator.device)
    denoiser = backbone.denoiser
    objective = run.objective()
    # what other runs' weights are changes no operation: copies of the trainee stand in for them
    frozen = dict.fromkeys(policy for policy in (*objective.frozen, *objective.moving) if policy != "reference")
    if full:
        trainable = denoiser.full(dtype, "reference" in objective.plan(), objective.trained, None, frozen)
    else:
        trainable = denoiser.lora(RANK, RANK, objective.trained, None, frozen)
    pairs = Mixture(run.pairs if run.pairs.exists() else save_pairs(run.pairs, backbone, max(16, args.pairs)))
    store = comparable(pairs, run)
    groups = Groups(
        store, run.method.composition(), Embeddings(backbone.text, folder=work / "cache"), backbone.denoiser.path, 0, 0
    )
    groups.embeddings.settle(groups.prompts())
    backbone.release_encoders(keep_images=own_groups is not None)
    trainer = Trainer(run, trainable, groups, accelerator)
    if own_groups:
        rollouts = StepRollouts if isinstance(own_groups, OwnSteps) else JudgedRollouts
        trainer.rollouts = rollouts(own_groups, trainer, backbone)
        trainer.draw_first()
    return trainer


def our_step(trainer: Trainer) -> Step:
    states = trainer.steps()
    return lambda: next(states)


def bare_step(trainer: Trainer, needed: Needed, args: Namespace) -> Step:
    """Forward of the frozen rows, forward and backward of the trained rows policy by policy, AdamW."""
    device = torch.device(args.device)
    policies = trainer.trainable.policies
    optimizer = torch.optim.AdamW(trainer.parameters, LEARNING_RATE)
    scaler = torch.amp.GradScaler(args.device, enabled=args.precision == "fp16")
    most = max([*needed.frozen.values(), *needed.trained.values()]) * args.pairs
    x = torch.randn(most, *trainer.groups.store.usual_shape, device=device)
    text = torch.randn(most, TEXT_LENGTH, TEXT_WIDTH, device=device)
    t = torch.randint(1000, (most,), device=device)
    autocast = torch.autocast(args.device, DTYPES[args.precision]) if args.precision != "fp32" else nullcontext()

    def step() -> None:
        with autocast, torch.no_grad():
            for policy, number in needed.frozen.items():
                rows = slice(number * args.pairs)
                _predict(policies, policy, x[rows], t[rows], text[rows])
        for policy, number in needed.trained.items():
            rows = slice(number * args.pairs)
            with autocast:
                loss = _predict(policies, policy, x[rows], t[rows], text[rows]).float().square().mean()
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def _predict(policies: Policies, policy: str, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    denoiser, dtype = policies.denoiser(policy), policies.dtype(policy)
    return denoiser(x.to(dtype), t, text.to(dtype), return_dict=False)[0]


def make_step(side: Side, trainer: Trainer, method: str, args: Namespace) -> Step:
    return our_step(trainer) if side == "ours" else bare_step(trainer, NEEDED[method], args)


def compare(work: Path, method: str, full: bool, args: Namespace) -> tuple[dict[Side, Cost], float]:
    """Both sides' costs, and ours over bare in time."""
    trainer = build_trainer(work, method, full, args)
    steps: dict[Side, Step] = {side: make_step(side, trainer, method, args) for side in get_args(Side)}
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


def count(work: Path, method: str, full: bool, args: Namespace) -> tuple[float, float]:
    """Operations a pair of both sides, in forwards of one sample by the network without adapters: bare, and ours."""
    trainer = build_trainer(work, method, full, args)
    x = torch.randn(1, *trainer.groups.store.usual_shape)
    text = torch.randn(1, TEXT_LENGTH, TEXT_WIDTH)
    # with adapters, of which the reference has none; in full any network is as large
    policy = next(iter(NEEDED[method].trained)) if full else "reference"
    with torch.no_grad():
        forward = count_flops(lambda: _predict(trainer.trainable.policies, policy, x, torch.tensor([500]), text))
    bare, ours = (count_flops(make_step(side, trainer, method, args)) / args.pairs for side in ("bare", "ours"))
    return bare / forward, ours / forward


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
    step = make_step(side, build_trainer(work, method, full, args), method, args)
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
    parser.add_argument("--count", action="store_true", help="operations of every method, and nothing timed")
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
        if args.count:
            print_counts(Path(folder), args)
            return []
        for method, full in ROWS:
            costs, slower = compare(Path(folder), method, full, args)
            found.append((costs, slower))
            lines.append([method, "full" if full else "LoRA", *_cells(costs["bare"], costs["ours"], slower)])
    print_table(header, lines)
    return found


def print_counts(work: Path, args: Namespace) -> None:
    """The table of every method's rows and operations."""
    header = ["method", "frozen rows", "trained rows", "LoRA, in forwards: bare", "ours", "ratio"]
    header += ["full, in forwards: bare", "ours", "ratio"]
    lines = []
    for method, needed in NEEDED.items():
        cells = [method, str(sum(needed.frozen.values())), str(sum(needed.trained.values()))]
        for full in (False, True):
            bare, ours = count(work, method, full, args)
            cells += [f"{bare:.2f}", f"{ours:.2f}", f"{ours / bare:.3f}"]
        lines.append(cells)
        print(*cells, file=sys.stderr)
    print_table(header, lines)


def _cells(bare: Cost, ours: Cost, slower: float) -> list[str]:
    cells = [f"{bare.flops / 1e9:.2f}", f"{ours.flops / 1e9:.2f}", f"{ours.flops / bare.flops:.3f}"]
    cells += [f"{bare.seconds:.3f}", f"{ours.seconds:.3f}", f"{slower:.3f}"]
    share = f"{ours.megabytes / bare.megabytes:.3f}" if bare.megabytes else "-"
    return [*cells, f"{bare.megabytes:.0f}", f"{ours.megabytes:.0f}", share]


if __name__ == "__main__":
    main()
