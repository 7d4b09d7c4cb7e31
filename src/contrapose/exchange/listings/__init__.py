"""Which pairs of images there are: every format that people have them in, one file each over the rows of a container.

A pair that cannot be used is left out with its reason; a file that is not a listing is the user's to fix. Texts and the
places of images lie on the disk meanwhile, and images are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from contrapose.containers.left_out import LeftOut
from contrapose.containers.places import Place, place_of
from contrapose.containers.readers import rows_of
from contrapose.containers.spool import Spool
from contrapose.errors import UserError
from contrapose.exchange.listings import folders
from contrapose.exchange.listings.chosen import CHOSEN
from contrapose.exchange.listings.ddspo import DDSPO
from contrapose.exchange.listings.hpdv2 import HPDV2
from contrapose.exchange.listings.hpdv3 import HPDV3
from contrapose.exchange.listings.kto import KTO
from contrapose.exchange.listings.listed import Format, Listed, Reading
from contrapose.exchange.listings.metadata import METADATA
from contrapose.exchange.listings.pick_a_pic import PICK_A_PIC, WEBDATASET
from contrapose.exchange.listings.real_fake import REAL_FAKE

__all__ = ["FORMATS", "FormatName", "Listed", "Listing", "Reading", "detect", "folder_pairs", "source_pairs"]

FORMATS: dict[str, Format] = {  # the first one whose fields are all there is the format of a row
    "metadata": METADATA,
    "pick-a-pic": PICK_A_PIC,
    "webdataset": WEBDATASET,
    "hpdv3": HPDV3,
    "hpdv2": HPDV2,
    "real-fake": REAL_FAKE,
    "kto": KTO,
    "chosen": CHOSEN,
    "ddspo": DDSPO,
}
if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[("auto", *FORMATS)]


@dataclass(frozen=True)
class Listing:
    """The pairs in order, and those that were left out with their reason; `format` is auto for two folders."""

    pairs: Sequence[Listed]
    left_out: list[LeftOut]
    format: FormatName = "auto"

    @property
    def latents(self) -> bool:
        """Whether the places are those of latents, not of images."""
        return self.format != "auto" and FORMATS[self.format].latents


def folder_pairs(winners: Place, losers: Place, reading: Reading | None = None, limit: int | None = None) -> Listing:
    """Images of the same stem in two folders, the caption beside the winner; `limit` pairs at most are looked at.

    Raises `UserError` when a folder is missing or holds no images, or for a setting that folders do not take.
    """
    _check_taken(reading or Reading(), frozenset(), "two folders")
    return _listing(folders.pairs(place_of(winners), place_of(losers)), "auto", limit)


def source_pairs(source: Place, reading: Reading, format: FormatName = "auto", limit: int | None = None) -> Listing:
    """The pairs of a file or folder, whose format is told from its first row when it is not given.

    Raises `UserError` naming file and row for what cannot be read, and for a setting that the format does not take.
    """
    name = detect(source, reading.split) if format == "auto" else format
    chosen = FORMATS[name]
    _check_taken(reading, chosen.takes, name)
    rows = rows_of(source, chosen.needs, reading.split)
    return _listing(chosen.pairs(rows, reading), name, limit)


def detect(source: Place, split: str | None = None) -> FormatName:
    """The name of the source's format; raises `UserError` when its first row is of none."""
    first = next(rows_of(source, (), split), None)
    names = set() if first is None else {*first.fields, *first.kinds}
    for name, format in FORMATS.items():
        if format.is_of(names):
            return name
    if first is None:
        raise UserError(f"{source}: holds no rows, so it lists no pairs; name the file that lists them")
    formats = "; ".join(f"{name}: {', '.join(format.told_by)}" for name, format in FORMATS.items())
    fields = ", ".join(sorted(names)) or "nothing"
    reason = f"has the fields of no format (found: {fields}), so it lists no pairs"
    raise UserError(f"{first.source}: {reason}; formats have {formats}")


def _listing(listed: Iterable[Listed | LeftOut], format: FormatName, limit: int | None) -> Listing:
    left_out: list[LeftOut] = []

    def pairs() -> Iterator[Listed]:
        for pair in islice(listed, limit):
            if isinstance(pair, LeftOut):
                left_out.append(pair)
            else:
                yield pair

    return Listing(Spool(pairs(), Listed.to_json, Listed.from_json), left_out, format)


def _check_taken(reading: Reading, takes: frozenset[str], what: str) -> None:
    usual = Reading()
    for name in Reading.__dataclass_fields__:
        if name not in takes and getattr(reading, name) != getattr(usual, name):
            raise UserError(f"{name}: pairs from {what} have no use for it; leave the setting out")
