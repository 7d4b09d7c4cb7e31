"""Likes and dislikes, a row an image with its caption and a label: 1 or true liked, 0 or false disliked.

Diffusion-KTO's tables call image and caption `file_path` (or `file_name`) and `caption`, TRL's `completion` and
`prompt`. They become pairs, the liked and the disliked images of one caption in the order of the table, first with
first; or each a group of its own.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from contrapose.containers.left_out import LeftOut, attempt
from contrapose.containers.row import FILE_NAME, ContainerRow
from contrapose.containers.stored import Stored
from contrapose.errors import UserError
from contrapose.exchange.listings.listed import Format, Listed, Reading

LABEL = "label"
# of TRL's form, as 'contrapose pairs export' writes it
IMAGE = "completion"
PROMPT = "prompt"
_IMAGES = ("file_path", FILE_NAME, IMAGE, "image")
_CAPTIONS = ("caption", PROMPT)
_WORDS = {True: "liked", False: "disliked"}
_SPELLED = {"true": True, "false": False}


class _Vote(NamedTuple):
    """One image with its caption, and whether it was liked."""

    name: str
    caption: str
    image: Stored
    liked: bool


def _listed(rows: Iterable[ContainerRow], reading: Reading) -> Iterator[Listed | LeftOut]:
    votes = (attempt(row.name, _vote, row, reading) for row in rows)
    return _singles(votes) if reading.likes == "single" else _pairs(votes)


def _singles(votes: Iterable[_Vote | LeftOut]) -> Iterator[Listed | LeftOut]:
    """Each image by itself."""
    for vote in votes:
        if isinstance(vote, LeftOut):
            yield vote
        else:
            yield Listed(vote.name, vote.caption, (vote.image,), (float(vote.liked),))


def _pairs(votes: Iterable[_Vote | LeftOut]) -> Iterator[Listed | LeftOut]:
    """Each pair when its second image is met, and at the end the images that have no partner."""
    waiting: dict[tuple[str, bool], deque[_Vote]] = defaultdict(deque)
    for vote in votes:
        if isinstance(vote, LeftOut):
            yield vote
            continue
        # either is the first to come, and waits for one of the other kind; queues, so that first meets first
        partners = waiting[vote.caption, not vote.liked]
        if not partners:
            waiting[vote.caption, vote.liked].append(vote)
            continue
        partner = partners.popleft()
        winner, loser = (vote, partner) if vote.liked else (partner, vote)
        yield Listed.pair(f"{winner.name} and {loser.name}", vote.caption, winner.image, loser.image)
    for (_, liked), lonely in waiting.items():
        reason = f"{_WORDS[liked]}, but no {_WORDS[not liked]} image of its caption is left; --likes single takes it"
        for vote in lonely:
            yield LeftOut(vote.name, "no partner", reason)


def _vote(row: ContainerRow, reading: Reading) -> _Vote:
    liked = _liked(row)
    caption = row.caption(_first_of(row, _CAPTIONS))
    image = row.image(_first_of(row, _IMAGES), reading.folder(row))
    return _Vote(row.name, caption, image, liked)


def _first_of(row: ContainerRow, keys: tuple[str, ...]) -> str:
    """The first of these fields that the row has; raises `UserError`, naming the usual one, where it has none."""
    key = next((key for key in keys if key in row.fields or key in row.kinds), keys[0])
    row.check(key)
    return key


def _liked(row: ContainerRow) -> bool:
    label = row.number(LABEL)
    # where all fields are texts, truth values are spelled out, as by pandas
    if not row.typed and isinstance(label, str):
        label = _SPELLED.get(label.strip().lower(), label)
    if type(label) not in (bool, int, float) or label not in (0, 1):
        raise UserError(
            f"{row.where}: `{LABEL}` is {label!r}; write 1 or true for a liked image, 0 or false for a disliked one"
        )
    return bool(label)


KTO = Format(
    (_IMAGES[0], LABEL),
    _listed,
    (LABEL,),
    frozenset({"likes", "image_folder", "split"}),
    or_told_by=tuple((image, caption, LABEL) for image in _IMAGES[1:] for caption in _CAPTIONS),
)
