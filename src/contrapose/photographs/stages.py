"""What happens to candidates between being looked at and becoming pairs: captions, filters and losers, a class each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import ClassVar, Protocol, TypeVar

from PIL import Image

from contrapose.containers.images import several
from contrapose.containers.left_out import LeftOut
from contrapose.errors import UserError
from contrapose.judges.judge import Judge, JudgeSettings, images_at_once
from contrapose.photographs.candidates import Candidate, Side
from contrapose.photographs.captions import Captioner
from contrapose.photographs.filters import AnyFilter, scored
from contrapose.photographs.gallery import Gallery
from contrapose.photographs.spoil import AnySpoiler, Spoiled
from contrapose.photographs.spoil.studio import Studio
from contrapose.photographs.table import PhotoRow, Reaching
from contrapose.seeds import identifier

T = TypeVar("T")


class PhotoStage(Protocol):
    """One step on the way from a photograph to a pair, which all photographs take before the next one begins."""

    @property
    def name(self) -> str: ...

    @property
    def costly(self) -> bool:
        """Whether a network works in it, so that what it wrote is not thrown away lightly."""
        ...

    def check(self) -> None:
        """Raise `UserError` when weights that it needs are not at hand; nothing of them stays in memory."""
        ...

    @property
    def at_once(self) -> int | None:
        """Photographs of a batch; None where nothing can be done of some of them without the others."""
        ...

    @property
    def by_bucket(self) -> bool:
        """Whether a batch is of one bucket."""
        ...

    def work(self, portions: Iterable[Reaching]) -> Iterator[int]:
        """Do what can be done of each portion's waiting photographs without the others, yielding how many were done.

        A batch is one transaction: stopped anywhere, it goes on with the same batches, and what rounding makes of them.
        """
        ...

    def is_done(self, portion: Reaching) -> bool:
        """Whether `work`, which has begun, has nothing to do of a portion."""
        ...

    def conclude(self, photographs: Reaching) -> Iterator[int]:
        """Take all that are waiting then through the stage, yielding how many more have been through."""
        ...


@dataclass(frozen=True)
class WriteCaptions:
    """Writes a caption for every photograph that has none."""

    captioner: Captioner
    gallery: Gallery
    device: str
    batch_size: int

    name: ClassVar[str] = "captions"
    costly: ClassVar[bool] = True
    by_bucket: ClassVar[bool] = False

    @property
    def at_once(self) -> int:
        return max(self.batch_size, self.captioner.at_once)

    def check(self) -> None:
        self.captioner.load(self.device)

    def work(self, portions: Iterable[Reaching]) -> Iterator[int]:
        def opened(candidate: Candidate) -> tuple[Candidate, Image.Image | None]:
            """The candidate, with its image where it has no caption."""
            return candidate, self.gallery.image(candidate, "winner") if candidate.caption is None else None

        write = self.captioner.load(self.device)
        for portion in portions:
            for batch in batches_of(several(opened, portion.waiting()), self.at_once):
                # in the order of the batch, from which each candidate without a caption takes the next
                captions = iter(write([image for _, image in batch if image is not None]))
                rows = []
                for candidate, image in batch:
                    entry: Candidate | LeftOut = candidate
                    if image is not None:
                        entry = replace(candidate, caption=next(captions))
                        if not entry.caption:
                            entry = LeftOut(candidate.name, "no caption", "the captioner had nothing to say")
                    rows.append(PhotoRow(candidate.number, entry))
                yield portion.write(rows)

    def is_done(self, portion: Reaching) -> bool:
        return is_through(portion)

    def conclude(self, photographs: Reaching) -> Iterator[int]:
        """Nothing is left to be done."""
        yield from ()


@dataclass
class Sift:
    """Asks a filter for every photograph, after a judge has seen the images that the filter goes by."""

    filter: AnyFilter
    gallery: Gallery
    device: str
    batch_size: int
    _measure: str = field(default="", init=False)  # what the judge's numbers are noted as

    by_bucket: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.filter.name

    @property
    def costly(self) -> bool:
        return self.filter.scorer is not None

    @property
    def at_once(self) -> int | None:
        return self.batch_size if self.costly else None

    def check(self) -> None:
        if self.filter.scorer is None:
            return
        judge = self.filter.scorer.load(self.device)
        if not judge.higher_is_better[judge.name]:
            raise UserError(
                f"filter {self.name}: keeps what has more {judge.name}, of which less is better; name another scorer"
            )

    def work(self, portions: Iterable[Reaching]) -> Iterator[int]:
        """Note the judge's numbers, where they are not known from an earlier filter."""
        if self.filter.scorer is None:
            return
        judge = self.filter.scorer.load(self.device)
        self._measure = measure_of(self.filter.scorer, judge)

        def opened(candidate: Candidate) -> tuple[Candidate, dict[Side, Image.Image]]:
            return candidate, {side: self.gallery.image(candidate, side) for side in self._missing(candidate)}

        at_once = images_at_once(judge, self.batch_size)
        for portion in portions:
            for batch in batches_of(several(opened, portion.waiting()), at_once):
                candidates = [candidate for candidate, _ in batch]
                images = [images for _, images in batch]
                yield portion.note(scored(candidates, images, judge, self._measure))

    def is_done(self, portion: Reaching) -> bool:
        return not any(self._missing(candidate) for candidate in portion.waiting())

    def _missing(self, candidate: Candidate) -> list[Side]:
        """What is still to be judged: two filters of one judge, such as a gap and the best k, ask it once."""
        return [side for side in self.filter.sides if f"{side} {self._measure}" not in candidate.scores]

    def conclude(self, photographs: Reaching) -> Iterator[int]:
        # numbers are noted before any is judged by, so that a killed stage does not measure again; this is one
        # transaction, since a filter may go by all photographs together
        reasons = self.filter.reasons(photographs, self._measure)
        yield photographs.write(self._judged(photographs, reasons))

    def _judged(self, photographs: Reaching, reasons: Iterator[str | None]) -> Iterator[PhotoRow]:
        for candidate, reason in zip(photographs, reasons, strict=True):
            if reason is None:
                yield PhotoRow(candidate.number, candidate)
            else:
                yield PhotoRow(candidate.number, LeftOut(candidate.name, self.name, reason))


