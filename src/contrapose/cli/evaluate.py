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
from PIL import Image

from contrapose import runfile
from contrapose.backbones.base import Backbone
from contrapose.backbones.digests import model_digest
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.loading import Loading
from contrapose.cli.options import REQUIRED, parse
from contrapose.cli.progress import Bar, quiet_libraries
from contrapose.documents import load_yaml
from contrapose.errors import UserError
from contrapose.evaluate.images import digest_of_images, prompt_folders
from contrapose.evaluate.rows import Row, write_rows
from contrapose.evaluate.run import evaluate_images
from contrapose.evaluate.statistics import Replicates
from contrapose.evaluate.summary import CEILING, FLOOR, Settings, Summary, summarize, write_summary
from contrapose.files import check_folder, one_writer, replacing
from contrapose.ranges import checked
from contrapose.report.evidence import CONVERTER, EVIDENCE, ROWS, SUMMARY, Judged, Record, read_evidence
from contrapose.worlds.shapes import suite
from contrapose.worlds.shapes.blueprint import shipped_model

_AT_ONCE = 32  # renders that go through the autoencoder together


@dataclass(frozen=True)
@checked
class Command:
    """Judge every image, and compare each model with the base on the same prompts and seeds."""

    images: tyro.conf.UseAppendAction[tuple[str, ...]]
    """NAME=FOLDER of one model's images, made by 'contrapose sample'; give it once for each model."""
    out: Path
    """Folder that receives rows.parquet and summary.json. It keeps to its base, autoencoder, replicates and images, and
    refuses others under the same names; models may be added, and then all are judged again."""
    base: str = "base"
    """The name of the model that the others are compared with."""
    suite: Literal["shapes"] = "shapes"
    """How images are judged: shapes is GenEval's verdict by the shapes world's analytic detector."""
    title: str = ""
    """Heading in the report; the settings of the images when empty."""
    autoencoder: str = field(default_factory=lambda: str(shipped_model()))
    """Model whose autoencoder the ceiling's renders pass through."""
    replicates: Replicates = 10_000
    """Bootstrap replicates and sign flips."""


def main(arguments: list[str], prog: str) -> None:
    evaluate(parse(Command, arguments, prog, Command(images=REQUIRED, out=REQUIRED)))


def evaluate(command: Command) -> None:
    quiet_libraries()
    check_folder(command.out)
    images = named_folders(command.images)
    if command.base not in images:
        raise UserError(f"--base {command.base}: no images of that name (given: {', '.join(images)})")
    title = command.title or command.out.absolute().name
    record = Record(title, command.suite, images, command.base, command.autoencoder, command.replicates)
    inputs = {f"images.{name}": digest_of_images(folder) for name, folder in images.items()}
    inputs["autoencoder"] = model_digest(command.autoencoder, Loading())
    with one_writer(command.out):
        summary = _judged_before(command.out, record, inputs)
        if summary is None:
            rows, summary = _judge(record, command.out / CEILING)
            # only now: images that cannot be judged leave nothing that refuses their mend
            runfile.write_claim(command.out / EVIDENCE, record, CONVERTER, inputs)
            write_rows(rows, command.out / ROWS)
            write_summary(summary, command.out / SUMMARY)
        else:
            runfile.write_claim(command.out / EVIDENCE, record, CONVERTER, inputs)  # the title may be another
            print(f"{command.out}: these images were judged already")
    _tell(summary)


def _judged_before(out: Path, record: Record, inputs: Mapping[str, str]) -> Summary | None:
    """What the folder says of these very images; None where they are still to be judged.

    Raises `UserError` for a folder of other settings, or of other images of a model.
    """
    path = out / EVIDENCE
    if not path.exists():
        return None
    before = runfile.read(path, Record, CONVERTER)
    added = {f"images.{name}" for name in record.images.keys() - before.images.keys()}
    either = {f"images.{name}" for name in record.images.keys() | before.images.keys()}
    known = {name: digest for name, digest in inputs.items() if name not in added}
    runfile.claim(path, record, CONVERTER, free=["title", *either], inputs=known)
    if load_yaml(out / runfile.INPUTS) != inputs or not (out / ROWS).exists() or not (out / SUMMARY).exists():
        return None
    summary = Judged(read_evidence(out)).summary
    return summary if set(summary.models) == {*record.images, FLOOR, CEILING} else None


def _judge(record: Record, ceiling: Path) -> tuple[list[Row], Summary]:
    """Judge all models, the floor and the ceiling, whose images are drawn anew."""
    assert record.base is not None and record.autoencoder is not None and record.replicates is not None
    folders = list(prompt_folders(record.images[record.base]))
    lines = [folder.metadata for folder in folders]
    seeds = sorted({seed for folder in folders for seed in folder.samples})
    models = {**record.images, FLOOR: record.images[record.base]}
    with Bar("judging images") as bar:
        rows = evaluate_images(models, suite.judge, prompts={FLOOR: suite.floor_metadata(lines)}, progress=bar)
    with replacing(ceiling) as aside:
        _draw_ceiling(record.autoencoder, lines, seeds, aside)
        with Bar("judging the ceiling") as bar:
            rows += evaluate_images({CEILING: aside}, suite.judge, progress=bar)
        settings = Settings(base=record.base, lower_is_better=suite.LOWER_IS_BETTER, replicates=record.replicates)
        return rows, summarize(rows, settings)


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
    backbone = load_backbone(model)
    renders = list(suite.ceiling_images(lines, seeds))
    for number, line in enumerate(lines):
        (out / f"{number:05d}" / "samples").mkdir(parents=True)
        text = json.dumps(line, ensure_ascii=False) + "\n"
        (out / f"{number:05d}" / "metadata.jsonl").write_text(text, encoding="utf-8")
    for first in range(0, len(renders), _AT_ONCE):
        batch = renders[first : first + _AT_ONCE]
        through = _through(backbone, [image for _, _, image in batch])
        for (number, seed, _), image in zip(batch, through, strict=True):
            Image.fromarray(image).save(out / f"{number:05d}" / "samples" / f"{seed:04d}.png", format="PNG")


def _through(backbone: Backbone, images: list[np.ndarray]) -> np.ndarray:
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = backbone.decode(backbone.encode(pixels)).clamp(-1, 1)
    return ((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _tell(summary: Summary) -> None:
    """The scores in plain lines."""
    for model, scores in summary.models.items():
        score = scores.metrics["correct"].overall
        line = f"{model:<16} {score.value:.3f}  [{score.low:.3f}, {score.high:.3f}]"
        compared = summary.comparisons.get(model)
        if compared:
            gain = compared["correct"].difference
            line += f"   {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] against {summary.base}"
        print(line)
