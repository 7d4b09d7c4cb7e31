"""A run's images as it trained: a row a prompt, a column a step."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from contrapose.evaluate.images import read_image
from contrapose.report.thumbnails import Thumbnail, thumbnail
from contrapose.runs.watched import Strip, film

_PROMPTS = 6  # rows at most
_STEPS = 8  # columns at most
_LARGEST = 192  # pixels of a side


class FilmRow(NamedTuple):
    """One prompt and seed; an image is None where the run has none of that step."""

    prompt: str
    seed: int
    images: tuple[Thumbnail | None, ...]


class Film(NamedTuple):
    """The images of a run by step, ready to be laid out."""

    steps: tuple[int, ...]
    rows: tuple[FilmRow, ...]
    about: str
    """What is shown of how much."""


def shown_film(run: Path) -> Film | None:
    """Up to six prompts, each of its first seed, at up to eight steps, the first and the last among them.

    None for a run that drew no images; raises `UserError` naming a file that is broken.
    """
    strips: dict[str, Strip] = {}
    every = film(run)
    for strip in every:
        strips.setdefault(strip.prompt, strip)
    shown = list(strips.values())[:_PROMPTS]
    steps = sorted({step for strip in shown for step in strip.paths})
    if not steps:
        return None
    columns = min(_STEPS, len(steps))
    # evenly spaced places in the list of steps, both ends among them
    places = [round(place * (len(steps) - 1) / max(columns - 1, 1)) for place in range(columns)]
    chosen = tuple(steps[place] for place in places)
    rows = tuple(FilmRow(strip.prompt, strip.seed, _images(strip, chosen)) for strip in shown)
    about = f"{len(shown)} of {len(strips)} prompts" if len(shown) < len(strips) else ""
    if len(chosen) < len(steps):
        about += f"{' at ' if about else ''}{len(chosen)} of {len(steps)} steps"
    return Film(chosen, rows, about)


def _images(strip: Strip, steps: tuple[int, ...]) -> tuple[Thumbnail | None, ...]:
    images: list[Thumbnail | None] = []
    for step in steps:
        images.append(thumbnail(read_image(strip.paths[step]), _LARGEST) if step in strip.paths else None)
    return tuple(images)
