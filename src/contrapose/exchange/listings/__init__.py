"""Which pairs of images there are: every format that people have them in, one file each.

A pair that cannot be used is left out with its reason; a file that is no listing is the user's to mend. What is in
memory are texts and the places of images, never the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from contrapose.containers.left_out import LeftOut
from contrapose.errors import UserError
from contrapose.exchange.listings import ddspo, folders, hpdv3, kto, metadata, pick_a_pic, real_fake, webdataset
from contrapose.exchange.listings.detect import detect, place
from contrapose.exchange.listings.listed import Listed, Reading, inside

__all__ = ["FORMATS", "FormatName", "Listed", "Listing", "Reading", "folder_pairs", "inside", "source_pairs"]

FormatName = Literal["auto", "metadata", "pick-a-pic", "webdataset", "hpdv3", "real-fake", "kto", "ddspo"]


class Format(NamedTuple):
    """How one format is read, and which settings of `Reading` it takes."""

    pairs: Callable[[Path, Reading], Iterator[Listed | LeftOut]]
    takes: frozenset[str]


FORMATS: dict[str, Format] = {
    "metadata": Format(metadata.pairs, frozenset({"ties", "images"})),
    "pick-a-pic": Format(pick_a_pic.pairs, frozenset({"ties", "split"})),
    "webdataset": Format(webdataset.pairs, frozenset({"ties"})),
    "hpdv3": Format(hpdv3.pairs, frozenset({"images", "only_models"})),
    "real-fake": Format(real_fake.pairs, frozenset({"images"})),
    "kto": Format(kto.pairs, frozenset({"images"})),
    "ddspo": Format(ddspo.pairs, frozenset()),
}
assert set(get_args(FormatName)) == {"auto", *FORMATS}


@dataclass(frozen=True)
class Listing:
    """The pairs in order, and those that were left out with their reason; `format` is auto for two folders."""

    pairs: list[Listed]
    left_out: list[LeftOut]
    format: FormatName = "auto"

    @property
    def latents(self) -> bool:
        """Whether the places are those of latents, not of images."""
        return self.format == "ddspo"


def folder_pairs(winners: Path, losers: Path, reading: Reading | None = None) -> Listing:
    """Images of the same stem in two folders, the caption in `winners/STEM.txt`.

    Raises `UserError` when a folder is missing or holds no images, or for a setting that folders do not take.
    """
    _check_taken(reading or Reading(), frozenset(), "two folders")
    return _listing(folders.pairs(winners, losers), "auto")


def source_pairs(source: Path, reading: Reading, format: FormatName = "auto") -> Listing:
    """The pairs of a file or folder, whose format is told from its ending and columns when it is not given.

    Raises `UserError` naming file and row for what cannot be read, and for a setting that the format does not take.
    """
    name = detect(source) if format == "auto" else format
    _check_taken(reading, FORMATS[name].takes, name)
    return _listing(FORMATS[name].pairs(place(source), reading), name)


def _listing(found: Iterable[Listed | LeftOut], format: str) -> Listing:
    pairs: list[Listed] = []
    left_out: list[LeftOut] = []
    for one in found:
        if isinstance(one, LeftOut):
            left_out.append(one)
        else:
            pairs.append(one)
    return Listing(pairs, left_out, format)


def _check_taken(reading: Reading, takes: frozenset[str], what: str) -> None:
    usual = Reading()
    for name in Reading.__dataclass_fields__:
        if name not in takes and getattr(reading, name) != getattr(usual, name):
            raise UserError(f"{name}: pairs from {what} have no use for it; leave the setting out")
