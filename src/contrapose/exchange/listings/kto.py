"""Diffusion-KTO's table, a row an image: file_path, caption, label (1 liked, 0 disliked).

The liked and the disliked images of one caption become pairs in the order of the table, first with first.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

from contrapose.containers.left_out import LeftOut, Skip
from contrapose.containers.row import ContainerRow
from contrapose.containers.stored import Stored
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import Format, Listed, Reading

COLUMNS = ("file_path", "caption", "label")
_WORDS = {True: "liked", False: "disliked"}


def _pairs(rows: Iterable[ContainerRow], reading: Reading) -> Iterator[Listed | LeftOut]:
    """Each pair when its second image is met, and at the end the images that have no partner."""
    waiting: dict[tuple[str, bool], deque[tuple[str, Stored]]] = defaultdict(deque)
    for row in rows:
        liked = _liked(row)
        try:
            caption = row.caption("caption")
            image = row.image("file_path", reading.folder(row))
        except Skip as skip:
            yield skip.of(row.name)
            continue
        # either is the first to come, and waits for one of the other kind; queues, so that first meets first
        partners = waiting[caption, not liked]
        if not partners:
            waiting[caption, liked].append((row.place, image))
            continue
        partner = partners.popleft()
        (first, winner), (second, loser) = [(row.place, image), partner] if liked else [partner, (row.place, image)]
        numbers = [place.removeprefix("line ") for place in (first, second)]
        yield Listed.pair(f"lines {numbers[0]} and {numbers[1]}", caption, winner, loser)
    for (_, liked), lonely in waiting.items():
        reason = f"{_WORDS[liked]}, but no {_WORDS[not liked]} image of its caption is left"
        for place, _ in lonely:
            yield LeftOut(place, "no partner", reason)


def _liked(row: ContainerRow) -> bool:
    label = row.number("label")
    if type(label) not in (int, float) or label not in (0.0, 1.0):
        raise UserError(f"{row.where}: `label` is {label!r}; write a number: 1 for liked, 0 for disliked")
    return bool(label == 1.0)


KTO = Format(("file_path", "label"), _pairs, COLUMNS, frozenset({"image_folder", "split"}))
