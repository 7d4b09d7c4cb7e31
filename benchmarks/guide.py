"""What guidance costs at inference: time an image and peak memory, beside the base pipeline's.

    batched      adapters of all policies in one forward of the one network (contrapose.guide as it is)
    sequential   the same adapters, one policy after the other (guide(batched=False))
    networks     the policies as whole networks: two of them for PGD, three for cPGD
    interval     batched, and on between noise levels 0.2 and 0.8 only

PGD mixes two predictions, cPGD three, with classifier-free guidance on; all sides share one pipeline, noise and texts
(random ones; neither read nor decoded here) and take turns, and ratios are medians over the turns. Forwards and rows
of an image are counted, whatever the machine is busy with. Peak memory comes from a process of its own a side:
resident set, or allocated on CUDA.

    python benchmarks/guide.py                                         the shipped shapes model, on one core: minutes
    python benchmarks/guide.py --device cuda --precision bf16 --real-size  SDXL's network with random weights
    python benchmarks/guide.py --tiny                                  seconds, for the tests
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
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from narrow import options, print_table, save_pipeline, synchronise
from real_size import RandomTexts
from torch import nn

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.generation import Generation
from contrapose.backbones.loading import DTYPES
from contrapose.backbones.meta import SHIPPED, skeleton
from contrapose.cli.notes import quiet_libraries
from contrapose.guiding.guide import guide
from contrapose.runs.names import FULL_FOLDER
from contrapose.worlds.shapes.shipped import shipped_model

RANK, SCALE = 16, 2.0
WHOLE: tuple[float, float] = (0.0, 1.0)
INTERVAL = (0.2, 0.8)


@dataclass(frozen=True)
class Side:
    """One way to draw an image."""

    method: Literal["base", "pgd", "cpgd"]
    how: Literal["", "batched", "sequential", "networks"] = ""
    interval: tuple[float, float] = WHOLE

    @property
    def name(self) -> str:
        return " ".join([self.method, self.how, "interval" if self.interval == INTERVAL else ""]).strip()


BASE = Side("base")
GUIDED = [Side(method, how) for method in ("pgd", "cpgd") for how in ("batched", "sequential", "networks")]
NARROWED = [Side(method, "batched", INTERVAL) for method in ("pgd", "cpgd")]
SIDES = {side.name: side for side in [BASE, *GUIDED, *NARROWED]}


@dataclass
class Cost:
    """What a side's images cost: forwards of the pipeline's call, rows of one image, seconds an image by turn."""

    forwards: int
    rows: float
    seconds: list[float]
    megabytes: float = 0.0


def fresh_backbone(args: Namespace) -> Backbone:
    """The model as loaded, or a shipped configuration's network with random weights and no other parts."""
    if args.model not in SHIPPED:
        return load_backbone(args.model, DTYPES[args.precision], args.device)
    backbone = skeleton(args.model, DTYPES[args.precision])
    with torch.device(args.device):
        network = type(backbone.denoiser.network).from_config(backbone.denoiser.network.config)
    setattr(backbone.sampler.stock, backbone.denoiser.part, network.to(DTYPES[args.precision]))
    backbone.pipeline.device = torch.device(args.device)
    return backbone


def save_runs(work: Path, args: Namespace) -> None:
    """Random adapters, and whole networks in the folder where a full run leaves its own, for both policies."""
    for seed, policy in enumerate(("positive", "negative")):
        torch.manual_seed(seed)
        backbone = fresh_backbone(args)
        backbone.denoiser.network.save_pretrained(work / "networks" / policy / FULL_FOLDER / backbone.denoiser.part)
        trainable = backbone.denoiser.lora(RANK, RANK)
        for weight in trainable.policies.parameters():
            nn.init.normal_(weight, std=0.01)
        (work / "adapters" / policy).mkdir(parents=True)
        trainable.save(work / "adapters" / policy)


def ready(args: Namespace) -> tuple[Backbone, Generation]:
    """The base, placed and without what neither samples nor counts, and what it is asked for."""
    backbone = fresh_backbone(args)
    texts, scale = RandomTexts(backbone, DTYPES[args.precision]), backbone.sampler.guidance_scale
    text, none = texts(["prompt"] * args.batch), texts([""])
    noise = torch.randn(args.batch, *backbone.images.latent_shape)
    streams = [torch.Generator().manual_seed(row) for row in range(args.batch)]
    backbone.release_encoders()
    backbone.denoiser.network.to(args.device).eval()
    backbone.sampler.stock.set_progress_bar_config(disable=True)
    return backbone, Generation(text, none, noise, streams, args.steps, scale)


def guided(backbone: Backbone, side: Side, work: Path) -> AbstractContextManager[Any]:
    if side == BASE:
        return nullcontext()
    runs = work / ("networks" if side.how == "networks" else "adapters")
    batched, negative = side.how != "sequential", runs / "negative" if side.method == "cpgd" else None
    return guide(
        backbone.sampler.stock, runs / "positive", negative, side.method, batched, scale=SCALE, interval=side.interval
    )


