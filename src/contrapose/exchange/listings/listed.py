"""What a format is, and what every listing gives: pairs and other groups by their names and places, never an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.places import Place, place_of
from contrapose.containers.row import ContainerRow
from contrapose.containers.stored import Stored, stored_from_json, stored_to_json
from contrapose.errors import UserError

Ties = Literal["drop", "half"]
Likes = Literal["paired", "single"]
MASK = "mask"
MASKS = (MASK, "mask_path")


@dataclass(frozen=True, slots=True)
class Listed:
    """One group as it is listed: texts and places, never an image.

    `name` is its stem, line, entry or row. Labels go from 0 to 1, one an image, and higher is better. A pair has its
    winner first, and its labels are shares that sum to 1: (1, 0) is decided and (0.5, 0.5) a tie.
    """

    name: str
    prompt: str
    images: tuple[Stored, ...]
    labels: tuple[float, ...]
    degraded: str = ""
    mask: Stored | None = None
    """An image of where the group's images differ; none, or an empty cell of a table, where nothing says so."""

    @classmethod
    def pair(
        cls, name: str, prompt: str, winner: Stored, loser: Stored, preference: float = 1.0, degraded: str = ""
    ) -> Listed:
        """A winner over a loser; `preference` is the winner's share."""
        return cls(name, prompt, (winner, loser), (preference, 1 - preference), degraded)

    def to_json(self) -> list[Any]:
        """All of it in what JSON holds."""
        images = [stored_to_json(image) for image in self.images]
        mask = None if self.mask is None else stored_to_json(self.mask)
        return [self.name, self.prompt, images, self.labels, self.degraded, mask]

    @classmethod
    def from_json(cls, said: list[Any]) -> Listed:
        """The group of which this was said."""
        name, prompt, images, labels, degraded, mask = said
        places = tuple(stored_from_json(image) for image in images)
        return cls(name, prompt, places, tuple(labels), degraded, None if mask is None else stored_from_json(mask))

    @property
    def winner(self) -> Stored:
        """The image with the highest label, the first one of several."""
        return self.images[self.labels.index(max(self.labels))]

    @property
    def loser(self) -> Stored:
        """The image with the lowest label, the last one of several."""
        return self.images[-1 - self.labels[::-1].index(min(self.labels))]

    @property
    def preference(self) -> float:
        """The winner's label."""
        return max(self.labels)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a listing is read; a format takes some of these, and the others are refused with it."""

    ties: Ties = "drop"
    """What becomes of equally preferred images: left out, or kept with a preference of one half."""
    likes: Likes = "paired"
    """What becomes of liked and disliked images (kto): pairs of those that have one caption, or each image by itself,
    which is what diffusion-kto and sft take."""
    image_folder: Path | None = None
    """Folder that the listing's image files are named from; the listing's own when unset."""
    only_models: tuple[str, ...] = ()
    """Of HPDv3, only pairs whose images are both of these models, such as real_images or flux; all when empty."""
    split: str | None = None
    """Which of several splits of a data set in Parquet, such as train."""

    def folder(self, row: ContainerRow) -> Place:
        """The folder that image files are named from, and never leave."""
        return place_of(self.image_folder) if self.image_folder else row.source.parent


Pairs = Callable[[Iterable[ContainerRow], Reading], Iterator[Listed | LeftOut]]


@dataclass(frozen=True)
class Format:
    """How a row of any container becomes a pair."""

    told_by: tuple[str, ...]
    """The fields by which a row tells that it is of this format."""
    pairs: Pairs
    """The pairs of the rows in order; raises `UserError` naming the row that is not what it should be."""
    needs: tuple[str, ...] = ()
    """The columns that a table must have."""
    takes: frozenset[str] = frozenset({"split"})
    """The settings of `Reading` that have a use."""
    latents: bool = False
    """Whether the places are those of latents, not of images."""
    or_told_by: tuple[tuple[str, ...], ...] = ()
    """Other fields that tell it as well, where rows have one of several forms."""

    def is_of(self, names: set[str]) -> bool:
        """Whether a row of these fields is of this format."""
        return any(names.issuperset(fields) for fields in (self.told_by, *self.or_told_by))


def each(pair: Callable[[ContainerRow, Reading], Listed], needs: Iterable[str], masked: bool = True) -> Pairs:
    """The pairs of a format in which a row of these fields is a pair, or is left out where `pair` raises `Skip`.

    Unless `masked` is False, a row may say where its images differ.
    """
    fields = tuple(needs)

    def complete(row: ContainerRow, reading: Reading) -> Listed:
        for key in fields:
            row.check(key)
        listed = pair(row, reading)
        return replace(listed, mask=_mask(row, reading)) if masked else listed

    def pairs(rows: Iterable[ContainerRow], reading: Reading) -> Iterator[Listed | LeftOut]:
        for row in rows:
            yield attempt(row.name, complete, row, reading)

    return pairs


def _mask(row: ContainerRow, reading: Reading) -> Stored | None:
    """The image of where a row's images differ: in `mask`, or a file that this or `mask_path` names."""
    for key in MASKS:
        if row.fields.get(key) not in (None, ""):
            return row.image(key, reading.folder(row))
    return None


def judged(
    name: str, prompt: str, images: tuple[Stored, Stored], shares: tuple[float, float], ties: Ties, degraded: str = ""
) -> Listed:
    """The pair whose winner has the larger share, its preference being its part of both; equal shares are a tie.

    Raises `Skip` for a tie unless those are kept.
    """
    if shares[0] == shares[1] and ties == "drop":
        raise Skip("a tie; it is kept with --ties half", "tie")
    # shares may be of any sum, such as numbers of votes
    winner, loser = images if shares[0] >= shares[1] else reversed(images)
    return Listed.pair(name, prompt, winner, loser, max(shares) / sum(shares) if any(shares) else 0.5, degraded)


def first_share(label: Any, key: str, where: str) -> tuple[float, float]:
    """The shares of both images, of a label that is the first one's: 1 it won, 0 it lost, 0.5 a tie.

    Raises `UserError` for all that is not a number in 0..1: a label that is a text is true even where it says 0, and so
    the first image always wins.
    """
    if type(label) not in (int, float) or not 0 <= label <= 1:
        raise UserError(f"{where}: `{key}` is {label!r}; write a number: 1 or 0, or 0.5 for a tie")
    return float(label), 1.0 - label


def share(row: ContainerRow, key: str) -> float:
    """One image's share of a preference; raises `UserError` unless it is a number from 0 to a billion."""
    value = row.number(key)
    if type(value) not in (int, float) or not 0 <= value <= 1e9:
        raise UserError(f"{row.where}: `{key}` is {value!r}; write a number, such as 1 over 0, or equal ones for a tie")
    return float(value)