def measure_of(settings: JudgeSettings, judge: Judge) -> str:
    """The name under which a judge's numbers are noted: two of other settings or weights never share it."""
    return f"{judge.name} {identifier(settings, judge.version)}"


@dataclass(frozen=True)
class MakeLosers:
    """Makes every photograph's loser, and saves the images of both.

    Photographs come sorted by bucket, so that those that are spoiled at once have one size.
    """

    spoiler: AnySpoiler
    gallery: Gallery
    studio: Studio
    batch_size: int

    name: ClassVar[str] = "losers"
    costly: ClassVar[bool] = True
    by_bucket: ClassVar[bool] = True

    @property
    def at_once(self) -> int:
        return self.batch_size

    def check(self) -> None:
        """Whatever the spoiler needs is read when it is first asked for."""

    def work(self, portions: Iterable[Reaching]) -> Iterator[int]:
        def cut(candidate: Candidate) -> tuple[Candidate, Image.Image]:
            return candidate, candidate.cut(self.gallery.root)

        for portion in portions:
            # Images are read and saved beside the spoiling of other batches.
            saved = several(self._saved, self._spoiled(several(cut, portion.waiting())))
            # written by the batches that they were spoiled in, so that a killed stage makes the same ones again
            for batch in batches_of(saved, self.batch_size, lambda entry: entry[0]):
                yield portion.write([row for _, row in batch])

    def is_done(self, portion: Reaching) -> bool:
        return is_through(portion)

    def conclude(self, photographs: Reaching) -> Iterator[int]:
        """Nothing is left to be done."""
        yield from ()

    def _spoiled(
        self, cut: Iterable[tuple[Candidate, Image.Image]]
    ) -> Iterator[tuple[int, Candidate, Image.Image, Spoiled]]:
        """Losers, with the number of the batch that they were made in."""
        for number, batch in enumerate(batches_of(cut, self.batch_size, lambda entry: entry[0].bucket)):
            candidates, photos = zip(*batch, strict=True)
            captions = [candidate.record.prompt for candidate in candidates]
            seeds = [candidate.seed for candidate in candidates]
            losers = self.spoiler.spoil(photos, captions, seeds, self.studio)
            for candidate, photo, loser in zip(candidates, photos, losers, strict=True):
                yield number, candidate, photo, loser

    def _saved(self, entry: tuple[int, Candidate, Image.Image, Spoiled]) -> tuple[int, PhotoRow]:
        number, candidate, photo, loser = entry
        # a pair of equal images teaches nothing
        if photo.tobytes() == loser.image.tobytes():
            unspoiled = LeftOut(candidate.name, "unspoiled", "the loser came out as the very photograph")
            return number, PhotoRow(candidate.number, unspoiled)
        self.gallery.keep(candidate.id, photo, loser)
        return number, PhotoRow(candidate.number, replace(candidate, why=dict(loser.why)))


def is_through(photographs: Reaching) -> bool:
    """Whether no photograph is waiting."""
    return next(photographs.waiting(), None) is None


def batches_of(items: Iterable[T], num: int, key: Callable[[T], object] = lambda _: None) -> Iterator[list[T]]:
    """Neighbours of the same key, at most `num` together."""
    for _, same in groupby(items, key):
        while batch := list(islice(same, num)):
            yield batch
