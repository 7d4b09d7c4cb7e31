"""Diffusion-KTO's CSV, a line an image: file_path, caption, label (1 liked, 0 disliked).

The liked and the disliked images of one caption become pairs in the order of the table, first with first.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

from contrapose.containers.left_out import LeftOut, Skip
from contrapose.containers.stored import Stored
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import Listed, Reading, caption, number, stored
from contrapose.exchange.listings.tables import rows

COLUMNS = ("file_path", "caption", "label")
_WORDS = {True: "liked", False: "disliked"}


def pairs(path: Path, reading: Reading) -> Iterator[Listed | LeftOut]:
    """Each pair when its second image is met, and at the end the images that found no partner.

    Raises `UserError` naming the line that is broken, or whose label is neither 1 nor 0.
    """
    waiting: dict[tuple[str, bool], deque[tuple[int, Stored]]] = defaultdict(deque)
    for line, row in rows(path, COLUMNS):
        liked = _liked(row["label"], f"{path}: line {line}")
        try:
            text = caption(row["caption"])
            image = stored(reading.folder(path), row["file_path"], "file_path", f"{path}: line {line}")
        except Skip as skip:
            yield skip.of(f"line {line}")
            continue
        partners = waiting[text, not liked]
        if partners:
            found = (line, image), partners.popleft()
            (first, winner), (second, loser) = found if liked else reversed(found)
            yield Listed(f"lines {first} and {second}", text, winner, loser)
        else:
            waiting[text, liked].append((line, image))
    for (_, liked), lonely in waiting.items():
        for line, _ in lonely:
            yield LeftOut(
                f"line {line}",
                "no partner",
                f"{_WORDS[liked]}, but no {_WORDS[not liked]} image of its caption is left",
            )


def _liked(label: str, where: str) -> bool:
    if number(label) not in (0.0, 1.0):
        raise UserError(f"{where}: `label` is {label!r}; write a number: 1 for liked, 0 for disliked")
    return number(label) == 1.0
