"""The classical corruptions, at graded severities; no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image

from contrapose.errors import UserError
from contrapose.photographs.spoil.corruptions import CORRUPTIONS, Name, Severity
from contrapose.photographs.spoil.spoiler import Spoiled
from contrapose.seeds import seed_of

if TYPE_CHECKING:
    from contrapose.photographs.spoil.studio import Studio


@dataclass(frozen=True)
class Degrade:
    """One corruption of the photograph, its kind and its severity drawn by the photograph's seed."""

    kinds: tuple[Name, ...] = tuple(CORRUPTIONS)
    """Corruptions of which each photograph gets one."""
    severities: tuple[Severity, ...] = (1, 2, 3, 4, 5)
    """Severities of which each photograph gets one, 1 the mildest and 5 the worst."""

    name: ClassVar[str] = "degrade"
    networks: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= CORRUPTIONS.keys():
            raise UserError(f"degrade: kinds are {self.kinds}; choose from {', '.join(CORRUPTIONS)}")
        if not self.severities or not set(self.severities) <= {1, 2, 3, 4, 5}:
            raise UserError(f"degrade: severities are {self.severities}; choose from 1 to 5")

    def spoil(
        self, photos: Sequence[Image.Image], captions: Sequence[str], seeds: Sequence[int], studio: Studio | None = None
    ) -> list[Spoiled]:
        together = zip(photos, captions, seeds, strict=True)
        return [self._spoiled(photo, caption, seed) for photo, caption, seed in together]

    def _spoiled(self, photo: Image.Image, caption: str, seed: int) -> Spoiled:
        rng = np.random.default_rng(seed_of(caption, seed, "degrade"))
        kind = self.kinds[rng.integers(len(self.kinds))]
        severity = self.severities[rng.integers(len(self.severities))]
        pixels = CORRUPTIONS[kind](np.asarray(photo, dtype=np.float64), severity, rng)
        image = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
        return Spoiled(image, None, {"kind": self.name, "corruption": kind, "severity": severity, "seed": seed})
