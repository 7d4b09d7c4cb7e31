"""Judge folders of images: any judge, any number of models, one row per image and metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrapose.errors import UserError
from contrapose.evaluate.images import PromptFolder, prompt_folders
from contrapose.evaluate.rows import Measure, Row, prompt_id

Judge = Callable[[NDArray[np.uint8], Mapping[str, Any]], Sequence[Measure]]
UNTAGGED = "all"  # the tag of a prompt whose metadata names none


def evaluate_images(
    models: Mapping[str, Path],
    judge: Judge,
    *,
    prompts: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Judge every image of every model's folder (GenEval's layout).

    `prompts` gives a model other metadata lines than its folders', in their order: the floor judges a model's images by
    shuffled prompts. `progress` is told (images done, images in all) after each image.
    Raises `UserError` for broken folders before the first image is judged.
    """
    folders = {model: list(prompt_folders(path)) for model, path in models.items()}
    lines = {model: _lines(model, those, prompts or {}) for model, those in folders.items()}
    total = sum(len(folder.samples) for those in folders.values() for folder in those)
    rows: list[Row] = []
    done = 0
    for model, those in folders.items():
        for folder, line in zip(those, lines[model], strict=True):
            identity, tag = prompt_id(folder.name, line["prompt"]), str(line.get("tag", UNTAGGED))
            for seed, image in folder.images():
                rows += [Row(model, identity, tag, seed, *measure) for measure in judge(image, line)]
                done += 1
                if progress:
                    progress(done, total)
    return rows


def _lines(
    model: str, folders: Sequence[PromptFolder], prompts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Sequence[Mapping[str, Any]]:
    if model not in prompts:
        return [folder.metadata for folder in folders]
    if len(prompts[model]) != len(folders):
        raise UserError(
            f"{model}: {len(prompts[model])} prompts were given for {len(folders)} folders; give one for each"
        )
    return prompts[model]
