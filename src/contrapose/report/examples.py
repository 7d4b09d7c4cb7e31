"""Images side by side: the same prompt and seed for every model, chosen by lot before anything is known of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from contrapose.errors import UserError
from contrapose.evaluate.images import PromptFolder, prompt_folders, read_image
from contrapose.evaluate.rows import Row, prompt_id, select
from contrapose.evaluate.summary import FLOOR
from contrapose.report.evidence import Judged

LARGEST = 256  # pixels of a thumbnail's longer side
_PIXEL_ART = 128  # up to this side, pixels are shown as squares rather than blurred

Key = tuple[str, int]
"""(prompt_id, seed)"""


class Shown(NamedTuple):
    """One model's image; `mark` is a tick or a cross where the metric is a verdict, else the value."""

    model: str
    data: str
    pixelated: bool
    mark: str
    words: str
    reasons: tuple[str, ...]


class Example(NamedTuple):
    """One prompt and seed, and what every model made of it."""

    prompt: str
    tag: str
    seed: int
    images: tuple[Shown, ...]


def examples(judged: Judged, number: int, seed: int) -> list[Example]:
    """Up to `number` examples, taken from the tags in turn, at random.

    Raises `UserError` when a model's images are not those that were judged, or a file is broken.
    """
    folders = {m: _by_id(path) for m, path in judged.images.items() if m != FLOOR}  # the floor has no images of its own
    if not folders or number < 1:
        return []
    metric = judged.metrics[0]
    rows = {model: select(judged.rows, model, metric) for model in folders}
    chosen = choose(_shared(judged, folders, rows), judged.tags(), number, seed)
    percent = judged.scale(metric).unit == "%"
    found = []
    for (name, image_seed), tag in chosen.items():
        shown = tuple(
            _shown(model, folders[model][name].samples[image_seed], rows[model][name, image_seed], percent)
            for model in folders
        )
        prompt = next(iter(folders.values()))[name].metadata["prompt"]
        found.append(Example(prompt, tag, image_seed, shown))
    return found


def choose(tag_of: Mapping[Key, str], tags: Sequence[str], number: int, seed: int) -> dict[Key, str]:
    """Draw from the tags in turn, another prompt each time while there are any; the lot knows nothing of the images."""
    queues = []
    for index, tag in enumerate(tags):
        keys = sorted(key for key, its in tag_of.items() if its == tag)
        order = np.random.default_rng([seed, index]).permutation(len(keys))
        drawn = [keys[i] for i in order]
        first = {name: key for key in reversed(drawn) for name in (key[0],)}
        fresh = [key for key in drawn if first[key[0]] == key]
        queues.append([*fresh, *(key for key in drawn if first[key[0]] != key)])
    turns = [
        key for turn in range(max(map(len, queues), default=0)) for queue in queues for key in queue[turn : turn + 1]
    ]
    taken = set(turns[:number])
    return {key: tag_of[key] for queue in queues for key in queue if key in taken}


def _by_id(path: Path) -> dict[str, PromptFolder]:
    return {prompt_id(folder.name, folder.metadata["prompt"]): folder for folder in prompt_folders(path)}


def _shared(
    judged: Judged, folders: Mapping[str, Mapping[str, PromptFolder]], rows: Mapping[str, Mapping[Key, Row]]
) -> dict[Key, str]:
    """The (prompt, seed) that every model has both judged and on disk, and their tags."""
    shared: set[Key] | None = None
    for model, by_id in folders.items():
        there = {(name, seed) for name, folder in by_id.items() for seed in folder.samples} & rows[model].keys()
        if not there:
            raise UserError(
                f"{judged.images[model]}: these images of {model!r} are not those that {judged.folder} judged; "
                "evaluate this folder, or name the one that was"
            )
        shared = there if shared is None else shared & there
    if not shared:
        raise UserError(
            f"{judged.folder}: the image folders share no prompt and seed; sample all models on the same ones"
        )
    first = rows[next(iter(folders))]
    return {key: first[key].tag for key in shared}


def _shown(model: str, path: Path, row: Row, percent: bool) -> Shown:
    data, pixelated = embedded(path)
    mark, words = ("✓", "right") if row.value == 1 else ("✗", "wrong")
    if not percent:
        mark, words = "", f"{row.metric} {row.value:.3g}"
    return Shown(model, data, pixelated, mark, words, tuple((row.reason or "").splitlines()))


def embedded(path: Path) -> tuple[str, bool]:
    """A data URL of the image, at most 256 pixels wide and high, and whether its pixels are to stay visible."""
    image = Image.fromarray(read_image(path))
    pixelated = max(image.size) <= _PIXEL_ART
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", pixelated
