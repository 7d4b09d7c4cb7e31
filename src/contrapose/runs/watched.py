"""What a run draws while it trains, and what judges say of it: a folder a watched step, laid out as by `sample`.

images/step-000000/                          of the model where training begins
images/step-000100/watched.json              how it was drawn, and scores; written with the folder
                   00000/metadata.jsonl      a prompt, as `sample` and GenEval write it
                   00000/samples/0000.png    its image of seed 0
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from contrapose import runfile
from contrapose.documents import json_lines, load_json
from contrapose.errors import UserError
from contrapose.files import discard
from contrapose.runs.names import IMAGES
from contrapose.runs.steps import numbered, step_name

METADATA = "metadata.jsonl"
_ABOUT = "watched.json"
_FIX = "remove the step's folder; 'contrapose align' goes on without it"
_CONVERTER = runfile.converter()


@dataclass(frozen=True)
class Scored:
    """What a judge says of all images of a step by one metric, in the order of the prompts and of the seeds of each."""

    higher_is_better: bool
    version: str
    """Of the judge: scores of different versions do not compare."""
    values: list[float]


@dataclass(frozen=True)
class About:
    """How a step was watched."""

    drawn: dict[str, Any]
    """All that decides the images beside the weights."""
    prompts: list[str]
    """Of what was judged, one an image."""
    tags: list[str]
    """The categories of these prompts."""
    scores: dict[str, Scored]
    """By metric, the first judge's first."""


class Strip(NamedTuple):
    """What a run made of one prompt and seed as it went on."""

    prompt: str
    seed: int
    paths: dict[int, Path]
    """Its image by step, the earliest first."""


def watched_folder(run: Path, step: int) -> Path:
    """Where a run's images of a step lie."""
    return run / IMAGES / step_name(step)


def watched_steps(run: Path) -> dict[int, Path]:
    """The folders of the watched steps by their number, the latest last."""
    return numbered(run / IMAGES)


def film(run: Path) -> list[Strip]:
    """The images of a run by prompt and seed, in the order of its prompts; none for a run that was not watched.

    Raises `UserError` naming the file for a line beside the images that is broken.
    """
    strips: dict[tuple[str, int], Strip] = {}
    for step, folder in watched_steps(run).items():
        for prompt, seed, path in images_in(folder):
            strip = strips.setdefault((prompt, seed), Strip(prompt, seed, {}))
            strip.paths[step] = path
    return list(strips.values())


def images_in(folder: Path) -> Iterator[tuple[str, int, Path]]:
    """The prompt, seed and file of each image of a folder of `sample`'s, or of a watched step.

    Raises `UserError` naming the file for a line beside the images that is broken.
    """
    for line in sorted(folder.glob(f"*/{METADATA}")):
        prompt = _prompt(line)
        for image in sorted((line.parent / "samples").glob("*.png")):
            if image.stem.isdecimal() and image.is_file():
                yield prompt, int(image.stem), image


def _prompt(path: Path) -> str:
    """The prompt of a folder of images."""
    for _, line in json_lines(path, _FIX):
        if isinstance(line.get("prompt"), str):
            return line["prompt"]
    raise UserError(f"{path}: tells no prompt; {_FIX}")


def forget_images(run: Path, is_wanted: Callable[[int], bool]) -> None:
    """Remove the folders of the watched steps that are not wanted."""
    for step, folder in watched_steps(run).items():
        if not is_wanted(step):
            discard(folder)


def write_about(folder: Path, about: About) -> None:
    """Write how a step was watched beside its images."""
    text = json.dumps(asdict(about), ensure_ascii=False, indent=1)
    (folder / _ABOUT).write_text(text + "\n", encoding="utf-8")


def read_about(folder: Path) -> About | None:
    """How a step was watched; None where it was not. Raises `UserError` naming the file where it is broken."""
    path = folder / _ABOUT
    if not path.is_file():
        return None
    about = runfile.structured(path, load_json(path, _FIX), About, _CONVERTER, _FIX)
    if any(len(scored.values) != len(about.prompts) for scored in about.scores.values()):
        raise UserError(f"{path}: has more or fewer scores than prompts; {_FIX}")
    return about