@contextmanager
def counted(network: nn.Module) -> Iterator[list[int]]:
    """Rows of every forward of this network and of others of its class."""
    cls, rows = type(network), list[int]()
    forward = cls.forward

    def count(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        rows.append(len(inputs[0] if inputs else named.get("hidden_states", named.get("sample", named.get("x")))))
        return forward(self, *inputs, **named)

    cls.forward = count
    try:
        yield rows
    finally:
        cls.forward = forward


def count(backbone: Backbone, generation: Generation, side: Side, work: Path) -> Cost:
    """Forwards and rows of one call; it warms up too."""
    with counted(backbone.denoiser.network) as rows, guided(backbone, side, work):
        backbone.sampler.generate(generation)
    return Cost(len(rows), sum(rows) / len(generation.noise), [])


def turn(backbone: Backbone, generation: Generation, side: Side, work: Path, device: str) -> float:
    """Seconds an image; opening the runs is not counted."""
    with guided(backbone, side, work):
        synchronise(device)
        start = time.perf_counter()
        backbone.sampler.generate(generation)
        synchronise(device)
        taken = time.perf_counter() - start
    gc.collect()
    return taken / len(generation.noise)


def compare(work: Path, args: Namespace) -> dict[str, Cost]:
    """All sides' costs."""
    save_runs(work, args)
    backbone, generation = ready(args)
    costs = {name: count(backbone, generation, side, work) for name, side in SIDES.items()}
    for number in range(args.repeats):
        for name in sorted(SIDES, reverse=number % 2 == 1):
            costs[name].seconds.append(turn(backbone, generation, SIDES[name], work, args.device))
    del backbone, generation
    gc.collect()
    if not args.no_memory:
        for name, cost in costs.items():
            cost.megabytes = peak_in_child(work, name, args)
    return costs


def peak_in_child(work: Path, side: str, args: Namespace) -> float:
    command = [sys.executable, __file__, "--child", str(work), side, "--model", args.model, "--device", args.device]
    command += ["--precision", args.precision, "--batch", str(args.batch), "--steps", str(args.steps)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(told.splitlines()[-1]))


def peak_here(work: Path, side: str, args: Namespace) -> float:
    """Peak megabytes of this process after one call of one side."""
    backbone, generation = ready(args)
    turn(backbone, generation, SIDES[side], work, args.device)
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of Linux counts what the parent took before this process was started from it
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def extra_of(costs: dict[str, Cost], method: str) -> tuple[float, float]:
    """The interval's share of what the full range costs beyond the base: of rows, and of time (median of the turns)."""
    base, full, narrow = costs["base"], costs[f"{method} batched"], costs[f"{method} batched interval"]
    times = zip(base.seconds, full.seconds, narrow.seconds, strict=True)
    share = statistics.median((n - b) / (f - b) if f > b else float("nan") for b, f, n in times)
    return (narrow.rows - base.rows) / (full.rows - base.rows), share


def told(costs: dict[str, Cost]) -> None:
    base, lines = costs["base"], []
    for name, cost in costs.items():
        ratio = statistics.median(c / b for c, b in zip(cost.seconds, base.seconds, strict=True))
        cells = [name, str(cost.forwards), f"{cost.rows:g}", f"{statistics.median(cost.seconds):.3f}", f"{ratio:.3f}"]
        lines.append([*cells, f"{cost.megabytes:.0f}" if cost.megabytes else "-"])
    print_table(["side", "forwards", "rows an image", "s an image", "ratio to base", "peak MB"], lines)
    for method in ("pgd", "cpgd"):
        rows, seconds = extra_of(costs, method)
        print(f"\nThe interval costs {method} {100 * rows:.0f} % of the full range's extra rows, ", end="")
        print(f"{100 * seconds:.0f} % of its extra time (at most 65 % is wanted).")


def parser() -> ArgumentParser:
    made = options(__doc__ or "")
    made.add_argument("--model", default=str(shipped_model()), help="a model folder, or a shipped configuration's name")
    made.add_argument("--real-size", action="store_true", help="SDXL's network with random weights (a GPU is needed)")
    made.add_argument("--steps", type=int, default=25, help="sampling steps")
    made.add_argument("--batch", type=int, default=1, help="images drawn at once")
    made.add_argument("--no-memory", action="store_true", help="leave out peak memory, which takes a process a side")
    made.add_argument("--child", nargs=2, metavar=("WORK", "SIDE"), help="used by this script")
    return made


def main(arguments: list[str] | None = None) -> dict[str, Cost]:
    args = parser().parse_args(arguments)
    quiet_libraries()
    args.model = "sdxl" if args.real_size else args.model
    if args.child:
        print(json.dumps(peak_here(Path(args.child[0]), args.child[1], args)))
        return {}
    with tempfile.TemporaryDirectory() as folder:
        if args.tiny:
            args.model = str(save_pipeline(Path(folder) / "model", tiny=True))
        costs = compare(Path(folder), args)
    told(costs)
    return costs


if __name__ == "__main__":
    main()
