"""What every way of making losers is, and what it gives; no network is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from PIL import Image

if TYPE_CHECKING:
    from contrapose.photographs.spoil.studio import Studio

Why = dict[str, str | int | float]


@dataclass(frozen=True)
class Spoiled:
    """A photograph's loser (RGB, of the photograph's size), what was changed (white; None is all), and why."""

    image: Image.Image
    mask: Image.Image | None
    why: Why


class Spoiler(Protocol):
    """One way of making losers of photographs, by its settings."""

    name: ClassVar[str]
    """What it is called on the command line, in run files and in `why`."""
    networks: ClassVar[tuple[str, ...]]
    """Its settings that may name the folder of a network."""
    masks: ClassVar[bool]
    """Whether it says what was changed."""

    def spoil(
        self, photos: Sequence[Image.Image], captions: Sequence[str], seeds: Sequence[int], studio: Studio
    ) -> list[Spoiled]:
        """A loser for each photograph, which depends on that photograph, its caption and its seed alone.

        Photographs are RGB and of one size. Raises `UserError` for a size that the model cannot make.
        """
        ...
