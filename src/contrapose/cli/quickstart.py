"""`contrapose quickstart`: the main job on the shipped shapes model, nothing but the other commands in a row."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console

from contrapose.backbones.families.table import BY_PIPELINE
from contrapose.backbones.loading import find as find_model
from contrapose.cli.options import parse
from contrapose.errors import UserError
from contrapose.files import check_folder, one_writer
from contrapose.ranges import Batch, Count, Few, Range, Seed, Steps, checked
from contrapose.worlds.shapes.blueprint import shipped_model

# Chosen on the dev prompts; see docs/log.md for what was tried.
METHODS = {
    "diffusion-dpo": ["diffusion-dpo", "--beta", "1000"],
    "ddspo": ["ddspo", "--beta", "2000"],
    "ddspo-not-paired": ["ddspo", "--beta", "2000", "--losers", "not-paired"],
}
TRAINING = ["--full", "--learning-rate", "1e-4", "--schedule", "cosine", "--warmup", "10", "--micro-batch", "32"]
SCALES = ("1", "3")  # guidance off, and the usual scale


@dataclass(frozen=True)
@checked
class Command:
    """Prompts to an aligned model, with evidence: about seven minutes on two CPU cores. Run it again to carry on."""

    out: Path = Path("quickstart")
    """Folder that receives everything."""
    model: str = ""
    """Model to align; the shipped shapes model when empty."""
    per_tag: Batch = 48
    """Held-out prompts of each of the six categories."""
    seeds: Annotated[int, Range(1, 10_000, whole=True)] = 1
    """Images for each held-out prompt."""
    train_per_tag: Batch = 80
    """Training prompts of each category, at most."""
    pairs_per_prompt: Few = 2
    """Pairs drawn for each training prompt."""
    steps: Count = 120
    """Optimiser steps of each training run."""
    sampling_steps: Steps = 15
    """Sampling steps of every image."""
    training_seeds: tuple[Seed, ...] = (0,)
    """Seeds of the training runs; every method is trained once with each."""
    methods: tuple[Literal["diffusion-dpo", "ddspo", "ddspo-not-paired"], ...] = ("diffusion-dpo", "ddspo")
    """Methods to compare, all on the same pairs."""

    def __post_init__(self) -> None:
        for name in ("methods", "training_seeds"):
            if not getattr(self, name):
                raise UserError(f"{name}: name at least one")


def commands(settings: Command) -> list[list[str]]:
    """The command lines, in order."""
    out, model = settings.out, settings.model or str(shipped_model())
    train, test, pairs = str(out / "train.jsonl"), str(out / "test.jsonl"), str(out / "pairs")
    steps = ["--steps", str(settings.sampling_steps)]
    lines = [
        ["shapes", "prompts", train, "--split", "train", "--per-tag", str(settings.train_per_tag)],
        ["shapes", "prompts", test, "--split", "test", "--per-tag", str(settings.per_tag)],
        ["pairs", "draw", "--model", model, "--prompts", train, "--degrade", "words", "--out", pairs,
         "--pairs-per-prompt", str(settings.pairs_per_prompt),
         "--guidance-scale", SCALES[1], *steps, "--batch-size", "64"],
        ["pairs", "check", pairs],
    ]  # fmt: skip
    runs = {}
    for method, seed in itertools.product(settings.methods, settings.training_seeds):
        name = method if len(settings.training_seeds) == 1 else f"{method}-{seed}"
        runs[name] = str(out / "runs" / name)
        line = ["align", *METHODS[method], "--model", model, "--pairs", pairs, "--out", runs[name]]
        lines.append([*line, *TRAINING, "--steps", str(settings.steps), "--seed", str(seed)])
    evidence = [str(out / "evidence" / f"scale-{scale}") for scale in SCALES]
    for scale, where in zip(SCALES, evidence, strict=True):
        images = {name: str(out / "images" / f"scale-{scale}" / name) for name in ("base", *runs)}
        for name, folder in images.items():
            line = ["sample", "--model", model, "--prompts", test, "--seeds", str(settings.seeds), "--out", folder]
            adapter = ["--adapter", runs[name]] if name in runs else []
            lines.append([*line, *adapter, "--guidance-scale", scale, *steps, "--batch-size", "64"])
        judged = [f"--images={name}={folder}" for name, folder in images.items()]
        told = ["--title", f"Guidance scale {scale}", "--autoencoder", model]
        lines.append(["evaluate", "--suite", "shapes", *judged, "--out", where, *told])
    parts = [*(f"--run={run}" for run in runs.values()), *(f"--evidence={where}" for where in evidence)]
    lines.append(["report", *parts, "--pairs", pairs, "--out", str(out / "report.html")])
    return lines


def main(arguments: list[str], prog: str) -> None:
    from contrapose.cli.main import run

    settings = parse(Command, arguments, prog)
    check_folder(settings.out)
    if settings.model:
        find_model(settings.model, BY_PIPELINE)  # before the first command leaves a folder
    check_folder(settings.out)
    with one_writer(settings.out):
        for line in commands(settings):
            _announce(line)
            run(line)


def _announce(line: Sequence[str]) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"\n[bold]$ contrapose {shlex.join(line)}[/bold]")
