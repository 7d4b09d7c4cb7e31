"""`contrapose evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
import yaml
from PIL import Image

from contrapose.backbones.base import Backbone
from contrapose.backbones.families import load_backbone
from contrapose.cli.options import REQUIRED, parse
from contrapose.cli.progress import Bar, quiet_libraries
from contrapose.errors import UserError
from contrapose.evaluate.images import prompt_folders
from contrapose.evaluate.rows import write_rows
from contrapose.evaluate.run import evaluate_images
from contrapose.evaluate.summary import CEILING, FLOOR, Settings, summarize, write_summary
from contrapose.files import replacing
from contrapose.report.evidence import ROWS, SUMMARY
from contrapose.worlds.shapes import suite
from contrapose.worlds.shapes.blueprint import shipped_model

EVIDENCE = "evidence.yaml"
_AT_ONCE = 32  # renders that go through the autoencoder together


@dataclass(frozen=True)
class Command:
    """Judge every image, and compare each model with the base on the same prompts and seeds."""

    images: tyro.conf.UseAppendAction[tuple[str, ...]]
    """NAME=FOLDER of one model's images, made by 'contrapose sample'; give it once for each model."""
    out: Path
    """Folder that receives rows.parquet and summary.json."""
    base: str = "base"
    """The name of the model that the others are compared with."""
    suite: Literal["shapes"] = "shapes"
    """How images are judged: shapes is GenEval's verdict by the shapes world's analytic detector."""
    title: str = ""
    """Heading in the report; the settings of the images when empty."""
    autoencoder: str = field(default_factory=lambda: str(shipped_model()))
    """Model whose autoencoder the ceiling's renders pass through."""
    replicates: int = 10_000
    """Bootstrap replicates and sign flips."""


def main(arguments: list[str], prog: str) -> None:
    evaluate(parse(Command, arguments, prog, Command(images=REQUIRED, out=REQUIRED)))


def evaluate(command: Command) -> None:
    quiet_libraries()
    images = named_folders(command.images)
    if command.base not in images:
        raise UserError(f"--base {command.base}: no images of that name (given: {', '.join(images)})")
    metadata = {folder.name: folder.metadata for folder in prompt_folders(images[command.base])}
    lines = list(metadata.values())
    seeds = [seed for folder in prompt_folders(images[command.base]) for seed in folder.samples]
    ceiling = command.out / CEILING
    _draw_ceiling(command.autoencoder, lines, sorted(set(seeds)), ceiling)
    models = {**images, FLOOR: images[command.base], CEILING: ceiling}
    with Bar("judging images") as bar:
        rows = evaluate_images(models, suite.judge, prompts={FLOOR: suite.floor_metadata(lines)}, progress=bar)
    settings = Settings(base=command.base, lower_is_better=suite.LOWER_IS_BETTER, replicates=command.replicates)
    summary = summarize(rows, settings)
    write_rows(rows, command.out / ROWS)
    write_summary(summary, command.out / SUMMARY)
    with replacing(command.out / EVIDENCE) as aside:
        named = {name: str(folder) for name, folder in images.items()}
        record = {"title": command.title or command.out.name, "suite": command.suite, "images": named}
        aside.write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True), encoding="utf-8")
    _tell(summary)


def named_folders(pairs: tuple[str, ...]) -> dict[str, Path]:
    """`NAME=FOLDER` arguments as a mapping; `UserError` for anything else, or a name used twice."""
    found: dict[str, Path] = {}
    for pair in pairs:
        name, given, folder = pair.partition("=")
        if not (name and given and folder):
            raise UserError(f"--images {pair}: write NAME=FOLDER")
        if name in found or name in (FLOOR, CEILING):
            raise UserError(f"--images {pair}: the name {name} is taken")
        found[name] = Path(folder)
    return found


def _draw_ceiling(model: str, lines: list[Mapping[str, Any]], seeds: list[int], out: Path) -> None:
    """Right renders of every line, through the autoencoder, in the layout of sampled images."""
    wanted = [out / f"{n:05d}" / "samples" / f"{s:04d}.png" for n in range(len(lines)) for s in seeds]
    if all(path.exists() for path in wanted):
        return
    backbone = load_backbone(model)
    renders = list(suite.ceiling_images(lines, seeds))
    for number, line in enumerate(lines):
        with replacing(out / f"{number:05d}" / "metadata.jsonl") as aside:
            aside.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    for first in range(0, len(renders), _AT_ONCE):
        some = renders[first : first + _AT_ONCE]
        for (number, seed, _), image in zip(some, _through(backbone, [r[2] for r in some]), strict=True):
            with replacing(out / f"{number:05d}" / "samples" / f"{seed:04d}.png") as aside:
                Image.fromarray(image).save(aside, format="PNG")


def _through(backbone: Backbone, images: list[np.ndarray]) -> np.ndarray:
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = backbone.decode(backbone.encode(pixels)).clamp(-1, 1)
    return ((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _tell(summary: dict[str, Any]) -> None:
    """The scores in plain lines."""
    for model, found in summary["models"].items():
        score = found["metrics"]["correct"]["overall"]
        line = f"{model:<16} {score['value']:.3f}  [{score['low']:.3f}, {score['high']:.3f}]"
        compared = summary["comparisons"].get(model)
        if compared:
            gain = compared["correct"]["difference"]
            line += f"   {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] against {summary['base']}"
        print(line)
