"""The first stage: every photograph is looked at once, and is a candidate or left out with its reason."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from contrapose.containers.left_out import LeftOut, Skip
from contrapose.photographs.candidates import Candidate, Row, Table, groups, identity, write_table
from contrapose.photographs.photos import CAPTIONS, Look, NearDuplicates, Photo, look_at_photos
from contrapose.seeds import seed_of
from contrapose.store.buckets import Size, cover, nearest
from contrapose.store.fitting import Fitting

_ROWS = 32  # written at a time
Listing = Iterator[Photo | LeftOut]


class Looking(NamedTuple):
    """What decides whether a photograph is a candidate, and how it is cut."""

    root: Path  # that places are told from
    fitting: Fitting
    among: Sequence[Size]  # the buckets
    near_duplicates: int | None  # bits of the fingerprint; None keeps them
    seed: int
    needs_caption: bool


def look(path: Path, listing: Listing, how: Looking) -> Iterator[int]:
    """Write the table of photographs, yielding how many were looked at; the same listing again carries on."""

    def looked(so_far: Table) -> Iterator[Sequence[Row]]:
        near = None if how.near_duplicates is None else NearDuplicates(how.near_duplicates)
        for row, _ in zip(so_far, listing, strict=False):  # which passes over what was looked at
            if near and isinstance(row, Candidate):
                near.seen(row.name, row.fingerprint)
        return groups(_rows(listing, how, near), _ROWS)

    return write_table(path, looked)


def _rows(listing: Listing, how: Looking, near: NearDuplicates | None) -> Iterator[Row]:
    """A row for each photograph, in order; those that cannot be listed wait for the look at those before them."""
    waiting: deque[tuple[int, LeftOut]] = deque()

    def photos() -> Iterator[Photo]:
        num = 0
        for listed in listing:
            if isinstance(listed, LeftOut):
                waiting.append((num, listed))
            else:
                num += 1
                yield listed

    for number, (photo, seen) in enumerate(look_at_photos(photos())):
        while waiting and waiting[0][0] <= number:
            yield waiting.popleft()[1]
        yield _row(photo, seen, how, near)
    yield from (skipped for _, skipped in waiting)


def _row(photo: Photo, seen: Look | Skip, how: Looking, near: NearDuplicates | None) -> Row:
    if isinstance(seen, Skip):
        return seen.of(photo.name)
    if photo.caption is None and how.needs_caption:
        places = f"in a .txt of its stem, or under {', '.join(CAPTIONS)} in a table"
        return LeftOut(photo.name, "no caption", f"has no caption ({places}); write one, or name a captioner")
    bucket = nearest(seen.size, how.among)
    scale = cover(seen.size, bucket)
    if scale > how.fitting.max_scale_up:
        told = f"its {seen.size} pixels would be scaled up by {scale:.2f} to cover {bucket}"
        return LeftOut(photo.name, "too small", f"{told}; at most {how.fitting.max_scale_up:g} is allowed")
    earlier = near.seen(photo.name, seen.fingerprint) if near else None
    if earlier is not None:
        return LeftOut(photo.name, "near duplicate", f"is nearly the same picture as {earlier}")
    own = identity(photo.name, seen.digest)
    seed = seed_of(how.seed, own)
    flip, position = how.fitting.flips(seed), how.fitting.position(seed)
    place = replace(photo.image, path=Path(os.path.relpath(photo.image.path, how.root)))
    return Candidate(own, photo.name, place, seen.size, seen.fingerprint, bucket, seed, photo.caption, flip, position)
