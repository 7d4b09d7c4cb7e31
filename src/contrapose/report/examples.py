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
from contrapose.evaluate.rows import EvidenceRow, Key, prompt_id, select
from contrapose.evaluate.summary import FLOOR
from contrapose.report.evidence import Judged

LARGEST = 256  # pixels of a thumbnail's longer side
_PIXEL_ART = 128  # up to this side, pixels are shown as squares rather than blurred


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
    folders = {}
    for model, path in judged.images.items():
        if model != FLOOR:  # which has no images of its own
            folders[model] = {prompt_id(folder.name, folder.prompt.text): folder for folder in prompt_folders(path)}
    if not folders or number < 1:
        return []
    metric = judged.metrics[0]
    rows = {model: select(judged.rows, model, metric) for model in folders}
    chosen = choose(_shared(judged, folders, rows), judged.tags(), number, seed)
    percent = judged.scale(metric).unit == "%"
    shown = []
    for (name, image_seed), tag in chosen.items():
        images = []
        for model, by_id in folders.items():
            images.append(_shown(model, by_id[name].samples[image_seed], rows[model][name, image_seed], percent))
        prompt = next(iter(folders.values()))[name].prompt.text
        shown.append(Example(prompt, tag, image_seed, tuple(images)))
    return shown


def choose(tag_of: Mapping[Key, str], tags: Sequence[str], number: int, seed: int) -> dict[Key, str]:
    """Draw from the tags in turn, another prompt each time while there are any; the lot knows nothing of the images."""
    queues: list[list[Key]] = []
    for index, tag in enumerate(tags):
        keys = sorted(key for key, its_tag in tag_of.items() if its_tag == tag)
        # a stream a tag: another tag's number of images does not change which of this one's are drawn
        order = np.random.default_rng([seed, index]).permutation(len(keys))
        fresh: dict[str, Key] = {}
        repeated = []
        for place in order:
            name, _ = keys[place]
            if name in fresh:
                repeated.append(keys[place])
            else:
                fresh[name] = keys[place]
        queues.append([*fresh.values(), *repeated])
    # one of each tag a turn, as long as any tag has images left
    turns: list[Key] = []
    for turn in range(max(map(len, queues), default=0)):
        turns += [queue[turn] for queue in queues if turn < len(queue)]
    taken = set(turns[:number])
    return {key: tag_of[key] for queue in queues for key in queue if key in taken}


def _shared(
    judged: Judged, folders: Mapping[str, Mapping[str, PromptFolder]], rows: Mapping[str, Mapping[Key, EvidenceRow]]
) -> dict[Key, str]:
    """The (prompt, seed) that every model has both judged and on disk, and their tags."""
    shared: set[Key] | None = None
    for model, by_id in folders.items():
        on_disk = {(name, seed) for name, folder in by_id.items() for seed in folder.samples}
        judged_too = on_disk & rows[model].keys()
        if not judged_too:
            raise UserError(
                f"{judged.images[model]}: these images of {model!r} are not those that {judged.folder} judged; "
                "evaluate this folder, or name the one that was"
            )
        shared = judged_too if shared is None else shared & judged_too
    if not shared:
        raise UserError(
            f"{judged.folder}: the image folders share no prompt and seed; sample all models on the same ones"
        )
    first = rows[next(iter(folders))]
    return {key: first[key].tag for key in shared}


def _shown(model: str, path: Path, row: EvidenceRow, percent: bool) -> Shown:
    data, pixelated = embedded(path)
    reasons = tuple((row.reason or "").splitlines())
    if not percent:
        return Shown(model, data, pixelated, "", f"{row.metric} {row.value:.3g}", reasons)
    if row.value == 1:
        return Shown(model, data, pixelated, "✓", "right", reasons)
    return Shown(model, data, pixelated, "✗", "wrong", reasons)


def embedded(path: Path) -> tuple[str, bool]:
    """A data URL of the image, at most 256 pixels wide and high, and whether its pixels are to stay visible."""
    image = read_image(path)
    pixelated = max(image.size) <= _PIXEL_ART
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", pixelated
