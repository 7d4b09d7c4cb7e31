"""The suite "set": numbers of whole sets of images, such as FID, which no single image has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from contrapose.errors import UserError
from contrapose.evaluate.sets.measure import MetricName
from contrapose.evaluate.sets.reference import digest_of_reference
from contrapose.judges.judge import Judge, Jury
from contrapose.ranges import checked
from contrapose.runfile import Practical
from contrapose.store.prompts import Prompt


@dataclass(frozen=True)
@checked
class Sets:
    """The suite "set": how far are a model's images as a whole from a reference, and how varied are they?

    FID is a measure of drift rather than of quality: aligned models raise it while people prefer them.
    """

    metrics: tuple[MetricName, ...] = ("fid", "kid")
    """What is measured: fid, kid, is, precision-recall, or cmmd (with --features clip)."""
    reference: Path | None = None
    """What the images are compared with: a folder of images, or the .npz that --save-reference wrote; inception scores
    need none."""
    save_reference: Practical[Path | None] = None
    """File (.npz) that receives the reference's features, so that its images are looked at once."""

    bounds: ClassVar[None] = None
    counted: ClassVar[str] = ""
    title: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise UserError("metrics: name at least one of a set, such as fid")
        if len(set(self.metrics)) < len(self.metrics):
            raise UserError(f"metrics {' '.join(self.metrics)}: one is named twice")
        if self.save_reference is not None and self.reference is None:
            raise UserError("save_reference: there is no reference to save; name its folder with --reference")
        if self.save_reference is not None and self.save_reference.suffix != ".npz":
            raise UserError(f"save_reference {self.save_reference}: name a file that ends in .npz")

    def load(self, device: str) -> Judge:
        """A judge that says nothing of single images."""
        return Jury(())

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Images of any prompts are a set."""

    def inputs(self) -> dict[str, str]:
        return {} if self.reference is None else {"reference": digest_of_reference(self.reference)}
