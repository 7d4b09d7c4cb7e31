"""Training steps of published models at their real size, with random weights: seconds, memory and use of the chip.

The networks are made from the shipped configurations, so nothing is downloaded; latents and texts are random. Told are
seconds a step, the chip's share (FLOPs of 'contrapose estimate' over seconds and the rate given by --peak), and the
peak of allocated memory beside the estimate.

    python benchmarks/real_size.py                         SD1.5, SDXL and SANA-1.6B, bf16, LoRA and full, one GPU
    python benchmarks/real_size.py --models flux-dev --checkpointing
    python benchmarks/real_size.py --device cpu --models FOLDER   a pipeline folder's configuration: for the tests
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from narrow import print_table, synchronise
from step import seconds
from torch import Tensor

from contrapose.backbones.base import Backbone
from contrapose.backbones.loading import DTYPES
from contrapose.backbones.meta import example_text, skeleton
from contrapose.cli.notes import quiet_libraries
from contrapose.estimate.estimate import estimate_run
from contrapose.estimate.settings import Setup
from contrapose.methods import DDSPO
from contrapose.store.manifest import MANIFEST
from contrapose.store.mixture import Mixture
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import write_shard
from contrapose.train.data import Groups
from contrapose.train.loop import Trainer
from contrapose.train.settings import Optimisation, Run, Watching

GIBIBYTE = 2**30
H200 = 989e12  # dense bf16 operations a second, by its data sheet
RANK = 16


class RandomTexts:
    """Stands for the text encoders: random rows of the family's shape."""

    def __init__(self, backbone: Backbone, dtype: torch.dtype):
        self.backbone, self.dtype = backbone, dtype

    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        shapes = example_text(self.backbone, len(prompts), self.backbone.text.rows)
        return {
            name: torch.randn(value.shape, dtype=self.dtype) if value.is_floating_point() else value
            for name, value in shapes.items()
        }


def random_backbone(model: str, dtype: torch.dtype, device: str, full: bool) -> Backbone:
    """The denoiser of a configuration with its class's own initial weights; the other parts stay without values."""
    backbone = skeleton(model, torch.float32 if full else dtype)
    with torch.device(device):
        network = type(backbone.denoiser.network).from_config(backbone.denoiser.network.config)
    setattr(backbone.sampler.stock, backbone.denoiser.part, network.to(torch.float32 if full else dtype))
    backbone.pipeline.device = torch.device(device)
    return backbone


def random_pairs(folder: Path, shape: tuple[int, ...], count: int) -> Path:
    records = [GroupRecord.pair(f"pair-{i}", f"prompt {i}", f"degraded {i}", i) for i in range(count)]
    write_shard(folder, 0, records, torch.randn(count, 2, *shape))
    (folder / MANIFEST).write_text(yaml.safe_dump({"num_groups": count}), encoding="utf-8")
    return folder


def measure(model: str, full: bool, args: argparse.Namespace, work: Path) -> list[str]:
    """One row of the table."""
    optimisation = Optimisation(1e-9, train_steps=1_000_000, batch_size=args.pairs, micro_batch=args.pairs)
    folder = work / f"{Path(model).name}-{full}"
    run = Run(
        model, folder, DDSPO(), full=full, lora_rank=None if full else RANK,
        precision=args.precision, gradient_checkpointing=args.checkpointing, optimisation=optimisation,
        watching=Watching(holdout=0, max_drift=1e12),
    )  # fmt: skip
    expected = estimate_run(Setup(run, args.size))
    dtype = DTYPES[args.precision]
    backbone = random_backbone(model, dtype, args.device, full)
    pairs = random_pairs(folder, expected.latent, 4 * args.pairs)
    accelerator = Accelerator(
        cpu=args.device == "cpu", mixed_precision="no" if args.precision == "fp32" else args.precision
    )
    groups = Groups(
        Mixture(pairs), run.method.composition(), RandomTexts(backbone, dtype), backbone.denoiser.noising(), 0, 0
    )
    denoiser = backbone.denoiser
    trainable = denoiser.full(dtype) if full else denoiser.lora(RANK, RANK)
    states = Trainer(run, trainable, groups, accelerator).steps()
    next(states)
    synchronise(args.device)
    taken = statistics.median(seconds(lambda: next(states), args.device) for _ in range(args.repeats))
    cells = [Path(model).name, "full" if full else "LoRA", f"{expected.flops.step / 1e12:.1f}", f"{taken:.3f}"]
    cells.append(f"{100 * expected.flops.step / taken / args.peak:.1f} %")
    foreseen = (expected.checkpointed if args.checkpointing else expected.memory).total - expected.memory.context
    peak = torch.cuda.max_memory_allocated() if args.device == "cuda" else 0
    share = f"{foreseen / peak:.3f}" if peak else "-"
    return [*cells, f"{peak / GIBIBYTE:.2f}", f"{foreseen / GIBIBYTE:.2f}", share]


def main(arguments: list[str] | None = None) -> list[list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["sd15", "sdxl", "sana-1600m"], help="shipped names or folders")
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--pairs", type=int, default=4, help="pairs in one step")
    parser.add_argument("--size", help="image size as WIDTHxHEIGHT; the model's usual size when left out")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--repeats", type=int, default=5, help="steps timed after one to warm up")
    parser.add_argument("--peak", type=float, default=H200, help="the chip's operations a second (default: H200, bf16)")
    args = parser.parse_args(arguments)
    quiet_libraries()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for model in args.models:
            for full in (False, True):
                if args.device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                rows.append(measure(model, full, args, Path(work)))
                gc.collect()
    header = ["model", "trainee", "TFLOP a step", "s a step", "of the chip", "peak GiB", "estimated", "ratio"]
    print_table(header, rows)
    return rows


if __name__ == "__main__":
    main()
