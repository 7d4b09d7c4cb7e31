"""Which candidates become pairs: filters in the order in which they are declared, each over what the last one kept.

A filter tells what it needs: nothing but what the listing tells, or a judge's number of the winner, or of winner and
loser. It sees the whole table of its stage, one candidate at a time and as often as it likes, and gives each a reason
to be left out, or none. A new filter is one class and its place in `AnyFilter`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import ClassVar, Literal, Protocol, get_args

from PIL import Image

from contrapose.errors import UserError
from contrapose.judges.aesthetic import Aesthetic
from contrapose.judges.colours import Colours
from contrapose.judges.judge import Judge, JudgeSettings, score
from contrapose.judges.pick_score import PickScore
from contrapose.judges.table import AnyJudge
from contrapose.judges.yes_no import YesNo
from contrapose.photographs.candidates import Candidate, Side
from contrapose.ranges import AtLeast0, AtLeast1, Count, CountOrNone, Number, Share, checked
from contrapose.store.prompts import Prompt

Reasons = Iterator[str | None]
WINNER: tuple[Side, ...] = ("winner",)
BOTH: tuple[Side, ...] = ("winner", "loser")


class Filter(Protocol):
    """Why candidates are left out."""

    @property
    def name(self) -> str:
        """What it is called on the command line, in run files and in the counts."""
        ...

    @property
    def scorer(self) -> JudgeSettings | None:
        """The judge that gives the numbers that the filter goes by; none when the listing tells enough."""
        ...

    @property
    def sides(self) -> tuple[Side, ...]:
        """The images that the judge looks at; with the loser among them, the losers are made before this filter."""
        ...

    def reasons(self, table: Iterable[Candidate], measure: str) -> Reasons:
        """Why each candidate is left out, None keeping it; `measure` names the judge in `score_of`."""
        ...


def score_of(candidate: Candidate, side: Side, measure: str) -> float:
    """What the judge of this name said of one side."""
    return candidate.scores[f"{side} {measure}"]


@dataclass(frozen=True)
@checked
class PhotoSize:
    """Photographs of enough pixels and of no extreme shape, by the file's own size."""

    min_side: CountOrNone = 0
    """Least pixels of the shorter side."""
    min_pixels: CountOrNone = 0
    """Least pixels in all."""
    max_aspect: AtLeast1 = 3.0
    """Longest allowed side in units of the shorter one."""

    name: ClassVar[str] = "size"
    scorer: ClassVar[None] = None
    sides: ClassVar[tuple[Side, ...]] = ()

    def reasons(self, table: Iterable[Candidate], measure: str) -> Reasons:
        return map(self._reason, table)

    def _reason(self, candidate: Candidate) -> str | None:
        size = candidate.size
        if min(size) < self.min_side:
            return f"its shorter side has {min(size)} pixels; at least {self.min_side} are asked for"
        if size.width * size.height < self.min_pixels:
            return f"it has {size.width * size.height} pixels; at least {self.min_pixels} are asked for"
        if max(size) > self.max_aspect * min(size):
            return f"{size} is longer than {self.max_aspect:g} to 1"
        return None


@dataclass(frozen=True)
@checked
class CaptionLength:
    """Captions that say something, and not so much that no text encoder reads it."""

    min_words: CountOrNone = 2
    """Fewest words."""
    max_words: Count = 200
    """Most words."""

    name: ClassVar[str] = "caption-length"
    scorer: ClassVar[None] = None
    sides: ClassVar[tuple[Side, ...]] = ()

    def __post_init__(self) -> None:
        if self.min_words > self.max_words:
            raise UserError(f"caption-length: min_words {self.min_words} is more than max_words {self.max_words}")

    def reasons(self, table: Iterable[Candidate], measure: str) -> Reasons:
        return map(self._reason, table)

    def _reason(self, candidate: Candidate) -> str | None:
        words = len((candidate.caption or "").split())
        if self.min_words <= words <= self.max_words:
            return None
        return f"its caption has {words} words; {self.min_words} to {self.max_words} are asked for"


@dataclass(frozen=True)
@checked
class Colourfulness:
    """Colourful photographs (Hasler & Suesstrunk 2003), by either of RealAlign's two published readings.

    absolute: the winner is above `threshold`, or above the mean of all that reached the filter (paper and README).
    pair: the winner is above its loser (released code, filter/hpdv3.py).
    """

    reading: Literal["absolute", "pair"] = "absolute"
    """Whether the winner is held against a number or against its loser."""
    threshold: AtLeast0 | None = None
    """With the absolute reading: about 15 is slightly, 45 quite and 82 highly colourful; the set's mean when unset."""

    name: ClassVar[str] = "colourfulness"
    scorer: ClassVar[Colours] = Colours()

    def __post_init__(self) -> None:
        if self.reading == "pair" and self.threshold is not None:
            raise UserError("colourfulness: threshold is unused by the reading pair; leave it out, or use absolute")

    @property
    def sides(self) -> tuple[Side, ...]:
        return BOTH if self.reading == "pair" else WINNER

    def reasons(self, table: Iterable[Candidate], measure: str) -> Reasons:
        if self.reading == "pair":
            return _gaps(table, measure, 0.0)
        if self.threshold is not None:
            return _over(table, measure, self.threshold)
        # once through the table for the mean, and again for the reasons
        mean = fmean(score_of(candidate, "winner", measure) for candidate in table)
        return _over(table, measure, mean, "the mean of ")


