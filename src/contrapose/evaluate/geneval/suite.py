"""The suite "geneval": GenEval's verdict on images of GenEval's prompts, by a detector through transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from contrapose.contents import digest_of, digest_of_parts
from contrapose.errors import UserError
from contrapose.evaluate.geneval.elsewhere import RecordedJudge, read_detections, tell_colors
from contrapose.evaluate.images import metadata_of, prompt_folders
from contrapose.evaluate.named import named_paths
from contrapose.evaluate.verdict import Detection, as_marks, check_metadata, verdict
from contrapose.judges.judge import Judge, Marks
from contrapose.ranges import Share, check_unused, checked
from contrapose.store.prompts import Prompt

if TYPE_CHECKING:
    from contrapose.evaluate.geneval.colours import ColourClassifier
    from contrapose.evaluate.geneval.detector import CocoDetector

NAME = "geneval"
TITLE = "GenEval (HF detector)"
TITLE_ELSEWHERE = "GenEval (detections made elsewhere)"


@dataclass(frozen=True)
class GenEvalJudge:
    """`correct`, 0 or 1, with the verdict's reason."""

    detector: CocoDetector
    color: Callable[[NDArray[np.uint8], Detection, str], str]
    version: str

    name: ClassVar[str] = NAME
    higher_is_better: ClassVar[dict[str, bool]] = {"correct": True}

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        """Raises `UserError` for a prompt whose line is none of GenEval's."""
        verdicts = []
        for image, prompt in zip(images, prompts, strict=True):
            pixels = np.asarray(image.convert("RGB"))
            objects = self.detector.detect(pixels)
            verdicts.append(verdict(pixels, metadata_of(prompt), objects, self.color))
        return {"correct": as_marks(verdicts)}


@dataclass(frozen=True)
@checked
class GenEval:
    """The suite "geneval": are the objects, counts, colours and positions there that a prompt's GenEval line asks for?

    Close to published numbers and not equal to them, since the detector is another training of the same network.
    """

    detector: str = "facebook/mask2former-swin-small-coco-instance"
    """Folder or hub id of a Mask2Former of COCO's instances."""
    clip: str = "openai/clip-vit-large-patch14"
    """Folder or hub id of the CLIP model that tells colours."""
    self_test: Path | None = None
    """Folder of images that show what their lines ask for: unless enough of them are judged correct, nothing is judged,
    since a detector that is broken finds nothing and says so of every model."""
    least_correct: Share = 0.5
    """Share of the known images that must be judged correct."""
    detections: tuple[str, ...] = ()
    """NAME=FILE of each model: detections made elsewhere, as GenEval's evaluate_images.py writes them, or an evaluation
    here; then no detector is loaded, and CLIP only where a file does not tell colours."""

    bounds: ClassVar[None] = None
    counted: ClassVar[str] = (
        "An object counts where the detector is more than 30 % sure of it, or 90 % where objects are to be counted, "
        "and of one class at most 16 do: an object that is plain to the eye may not be counted."
    )

    def __post_init__(self) -> None:
        if self._files and self.self_test is not None:
            raise UserError("self_test: no detector is loaded where detections are given; leave it out")
        if self.self_test is None:
            check_unused(self, ("least_correct",), "is of known images, and none are named with --self-test")

    @property
    def title(self) -> str:
        return TITLE_ELSEWHERE if self.detections else TITLE

    @property
    def _files(self) -> dict[str, Path]:
        return named_paths(self.detections, "--detections", "FILE")

    def load(self, device: str) -> Judge:
        """Raises `UserError` when weights are missing or broken, the detector fails on the known images, or a file of
        detections is none."""
        if self.detections:
            records = read_detections(self._files)
            if tell_colors(records):
                return RecordedJudge(records, None, digest_of_parts(["detections"]))
            colours, version = self._colours(device)
            return RecordedJudge(records, colours, digest_of_parts(["detections", version]))
        from contrapose.evaluate.geneval.detector import load_detector

        detector = load_detector(self.detector, device)
        colours, version = self._colours(device)
        judge = GenEvalJudge(detector, colours, digest_of_parts([detector.version, version]))
        if self.self_test is not None:
            self._check_detector(judge, self.self_test)
        return judge

    def _colours(self, device: str) -> tuple[ColourClassifier, str]:
        """What tells colours, and its version."""
        from contrapose.evaluate.geneval.colours import ColourClassifier
        from contrapose.judges.pretrained import fingerprint
        from contrapose.judges.towers import load_towers

        towers = load_towers("geneval", self.clip, self.clip, "fp32", device)
        return ColourClassifier(towers), fingerprint(towers.network)

    def check(self, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            check_metadata(metadata_of(prompt))

    def inputs(self) -> dict[str, str]:
        return {f"detections.{model}": digest_of(path) for model, path in self._files.items()}

    def _check_detector(self, judge: GenEvalJudge, folder: Path) -> None:
        correct: list[float] = []
        for prompt_folder in prompt_folders(folder):
            images = [image for _, image in prompt_folder.images()]
            correct += judge(images, [prompt_folder.prompt] * len(images))["correct"].values.tolist()
        if np.mean(correct) < self.least_correct:
            raise UserError(
                f"geneval: of {len(correct)} known images in {folder} {sum(correct):.0f} were judged correct; the "
                "detector does not work here, so nothing was judged; use other weights or another device"
            )
