"""Who keeps one of several images of a prompt: what the sampler asks, whoever the judges are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL.Image import Image

from contrapose.store.prompts import Prompt


class Kept(NamedTuple):
    """The image that is kept, by its place among the candidates, and what was said of all of them."""

    place: int
    scores: Mapping[str, Sequence[float]]
    """By the judges' names for their numbers, one for each candidate."""


class Chooser(Protocol):
    """Says which of a prompt's images is the best."""

    @property
    def version(self) -> str:
        """A digest of all that decides."""
        ...

    def sign(self, out: Path) -> None:
        """Write into a folder of images who chooses; `UserError` where another one has."""
        ...

    def __call__(self, candidates: Sequence[Image], prompt: Prompt) -> Kept:
        """The best of these images; of equals the first."""
        ...
