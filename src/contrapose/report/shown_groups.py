"""Groups of a store as a page shows them: their images, decoded, with prompts, labels and scores.

The page of pairs and a run's report show the same: `show_groups(store, Decoder(model), 6, seed)` gives six groups, and
the macro `groups` of `macros.html.j2` lays them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL.Image import Image, Resampling, fromarray
from torch import Tensor

from contrapose.judges.judge import Judge
from contrapose.report.changed_words import MarkedText, changed_words
from contrapose.report.numbers import MINUS
from contrapose.report.thumbnails import Thumbnail, thumbnail
from contrapose.store.groups import GroupStore
from contrapose.store.prompts import Prompt
from contrapose.store.records import GroupRecord

LARGEST = 384  # pixels of a thumbnail's longer side: two stand side by side on a wide screen
Decode = Callable[[Tensor], Sequence[Image]]
"""Images of latents [b, c, h, w], as a `Decoder` makes them."""
_KINDS = {1: "single image", 2: "pair"}
_LIKED = {1.0: "liked", 0.0: "disliked"}


class Score(NamedTuple):
    """A number that an image has, from the store or from a judge."""

    name: str
    text: str


class Gap(NamedTuple):
    """A score of a pair's winner minus its loser's."""

    name: str
    value: float
    verdict: Literal["", "better", "worse", "equal"]
    """Whether the winner is better by it; empty where nobody says which way is."""

    @property
    def text(self) -> str:
        return _text(self.value, "+")


class ShownSample(NamedTuple):
    """One image of a group."""

    name: str
    """What it is in its group, in a word or two: winner, loser, liked, label 0.25, ..."""
    image: Thumbnail
    scores: tuple[Score, ...]


class ShownGroup(NamedTuple):
    """One group of a store, its best image first."""

    id: str
    kind: str
    """How many images it has, in words: pair, single image, group of 4."""
    prompt: str
    degraded: tuple[MarkedText, ...]
    """The prompt that the loser was made from, with what differs from the prompt; empty where there is none."""
    samples: tuple[ShownSample, ...]
    gaps: tuple[Gap, ...]
    """Of a pair that is not tied, one for each score."""
    mask: ShownSample | None = None
    """Where the images differ, in white; None where the store does not say."""


def show_groups(
    store: GroupStore,
    decode: Decode,
    number: int,
    seed: int,
    judge: Judge | None = None,
    progress: Callable[[int], None] = lambda done: None,
    largest: int = LARGEST,
) -> list[ShownGroup]:
    """Up to `number` groups of a store, drawn by lot, which knows nothing of them, and in the store's order.

    `decode` makes images of latents; a `judge` scores them as they are decoded, each by its group's prompt. `progress`
    is told the number of groups done. Raises `UserError` naming the record whose latents are not finite, and what
    `decode` and the judge raise.
    """
    shown = []
    for done, index in enumerate(by_lot(store, number, seed), start=1):
        record = store.records[index]
        # one image at a time: decoding large ones takes the most memory of all
        images = [decode(store.latent(place, index)[None])[0] for place in range(record.num_samples)]
        marks: dict[str, Sequence[float]] = {}
        better: Mapping[str, bool] = {}
        if judge is not None:
            answers = judge(images, [Prompt(record.prompt)] * len(images))
            marks = {name: answers[name].values.tolist() for name in judge.higher_is_better}
            better = judge.higher_is_better
        group = _shown(record, images, {**record.scores, **marks}, better, largest)
        if store.has_mask(index):
            levels = store.mask_levels(index).numpy()
            # a place of the latent is a square of pixels
            mask = fromarray(levels).resize(images[0].size, Resampling.NEAREST).convert("RGB")
            group = group._replace(mask=ShownSample("where they differ", thumbnail(mask, largest), ()))
        shown.append(group)
        progress(done)
    return shown


def by_lot(store: GroupStore, number: int, seed: int) -> list[int]:
    """The places of up to `number` groups, so that nobody picked them, in the store's order."""
    return sorted(np.random.default_rng(seed).permutation(len(store))[:number].tolist())


def _shown(
    record: GroupRecord,
    images: Sequence[Image],
    scores: Mapping[str, Sequence[float]],
    higher_is_better: Mapping[str, bool],
    largest: int,
) -> ShownGroup:
    """One group; of equal labels the first stands first."""
    order = sorted(range(record.num_samples), key=lambda place: -record.labels[place])
    samples = []
    for place in order:
        values = tuple(Score(name, _text(numbers[place])) for name, numbers in scores.items())
        samples.append(ShownSample(_name(record, place), thumbnail(images[place], largest), values))
    gaps = []
    if record.num_samples == 2 and not record.tied:
        best, worst = order
        gaps = [_gap(name, numbers[best] - numbers[worst], higher_is_better) for name, numbers in scores.items()]
    degraded = changed_words(record.prompt, record.degraded) if record.degraded.strip() else ()
    kind = _KINDS.get(record.num_samples, f"group of {record.num_samples}")
    return ShownGroup(record.id, kind, record.prompt, degraded, tuple(samples), tuple(gaps))


def _name(record: GroupRecord, place: int) -> str:
    """What a sample is in its group: of a pair that is not decided, with its share of preference."""
    label = record.labels[place]
    if record.num_samples == 1:
        return _LIKED.get(label, f"liked by {label:.3g}")
    if record.tied:
        return "tied"
    if record.num_samples > 2:
        return f"label {label:.3g}"
    name = "winner" if place == record.place("winner") else "loser"
    return name if record.preference == 1 else f"{name}, share {label:.3g}"


def _gap(name: str, value: float, higher_is_better: Mapping[str, bool]) -> Gap:
    if name not in higher_is_better:
        return Gap(name, value, "")
    signed = value if higher_is_better[name] else -value
    if signed == 0:
        return Gap(name, value, "equal")
    return Gap(name, value, "better" if signed > 0 else "worse")


def _text(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4g}".replace("-", MINUS)
