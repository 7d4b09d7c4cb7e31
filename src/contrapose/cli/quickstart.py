"""`contrapose quickstart`: the main job on the shipped shapes model, nothing but the other commands in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from contrapose.cli.options import parse
from contrapose.worlds.shapes.blueprint import shipped_model

# Chosen on the dev prompts; see docs/log.md for what was tried.
METHODS = {"diffusion-dpo": ["--beta", "1000"], "ddspo": ["--beta", "1000"]}
TRAINING = ["--full", "--learning-rate", "3e-5", "--warmup", "10", "--steps", "120", "--micro-batch", "32"]
SCALES = ("1", "3")  # guidance off, and the usual scale
STEPS = ["--steps", "15"]


@dataclass(frozen=True)
class Command:
    """Prompts to an aligned model, with evidence: about seven minutes on two CPU cores. Run it again to carry on."""

    out: Path = Path("quickstart")
    """Folder that receives everything."""
    model: str = ""
    """Model to align; the shipped shapes model when empty."""
    per_tag: int = 48
    """Held-out prompts of each of the six categories."""
    seeds: int = 1
    """Images for each held-out prompt."""
    seed: int = 0
    """Seed of the training runs."""


def commands(settings: Command) -> list[list[str]]:
    """The command lines, in order."""
    out, model = settings.out, settings.model or str(shipped_model())
    train, test, pairs = str(out / "train.jsonl"), str(out / "test.jsonl"), str(out / "pairs")
    lines = [
        ["shapes", "prompts", train, "--split", "train", "--per-tag", "80"],
        ["shapes", "prompts", test, "--split", "test", "--per-tag", str(settings.per_tag)],
        ["pairs", "draw", "--model", model, "--prompts", train, "--degrade", "words", "--out", pairs,
         "--guidance-scale", SCALES[1], *STEPS, "--batch-size", "64"],
        ["pairs", "check", pairs],
    ]  # fmt: skip
    for method, options in METHODS.items():
        run = ["align", method, "--model", model, "--pairs", pairs, "--out", str(out / "runs" / method)]
        lines.append([*run, *TRAINING, *options, "--seed", str(settings.seed)])
    evidence = []
    for scale in SCALES:
        folders = []
        for name in ("base", *METHODS):
            images = out / "images" / f"scale-{scale}" / name
            line = ["sample", "--model", model, "--prompts", test, "--seeds", str(settings.seeds), "--out", str(images)]
            adapter = ["--adapter", str(out / "runs" / name)] if name != "base" else []
            lines.append([*line, *adapter, "--guidance-scale", scale, *STEPS, "--batch-size", "64"])
            folders += ["--images", f"{name}={images}"]
        where = str(out / "evidence" / f"scale-{scale}")
        lines.append(["evaluate", "--suite", "shapes", *folders, "--out", where, "--title", f"Guidance scale {scale}"])
        evidence += ["--evidence", where]
    runs = [word for method in METHODS for word in ("--run", str(out / "runs" / method))]
    lines.append(["report", *runs, *evidence, "--pairs", pairs, "--out", str(out / "report.html")])
    return lines


def main(arguments: list[str], prog: str) -> None:
    from contrapose.cli.main import run

    settings = parse(Command, arguments, prog)
    for line in commands(settings):
        _announce(line)
        run(line)


def _announce(line: Sequence[str]) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"\n[bold]$ contrapose {' '.join(line)}[/bold]")