@dataclass(frozen=True)
@checked
class ScorerGap:
    """Pairs whose winner is better than its loser: score(winner) - score(loser) > threshold.

    RealAlign asks for 0.02 of the raw PickScore, at which people pick the winner with probability 0.505: that is to
    leave out losers that came out better, and no more.
    """

    scorer: AnyJudge = field(default_factory=PickScore)
    """What scores both."""
    threshold: Number = 0.02
    """In the judge's own unit. PickScore's is the raw one, about 19 to 23."""

    name: ClassVar[str] = "scorer-gap"
    sides: ClassVar[tuple[Side, ...]] = BOTH

    def reasons(self, table: Iterable[Candidate], measure: str) -> Reasons:
        return _gaps(table, measure, self.threshold)


@dataclass(frozen=True)
@checked
class TopK:
    """The best photographs: the k highest scores of the winner, the earlier of two equal ones."""

    k: Count = 512
    """How many are kept; RealAlign trains on 512."""
    scorer: AnyJudge = field(default_factory=PickScore)
    """What scores the winner."""

    name: ClassVar[str] = "top-k"
    sides: ClassVar[tuple[Side, ...]] = WINNER

    def reasons(self, table: Iterable[Candidate], measure: str) -> Reasons:
        # the number, turned, makes the earlier of two equal scores the larger; no more than k are in memory
        places = ((score_of(candidate, "winner", measure), -number) for number, candidate in enumerate(table))
        least = min(heapq.nlargest(self.k, places), default=(0.0, 0))
        for number, candidate in enumerate(table):
            score = score_of(candidate, "winner", measure)
            kept = (score, -number) >= least
            yield None if kept else f"{score:.4g} is not among the {self.k} best (from {least[0]:.4g})"


@dataclass(frozen=True)
@checked
class IsPhotograph:
    """Photographs and not artwork, as a vision-language model answers; RealAlign asks Qwen3-VL-8B-Instruct."""

    scorer: YesNo = field(default_factory=YesNo)
    """The model and its question."""
    threshold: Share = 0.5
    """How sure of yes the model must be, 0..1."""

    name: ClassVar[str] = "photograph"
    sides: ClassVar[tuple[Side, ...]] = WINNER

    def reasons(self, table: Iterable[Candidate], measure: str) -> Reasons:
        return _over(table, measure, self.threshold)


@dataclass(frozen=True)
@checked
class AestheticScore:
    """Photographs above an aesthetic score."""

    scorer: Aesthetic = field(default_factory=Aesthetic)
    """The predictor."""
    threshold: Number = 5.0
    """About 1..10; many sets of photographs are cut at 5 or 6."""

    name: ClassVar[str] = "aesthetic"
    sides: ClassVar[tuple[Side, ...]] = WINNER

    def reasons(self, table: Iterable[Candidate], measure: str) -> Reasons:
        return _over(table, measure, self.threshold)


AnyFilter = PhotoSize | CaptionLength | Colourfulness | ScorerGap | TopK | IsPhotograph | AestheticScore
FILTERS: dict[str, type[AnyFilter]] = {cls.name: cls for cls in get_args(AnyFilter)}


def needs_loser(filter: AnyFilter) -> bool:
    """Whether losers must be there before this filter."""
    return "loser" in filter.sides


def scored(
    batch: Sequence[Candidate], images: Sequence[dict[Side, Image.Image]], judge: Judge, measure: str
) -> list[Candidate]:
    """The candidates with the judge's numbers of the images that are given of each."""
    places = []
    pixels = []
    # flat, so that the judge sees full batches whichever sides are asked for
    for place, sides in enumerate(images):
        for side, image in sides.items():
            places.append((place, side))
            pixels.append(image)
    if not pixels:
        return list(batch)
    scores: list[dict[str, float]] = [{} for _ in batch]
    captions = [Prompt(batch[place].caption or "") for place, _ in places]
    for (place, side), number in zip(places, score(judge, pixels, captions), strict=True):
        scores[place][f"{side} {measure}"] = float(number)
    return [replace(candidate, scores=candidate.scores | more) for candidate, more in zip(batch, scores, strict=True)]


def _over(table: Iterable[Candidate], measure: str, threshold: float, origin: str = "") -> Reasons:
    """Keeps winners above a threshold; `origin` says where that comes from."""
    for candidate in table:
        score = score_of(candidate, "winner", measure)
        yield None if score > threshold else f"{score:.4g} is not over {origin}{threshold:.4g}"


def _gaps(table: Iterable[Candidate], measure: str, threshold: float) -> Reasons:
    """Keeps winners that are above their losers by more than a threshold."""
    for candidate in table:
        winner = score_of(candidate, "winner", measure)
        loser = score_of(candidate, "loser", measure)
        reason = f"winner {winner:.4g}, loser {loser:.4g}: not better by over {threshold:g}"
        yield None if winner - loser > threshold else reason
