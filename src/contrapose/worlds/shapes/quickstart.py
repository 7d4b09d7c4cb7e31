"""The main job on the shipped shapes model, as command lines."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from contrapose.errors import UserError
from contrapose.ranges import Batch, Count, Few, Range, Seed, Steps, checked
from contrapose.worlds.shapes.shipped import shipped_model

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
class Quickstart:
    """Prompts to an aligned model, with evidence: about seven minutes on two CPU cores. Run it again to carry on."""

    out: Path = Path("quickstart")
    """Folder that receives everything."""
    model: str = ""
    """Model to align; the shipped shapes model when empty."""
    per_tag: Batch = 48
    """Held-out prompts of each of the six categories."""
    num_images: Annotated[int, Range(1, 10_000, integer=True)] = 1
    """Images for each held-out prompt."""
    train_per_tag: Batch = 80
    """Training prompts of each category, at most."""
    pairs_per_prompt: Few = 2
    """Pairs drawn for each training prompt."""
    train_steps: Count = 120
    """Optimiser steps of each training run."""
    steps: Steps = 15
    """Sampling steps of every image."""
    seeds: tuple[Seed, ...] = (0,)
    """Seeds of the training runs; every method is trained once with each."""
    methods: tuple[Literal["diffusion-dpo", "ddspo", "ddspo-not-paired"], ...] = ("diffusion-dpo", "ddspo")
    """Methods to compare, all on the same pairs."""

    def __post_init__(self) -> None:
        for name in ("methods", "seeds"):
            if not getattr(self, name):
                raise UserError(f"{name}: name at least one")


def commands(settings: Quickstart) -> list[list[str]]:
    """The command lines, in order."""
    out = settings.out
    model = settings.model or str(shipped_model())
    train = str(out / "train.jsonl")
    test = str(out / "test.jsonl")
    pairs = str(out / "pairs")
    steps = ["--steps", str(settings.steps)]
    # pairs are drawn with guidance, so that winners show what the model knows; their losers lack words of the prompt
    lines = [
        ["shapes", "prompts", train, "--split", "train", "--per-tag", str(settings.train_per_tag)],
        ["shapes", "prompts", test, "--split", "test", "--per-tag", str(settings.per_tag)],
        ["pairs", "draw", "--model", model, "--prompts", train, "--degrade", "words", "--out", pairs,
         "--pairs-per-prompt", str(settings.pairs_per_prompt),
         "--guidance-scale", SCALES[1], *steps, "--batch-size", "64"],
        ["pairs", "check", pairs],
    ]  # fmt: skip
    # a single seed needs no number in its run's name
    runs: dict[str, str] = {}
    for method, seed in itertools.product(settings.methods, settings.seeds):
        name = method if len(settings.seeds) == 1 else f"{method}-{seed}"
        runs[name] = str(out / "runs" / name)
        line = ["align", *METHODS[method], "--model", model, "--pairs", pairs, "--out", runs[name]]
        lines.append([*line, *TRAINING, "--train-steps", str(settings.train_steps), "--seed", str(seed)])
    evidence = [str(out / "evidence" / f"scale-{scale}") for scale in SCALES]
    for scale, where in zip(SCALES, evidence, strict=True):
        images = {name: str(out / "images" / f"scale-{scale}" / name) for name in ("base", *runs)}
        for name, folder in images.items():
            line = ["sample", "--model", model, "--prompts", test, "--out", folder]
            adapter = ["--adapter", runs[name]] if name in runs else []
            drawn = ["--num-images", str(settings.num_images), "--guidance-scale", scale, *steps]
            lines.append([*line, *adapter, *drawn, "--batch-size", "64"])
        # all models of a scale are judged together, since the report pairs them image by image
        judged = ["--images", *(f"{name}={folder}" for name, folder in images.items())]
        heading = ["--title", f"Guidance scale {scale}", "--autoencoder", model]
        # without weights, and beside the scores: images that became alike, or left the base, may score well too
        looking = ["--features", "pixels"]
        lines.append(["evaluate", "--suite", "shapes", *looking, *judged, "--out", where, *heading])
    parts = ["--run", *runs.values(), "--evidence", *evidence]
    lines.append(["report", *parts, "--pairs", pairs, "--out", str(out / "report.html")])
    return lines
