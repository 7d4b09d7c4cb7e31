"""Judge folders of images: any judge, any number of models, one row per image and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import NamedTuple, Protocol, runtime_checkable

from PIL.Image import Image

from contrapose.errors import UserError
from contrapose.evaluate.images import Images, PromptFolder, prompt_folders
from contrapose.evaluate.rows import EvidenceRow, Rows, prompt_id
from contrapose.judges.judge import Judge
from contrapose.store.prompts import Prompt

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]]
"""From the name of a piece of work to what is told (images done, images in all) while it lasts."""

UNTAGGED = "all"  # the tag of a prompt whose metadata names none
_AT_ONCE = 16  # images that are handed to the judge together


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
    folders = {model: list(prompt_folders(path)) for model, path in models.items()}
    judged_by = {model: _prompts_of(model, those, prompts or {}) for model, those in folders.items()}
    if isinstance(judge, ByPlace):
        judge.check(folders)
    return Rows.of(_all_judged(folders, judged_by, judge, progress))


def _all_judged(
    folders: Mapping[str, Sequence[PromptFolder]],
    prompts: Mapping[str, Sequence[Prompt]],
    judge: Judge,
    progress: Callable[[int, int], None] | None,
) -> Iterator[EvidenceRow]:
    """The rows of one batch after another, so that few of them are Python objects at one time."""
    total = sum(len(folder.samples) for those in folders.values() for folder in those)
    done = 0
    for model, those in folders.items():
        pairs = zip(those, prompts[model], strict=True)
        # a generator, so that an image is read when its batch comes
        samples = (
            _Sample(folder.name, prompt, seed, image) for folder, prompt in pairs for seed, image in folder.images()
        )
        while batch := list(islice(samples, _AT_ONCE)):
            yield from _judged(model, batch, judge)
            done += len(batch)
            if progress:
                progress(done, total)


@runtime_checkable
class ByPlace(Protocol):
    """A judge that goes by where an image lies too, such as by detections that were made elsewhere."""

    def check(self, folders: Mapping[str, Sequence[PromptFolder]]) -> None:
        """Raise `UserError` for images of these models, or models, that it knows nothing of."""
        ...

    def at(self, model: str, places: Sequence[tuple[str, int]]) -> Judge:
        """The judge of a batch of this model's images, by the folder and the seed of each."""
        ...


class _Sample(NamedTuple):
    """One image, and the prompt that it is judged by."""

    folder: str
    prompt: Prompt
    seed: int
    image: Image


def _judged(model: str, batch: Sequence[_Sample], judge: Judge) -> Iterator[EvidenceRow]:
    """The rows of a batch: image by image, and of each its metrics."""
    images = [sample.image for sample in batch]
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
