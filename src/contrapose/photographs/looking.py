"""The first stage: every photograph is looked at once, and is a candidate or left out with its reason."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar

from contrapose.containers.left_out import LeftOut
from contrapose.containers.places import Place, name_below
from contrapose.photographs.candidates import Candidate
from contrapose.photographs.photos import CAPTIONS, Look, NearDuplicates, Photo, look_at_photos
from contrapose.photographs.table import PhotoRow, Reaching
from contrapose.pixels import Size
from contrapose.seeds import identifier, seed_of
from contrapose.store.buckets import cover, nearest
from contrapose.store.fitting import Fitting

_AT_ONCE = 128  # photographs that are written in one transaction
Listing = Iterator[Photo | LeftOut]


@dataclass(frozen=True)
class LookAtPhotos:
    """Opens every photograph, and decides how it is cut."""

    listing: Callable[[], Listing]
    root: Place  # that places are told from
    fitting: Fitting
    sizes: Sequence[Size]  # the buckets
    near_duplicates: int | None  # bits of the fingerprint; None keeps them
    seed: int
    needs_caption: bool

    name: ClassVar[str] = "photos"
    costly: ClassVar[bool] = False
    at_once: ClassVar[None] = None
    by_bucket: ClassVar[bool] = False

    def check(self) -> None:
        """There are no weights to miss."""

    def work(self, portions: Iterable[Reaching]) -> Iterator[int]:
        """Nothing: whether a photograph is a near duplicate depends on those before it."""
        yield from ()

    def is_done(self, portion: Reaching) -> bool:
        return True

    def conclude(self, photographs: Reaching) -> Iterator[int]:
        done = photographs.num_through
        seen = None if self.near_duplicates is None else NearDuplicates(self.near_duplicates)
        if seen is not None:
            # of a run that is carried on: those that were kept before
            for candidate in photographs:
                seen.remember(candidate.number, candidate.fingerprint)
        rows = self._rows(islice(self.listing(), done, None), done, photographs, seen)
        # A batch is written as it is made: whether a photograph is a near duplicate depends on the one before it.
        while first := next(rows, None):
            yield photographs.add(chain([first], islice(rows, _AT_ONCE - 1)))

    def _rows(
        self, listing: Listing, done: int, photographs: Reaching, seen: NearDuplicates | None
    ) -> Iterator[PhotoRow]:
        for number, entry in enumerate(look_at_photos(listing), done):
            if isinstance(entry, LeftOut):
                yield PhotoRow(number, entry)
                continue
            photo, look = entry
            unfit = self._unfit(photo, look)
            # one that cannot be used leaves no trace, and so makes no later one a duplicate
            earlier = None if unfit or seen is None else seen.first_near(look.fingerprint)
            if unfit:
                yield PhotoRow(number, unfit)
            elif earlier is not None:
                reason = f"is nearly the same picture as {photographs.name(earlier)}"
                yield PhotoRow(number, LeftOut(photo.name, "near duplicate", reason))
            else:
                if seen is not None:
                    seen.remember(number, look.fingerprint)
                yield PhotoRow(number, self._candidate(number, photo, look))

    def _unfit(self, photo: Photo, look: Look) -> LeftOut | None:
        """Why the photograph alone, without those before it, cannot be used."""
        if photo.caption is None and self.needs_caption:
            places = f"in a .txt or .caption of its stem, or under {', '.join(CAPTIONS)}; its row has {photo.fields}"
            return LeftOut(photo.name, "no caption", f"has no caption ({places}); write one, or name a captioner")
        bucket = nearest(look.size, self.sizes)
        scale = cover(look.size, bucket)
        most = self.fitting.max_scale_up
        if scale > most:
            reason = f"its {look.size} pixels would be scaled up by {scale:.2f} to cover {bucket}"
            return LeftOut(photo.name, "too small", f"{reason}; at most {most:g} is allowed")
        return None

    def _candidate(self, number: int, photo: Photo, look: Look) -> Candidate:
        id_ = identifier(photo.name, look.digest)
        seed = seed_of(self.seed, id_)
        return Candidate(
            number,
            id_,
            photo.name,
            replace(photo.image, path=Path(posixpath.normpath(name_below(photo.image.path, self.root)))),
            look.size,
            look.fingerprint,
            nearest(look.size, self.sizes),
            seed,
            photo.caption,
            self.fitting.flips(seed),
            self.fitting.position(seed),
        )
