"""What happens to candidates between being looked at and becoming pairs: captions, filters, losers; a table each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from PIL import Image

from contrapose.containers.images import several
from contrapose.containers.left_out import LeftOut
from contrapose.judges.judge import Judge
from contrapose.photographs.candidates import Candidate, Row, Table, by_bucket, groups, write_table
from contrapose.photographs.captions import Captioner
from contrapose.photographs.filters import NAMES, AnyFilter, Side, scored
from contrapose.photographs.gallery import Gallery
from contrapose.photographs.spoil import AnySpoiler
from contrapose.photographs.spoil.studio import Spoiled, Studio
from contrapose.seeds import seed_of
from contrapose.store.buckets import Size

_ROWS = 256  # written at a time where they cost nothing


def write_captions(
    path: Path, before: Table, captioner: Captioner, gallery: Gallery, device: str, num: int
) -> Iterator[int]:
    """Write the table of captions, which are written where there are none; `num` photographs are read at once."""
    if path.exists():
        return
    writer = captioner.load(device)

    def opened(candidate: Candidate) -> tuple[Candidate, Image.Image | None]:
        return candidate, gallery.image(candidate, "winner") if candidate.caption is None else None

    def captioned(so_far: Table) -> Iterator[list[Row]]:
        for some in groups(several(opened, islice(before.kept, len(so_far), None)), num):
            bare = [image for _, image in some if image is not None]
            written = iter(writer.write(bare) if bare else [])
            yield [c if image is None else _told(c, next(written)) for c, image in some]

    yield from write_table(path, captioned)


def _told(candidate: Candidate, caption: str) -> Row:
    if not caption.strip():
        return LeftOut(candidate.name, "no caption", "the captioner had nothing to say")
    return replace(candidate, caption=caption)


def measure_of(some: AnyFilter, judge: Judge) -> str:
    """The name under which a judge's numbers stand in the tables: two of other settings or weights never share it."""
    return f"{judge.name} {seed_of(some.scorer, judge.version):016x}"


def sift(path: Path, before: Table, some: AnyFilter, gallery: Gallery, device: str, batch_size: int) -> Iterator[int]:
    """Write the table of one filter, yielding how many candidates were looked at; run it again to carry on."""
    if path.exists():
        return
    measure, table = "", before
    if some.scorer is not None:
        judge = some.scorer.load(device)
        measure, table = measure_of(some, judge), Table(path.with_name(f".{path.name}.measured"))

        def measured(so_far: Table) -> Iterator[list[Candidate]]:
            waiting = islice(before.kept, len(so_far), None)
            return _measured(waiting, some.sides, gallery, judge, measure, batch_size)

        yield from write_table(table.path, measured)

    def judged(so_far: Table) -> Iterator[list[Row]]:
        rows = (
            candidate if reason is None else LeftOut(candidate.name, NAMES[type(some)], reason)
            for candidate, reason in zip(table.kept, some.reasons(table.kept, measure), strict=True)
        )
        return groups(islice(rows, len(so_far), None), _ROWS)

    yield from write_table(path, judged)
    if table is not before:
        table.path.unlink()


def _measured(
    waiting: Iterable[Candidate], sides: tuple[Side, ...], gallery: Gallery, judge: Judge, measure: str, num: int
) -> Iterator[list[Candidate]]:
    def opened(candidate: Candidate) -> tuple[Candidate, dict[Side, Image.Image]]:
        missing = [side for side in sides if f"{side} {measure}" not in candidate.scores]
        return candidate, {side: gallery.image(candidate, side) for side in missing}

    for some in groups(several(opened, waiting), num):
        yield scored([candidate for candidate, _ in some], [images for _, images in some], judge, measure)


def spoil(
    path: Path, before: Table, among: Sequence[Size], spoiler: AnySpoiler, gallery: Gallery, studio: Studio, num: int
) -> Iterator[int]:
    """Write the table of losers, and their images, yielding how many were made; `num` are made at once.

    Its rows are sorted by bucket, so that those made at once have one size. Images are read and saved beside that.
    """

    def spoiled(so_far: Table) -> Iterator[list[Row]]:
        waiting = by_bucket(before, among, skip=len(so_far))
        cut = several(lambda candidate: (candidate, candidate.cut(gallery.root)), waiting)
        kept = several(lambda made: (made[0], gallery.keep(*made[1:])), _spoiled(cut, spoiler, studio, num))
        # Batch by batch, so that a run that carries on makes the same batches, and what rounding makes of them.
        return ([row for _, row in batch] for batch in groups(kept, num, lambda row: row[0]))

    return write_table(path, spoiled)


def _spoiled(
    cut: Iterable[tuple[Candidate, Image.Image]], spoiler: AnySpoiler, studio: Studio, num: int
) -> Iterator[tuple[int, Candidate, Image.Image, Spoiled]]:
    """Losers, with the number of the batch that they were made in."""
    for number, some in enumerate(groups(cut, num, lambda made: made[0].bucket)):
        candidates, photos = zip(*some, strict=True)
        captions, seeds = [c.record.prompt for c in candidates], [c.seed for c in candidates]
        losers = spoiler.spoil(photos, captions, seeds, studio)
        yield from ((number, *made) for made in zip(candidates, photos, losers, strict=True))
