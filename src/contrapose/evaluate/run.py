"""Judge folders of images: any judge, any number of models, one row per image and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from contrapose.errors import UserError
from contrapose.evaluate.images import Images, PromptFolder, prompt_folders, read_image
from contrapose.evaluate.rows import EvidenceRow, Rows, prompt_id
from contrapose.judges.judge import Judge, images_at_once
from contrapose.store.prompts import Prompt

UNTAGGED = "all"  # the tag of a prompt whose metadata names none
_AT_ONCE = 16  # images that are handed to the judge together


class JudgedImage(NamedTuple):
    """One image of a model, and the prompt that it is judged by."""

    folder: str
    prompt: Prompt
    seed: int
    path: Path


class ImagePart(NamedTuple):
    """Images of one model that are judged one after the other."""

    model: str
    samples: Sequence[JudgedImage]


def evaluate_images(
    models: Mapping[str, Images],
    judge: Judge,
    *,
    prompts: Mapping[str, Sequence[Prompt]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Rows:
    """Judge every image of every model's folder (GenEval's layout).

    `prompts` gives a model other prompts than its folders', in their order: the floor judges a model's images by
    shuffled prompts. `progress` is told (images done, images in all) after each batch.
    Raises `UserError` for broken folders before the first image is judged.
    """
    parts = parts_of(models, judge, prompts)
    tell = counting(sum(len(part.samples) for part in parts), progress)
    # few of the rows are Python objects at one time
    return Rows.of(row for part in parts for row in judged(part, judge, tell))


def parts_of(
    models: Mapping[str, Images],
    judge: Judge,
    prompts: Mapping[str, Sequence[Prompt]] | None = None,
    num: int | None = None,
) -> list[ImagePart]:
    """All models' images in their order, in parts of a model each, or of `num` images of one at most.

    Raises `UserError` as `evaluate_images` does.
    """
    folders = {model: list(prompt_folders(path)) for model, path in models.items()}
    judged_by = {model: _prompts_of(model, those, prompts or {}) for model, those in folders.items()}
    if isinstance(judge, ByPlace):
        judge.check(folders)
    parts: list[ImagePart] = []
    for model, those in folders.items():
        samples: list[JudgedImage] = []
        for folder, prompt in zip(those, judged_by[model], strict=True):
            samples += [JudgedImage(folder.name, prompt, seed, path) for seed, path in folder.samples.items()]
        at_once = num or max(len(samples), 1)
        parts += [ImagePart(model, samples[first : first + at_once]) for first in range(0, len(samples), at_once)]
    return parts


def counting(total: int, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """What is told of so many further images at a time, and tells `progress` of (images done, images in all)."""
    done = 0

    def tell(num: int) -> None:
        nonlocal done
        done += num
        if progress:
            progress(done, total)

    return tell


def judged(part: ImagePart, judge: Judge, tell: Callable[[int], None]) -> Iterator[EvidenceRow]:
    """The rows of a part: batch by batch, image by image, and of each its metrics; `tell` is told of each batch."""
    at_once = images_at_once(judge, _AT_ONCE)
    for first in range(0, len(part.samples), at_once):
        batch = part.samples[first : first + at_once]
        yield from _of_batch(part.model, batch, judge)
        tell(len(batch))


@runtime_checkable
class ByPlace(Protocol):
    """A judge that goes by where an image lies too, such as by detections that were made elsewhere."""

    def check(self, folders: Mapping[str, Sequence[PromptFolder]]) -> None:
        """Raise `UserError` for images of these models, or models, that it knows nothing of."""
        ...

    def at(self, model: str, places: Sequence[tuple[str, int]]) -> Judge:
        """The judge of a batch of this model's images, by the folder and the seed of each."""
        ...


def _of_batch(model: str, batch: Sequence[JudgedImage], judge: Judge) -> Iterator[EvidenceRow]:
    images = [read_image(sample.path) for sample in batch]
    prompts = [sample.prompt for sample in batch]
    if isinstance(judge, ByPlace):
        judge = judge.at(model, [(sample.folder, sample.seed) for sample in batch])
    metrics = judge(images, prompts)
    for index, sample in enumerate(batch):
        identity = prompt_id(sample.folder, sample.prompt.text)
        tag = tag_of(sample.prompt)
        for metric, marks in metrics.items():
            seen = marks.seen[index] if marks.seen else None
            value = float(marks.values[index])
            yield EvidenceRow(model, identity, tag, sample.seed, metric, value, marks.reason(index), seen)


def tag_of(prompt: Prompt) -> str:
    """The category that a prompt's metadata names, or the one of all that name none."""
    return prompt.tag or UNTAGGED


def _prompts_of(
    model: str, folders: Sequence[PromptFolder], prompts: Mapping[str, Sequence[Prompt]]
) -> Sequence[Prompt]:
    if model not in prompts:
        return [folder.prompt for folder in folders]
    if len(prompts[model]) != len(folders):
        raise UserError(
            f"{model}: {len(prompts[model])} prompts were given for {len(folders)} folders; give one for each"
        )
    return prompts[model]
