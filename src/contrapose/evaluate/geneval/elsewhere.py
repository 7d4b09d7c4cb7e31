"""GenEval's verdict over detections that were made elsewhere, such as by mmdet in its own environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from contrapose.errors import UserError
from contrapose.evaluate.geneval.recorded import Place, RecordedImage, read_records
from contrapose.evaluate.images import PromptFolder, metadata_of
from contrapose.evaluate.verdict import Detection, Verdict, as_marks, verdict
from contrapose.judges.judge import Marks
from contrapose.store.prompts import Prompt

ColorOf = Callable[[NDArray[np.uint8], Detection, str], str]


@dataclass(frozen=True)
class RecordedJudge:
    """`correct` of images by what a file says of each; colours that it does not tell are looked at in the box.

    No mask being there, what surrounds the object within its box is seen too, as GenEval sees it for a detector of
    boxes.
    """

    records: Mapping[str, Mapping[Place, RecordedImage]]
    """By model."""
    color: ColorOf | None
    """None where the files tell all colours."""
    version: str
    placed: tuple[RecordedImage, ...] = ()
    """Of the judge of a batch, the record of each image."""

    name: ClassVar[str] = "geneval"
    higher_is_better: ClassVar[dict[str, bool]] = {"correct": True}

    def check(self, folders: Mapping[str, Sequence[PromptFolder]]) -> None:
        """Raise `UserError` for a model or images without detections, and for detections of other prompts."""
        for model in sorted(self.records.keys() ^ folders.keys()):
            lacking = "--images" if model in self.records else "--detections"
            raise UserError(f"{lacking} has no {model}; name the same models in --images and --detections")
        for model, those in folders.items():
            records = self.records[model]
            missing: list[Path] = []
            for folder in those:
                for seed, path in folder.samples.items():
                    record = records.get((int(folder.name), seed))
                    if record is None:
                        missing.append(path)
                    else:
                        _check_prompt(record, folder)
            if missing:
                raise UserError(
                    f"--detections {model}: has none of {len(missing)} images, the first {missing[0]}; detect in these "
                    "too"
                )

    def at(self, model: str, places: Sequence[tuple[str, int]]) -> RecordedJudge:
        """The judge of the images of these folders and seeds."""
        records = self.records[model]
        return replace(self, placed=tuple(records[int(folder), seed] for folder, seed in places))

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        """Raises `UserError` unless it is the judge `at` the place of each image, and for colours that nobody tells."""
        if len(self.placed) != len(images):
            raise UserError("detections made elsewhere are of images by their place; judge folders of images")
        verdicts: list[Verdict] = []
        for record, image, prompt in zip(self.placed, images, prompts, strict=True):
            verdicts.append(_verdict(record, image, prompt, self.color))
        return {"correct": as_marks(verdicts)}


def read_detections(files: Mapping[str, Path]) -> dict[str, dict[Place, RecordedImage]]:
    """By model, what its file says of each image; raises `UserError` as `read_records` does."""
    return {model: read_records(path) for model, path in files.items()}


def tell_colors(records: Mapping[str, Mapping[Place, RecordedImage]]) -> bool:
    """Whether files tell all the colours that a verdict asks for."""
    return all(record.colors is not None for of_model in records.values() for record in of_model.values())


def _check_prompt(record: RecordedImage, folder: PromptFolder) -> None:
    """Raise `UserError` where a line was judged by another prompt: it has other objects, over another threshold."""
    metadata = metadata_of(folder.prompt)
    asked = {name: metadata.get(name) for name in ("tag", "prompt", "include", "exclude")}
    for name, value in asked.items():
        if name in record.metadata and record.metadata[name] != value:
            raise UserError(
                f"{record.where}: `{name}` of its metadata is not that of {folder.path}; detect in these images, or "
                "name the file of these"
            )


def _verdict(record: RecordedImage, image: Image, prompt: Prompt, color: ColorOf | None) -> Verdict:
    pixels = np.asarray(image.convert("RGB"))
    everywhere = np.broadcast_to(np.True_, pixels.shape[:2])
    objects: dict[str, list[Detection]] = {}
    color_by_id: dict[int, str] = {}  # colours by the identity of the object, since arrays do not compare
    for name, boxes in record.objects.items():
        objects[name] = [Detection(box[:4], everywhere, box.score) for box in boxes]
        shown = (record.colors or {}).get(name, [])
        for detection, its_color in zip(objects[name], shown, strict=False):  # only the first ones were looked at
            color_by_id[id(detection)] = its_color

    def color_of(pixels: NDArray[np.uint8], detection: Detection, name: str) -> str:
        if id(detection) in color_by_id:
            return color_by_id[id(detection)]
        if color is None:
            raise UserError(f"{record.where}: does not tell the colour of {name}; detect in this image again")
        return color(pixels, _inside(detection, record.where, pixels.shape[:2]), name)

    return verdict(pixels, metadata_of(prompt), objects, color_of)


def _inside(detection: Detection, where: str, size: tuple[int, ...]) -> Detection:
    """A box cut to its image of size (height, width); `UserError` where nothing is left."""
    height, width = size
    left, top, right, bottom = detection.box
    box = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
    if int(box[2]) <= int(box[0]) or int(box[3]) <= int(box[1]):
        raise UserError(f"{where}: a box lies outside its image of {width}x{height}; detect in these very images")
    return Detection(box, detection.mask, detection.score)
