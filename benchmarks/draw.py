"""Images a second of drawing pairs, beside a plain loop over the stock pipeline.

    ours    curate.draw.draw_pairs: each text embedded once, final latents stored as they are, in one file a shard
    plain   a batch of prompt strings into the pipeline, images out, which are encoded again for training

The same pipeline object, batch size, sampler and number of steps; both sides take turns. A hook around the denoiser
tells the share of time spent outside it: what a GPU is not kept busy with the one thing that cannot be spared.

    python benchmarks/draw.py                              the table (one core: some minutes)
    python benchmarks/draw.py --device cuda --precision bf16   the same on a GPU
    python benchmarks/draw.py --tiny                       seconds, for the tests
"""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from narrow import options, print_table, prompts, save_pipeline, synchronise

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.loading import DTYPES
from contrapose.cli.notes import quiet_libraries
from contrapose.draw.pairs import Draw, DrawPlan, draw_pairs, plan_pairs


@dataclass(frozen=True)
class Turn:
    """One turn of one side."""

    images_per_second: float
    outside: float  # share of time spent outside the denoiser


class DenoiserClock:
    """Seconds spent inside a denoiser's forward."""

    def __init__(self, denoiser: torch.nn.Module, device: str):
        self.seconds, self._start, self._device = 0.0, 0.0, device
        denoiser.register_forward_pre_hook(self._enter)
        denoiser.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        synchronise(self._device)
        self._start = time.perf_counter()

    def _leave(self, *_: Any) -> None:
        synchronise(self._device)
        self.seconds += time.perf_counter() - self._start


def ours(draw: Draw, plan: DrawPlan, backbone: Backbone, out: Path) -> None:
    for _ in draw_pairs(draw, plan, backbone, out):
        pass


@torch.no_grad()
def plain(draw: Draw, plan: DrawPlan, backbone: Backbone, out: Path) -> None:
    pipe, latents = backbone.sampler.stock, []
    for start in range(0, len(plan.records), draw.batch_size):
        texts = [text for r in plan.records[start : start + draw.batch_size] for text in (r.prompt, r.degraded)]
        images = pipe(texts, num_inference_steps=draw.steps, guidance_scale=draw.guidance_scale).images
        pixels = pipe.image_processor.preprocess(images).to(pipe.vae.device, pipe.vae.dtype)
        latents.append((pipe.vae.encode(pixels).latent_dist.sample() * pipe.vae.config.scaling_factor).cpu())
    out.mkdir()
    torch.save(latents, out / "latents.pt")


def turn(side: Callable[..., None], draw: Draw, plan: DrawPlan, backbone: Backbone, clock: DenoiserClock) -> Turn:
    """Draw the whole plan once."""
    with tempfile.TemporaryDirectory() as folder:
        synchronise(clock._device)
        before, start = clock.seconds, time.perf_counter()
        side(draw, plan, backbone, Path(folder) / "pairs")
        synchronise(clock._device)
        taken = time.perf_counter() - start
    return Turn(2 * len(plan.records) / taken, 1 - (clock.seconds - before) / taken)


def measure(work: Path, args: Namespace) -> dict[str, list[Turn]]:
    """All turns of both sides, after one short turn each to warm up."""
    source = work / "prompts.txt"
    source.write_text("\n".join(prompts(args.pairs)), encoding="utf-8")
    draw = Draw(
        str(work / "model"), (str(source),), steps=args.steps, batch_size=args.batch_size, precision=args.precision
    )
    backbone = load_backbone(draw.model, DTYPES[args.precision], args.device)
    draw = backbone.sampler.with_usual(draw)
    backbone.sampler.stock.to(args.device)
    plan, clock = plan_pairs(draw), DenoiserClock(backbone.sampler.stock.unet, args.device)
    sides: dict[str, Callable[..., None]] = {"plain": plain, "ours": ours}
    for side in sides.values():
        turn(side, replace(draw, steps=1, batch_size=1), DrawPlan(plan.records[:1], []), backbone, clock)
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(args.repeats):
        for name in sorted(sides, reverse=number % 2 == 1):
            turns[name].append(turn(sides[name], draw, plan, backbone, clock))
    return turns


def main(arguments: list[str] | None = None) -> dict[str, list[Turn]]:
    parser = options(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=4, help="pairs drawn in a turn (each is two images)")
    parser.add_argument("--batch-size", type=int, default=2, help="pairs drawn at once")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps")
    args = parser.parse_args(arguments)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        save_pipeline(Path(folder) / "model", args.tiny)
        turns = measure(Path(folder), args)
    lines = []
    for name, some in turns.items():
        ratios = [t.images_per_second / p.images_per_second for t, p in zip(some, turns["plain"], strict=True)]
        rate, outside = (statistics.median(getattr(t, n) for t in some) for n in ("images_per_second", "outside"))
        lines.append([name, f"{rate:.3f}", f"{statistics.median(ratios):.3f}", f"{100 * outside:.1f} %"])
    print_table(["side", "images/s", "ratio", "time outside the denoiser"], lines)
    return turns


if __name__ == "__main__":
    main()
