"""Tables of candidates on disk, one a stage: each photograph that reached the stage, and why it was left out there.

A table is JSON lines, read one at a time and as often as needed, so that memory does not grow with the photographs. It
is written as its rows come and renamed when it is whole: a killed run carries on after the last whole line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from contrapose.containers.images import digest, read_image
from contrapose.containers.left_out import LeftOut, Skip
from contrapose.containers.stored import InFile, InParquet, InTar, Stored
from contrapose.errors import UserError
from contrapose.files import is_writable, naming_a_full_disk
from contrapose.seeds import seed_of
from contrapose.store.buckets import Size, apply, plan_fit
from contrapose.store.pairs import PairRecord


@dataclass(frozen=True)
class Candidate:
    """A photograph that may become a winner; its loser is made on the way."""

    id: str
    name: str  # unique within its source
    image: Stored  # its path is relative to the source
    size: Size
    fingerprint: int  # perceptual
    bucket: Size
    seed: int
    caption: str | None
    flip: bool = False
    position: tuple[float, float] = (0.5, 0.5)  # shares of what sticks out that are cropped off at the left and the top
    scores: dict[str, float] = field(default_factory=dict)
    why: dict[str, Any] = field(default_factory=dict)  # how the loser was made; empty where there is none yet

    @property
    def record(self) -> PairRecord:
        assert self.caption is not None
        return PairRecord(self.id, self.caption, "", self.seed)

    def cut(self, root: Path) -> Image.Image:
        """The photograph, scaled and cropped to its bucket; `UserError` when it is not the one that was looked at."""
        mend = "put it back as it was, or choose another --out"
        try:
            image = read_image(placed(self.image, root))
        except Skip as skip:
            raise UserError(f"{root}: {skip}; it could be read before: {mend}") from None
        if identity(self.name, digest(image)) != self.id:
            raise UserError(f"{root}: {self.name} was exchanged since it was looked at; {mend}")
        return apply(image, plan_fit([Size(*image.size)], self.bucket, self.flip, self.position)[0])


Row = Candidate | LeftOut
T = TypeVar("T")
BROKEN = "delete the folder and run the same command again"
_LEFT_OUT = b'"reason": '
_ID = re.compile(r"[0-9a-f]{16}")
_STORED: dict[str, type[Stored]] = {"file": InFile, "tar": InTar, "parquet": InParquet}
_KINDS = {cls: kind for kind, cls in _STORED.items()}


def identity(name: str, pixels: str) -> str:
    """A candidate's identifier, of its name and the digest of its pixels."""
    return f"{seed_of(name, pixels):016x}"


def placed(stored: Stored, root: Path) -> Stored:
    """The same image with its path below `root`."""
    return replace(stored, path=root / stored.path)


class Table:
    """A stage's rows in the order in which they were written; iterating it reads the file anew."""

    def __init__(self, path: Path):
        self.path = path

    def __iter__(self) -> Iterator[Row]:
        return self._rows(b"")

    def __len__(self) -> int:
        return sum(1 for _ in self._lines(b""))

    @property
    def kept(self) -> Kept:
        """The candidates that go on."""
        return Kept(self)

    def left_out(self) -> Iterator[LeftOut]:
        """Those that this stage left out."""
        return (row for row in self._rows(_LEFT_OUT) if isinstance(row, LeftOut))

    def num_left_out(self) -> int:
        return sum(1 for _ in self._lines(_LEFT_OUT))

    def of_bucket(self, size: Size) -> Iterator[Candidate]:
        """The candidates of one bucket."""
        holding = f'"bucket": [{size.width}, {size.height}]'.encode()
        return (row for row in self._rows(holding) if isinstance(row, Candidate))

    def _lines(self, holding: bytes) -> Iterator[tuple[int, bytes]]:
        """The lines that hold this text, numbered from 1; a quotation mark within a caption is escaped in them."""
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from ((number, line) for number, line in enumerate(file, 1) if holding in line)

    def _rows(self, holding: bytes) -> Iterator[Row]:
        for number, line in self._lines(holding):
            try:
                raw = json.loads(line)
                row = _left_out(raw) if _LEFT_OUT in line else _candidate(raw)
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                raise UserError(f"{self.path.parent}: {self.path.name} line {number} is broken; {BROKEN}") from None
            yield row


class Kept:
    """A table's candidates, as often as they are asked for."""

    def __init__(self, table: Table):
        self._table = table

    def __iter__(self) -> Iterator[Candidate]:
        return (row for row in self._table if isinstance(row, Candidate))


Produce = Callable[[Table], Iterator[Sequence[Row]]]


def write_table(path: Path, produce: Produce) -> Iterator[int]:
    """Write a stage's table, yielding the number of its rows; one that is there is left alone.

    `produce` is given the rows that are already there and yields those after them, a group at a time. What a kill cut
    short is cut off.
    """
    if path.exists():
        return
    aside = Table(path.with_name(f".{path.name}.partial"))
    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_short(aside.path)
    done = len(aside)
    with aside.path.open("ab") as file:
        for group in produce(aside):
            with naming_a_full_disk(path):
                file.write(b"".join(_line(row) for row in group))
                file.flush()
            done += len(group)
            yield done
        os.fsync(file.fileno())
    aside.path.replace(path)


def by_bucket(table: Table, among: Iterable[Size], skip: int = 0) -> Iterator[Candidate]:
    """The candidates sorted by bucket and else as they stand, after the first `skip` of them."""
    return islice(chain.from_iterable(map(table.of_bucket, among)), skip, None)


def groups(items: Iterable[T], num: int, key: Callable[[T], Any] = lambda _: None) -> Iterator[list[T]]:
    """Neighbours of the same key, at most `num` together."""
    for _, same in groupby(items, key):
        while some := list(islice(same, num)):
            yield some


def _line(row: Row) -> bytes:
    told = dict(vars(row))
    if isinstance(row, Candidate):
        place = row.image
        told["image"] = [_KINDS[type(place)], str(place.path), *(getattr(place, f.name) for f in fields(place)[1:])]
    return json.dumps(told).encode("ascii") + b"\n"


def _candidate(raw: dict[str, Any]) -> Candidate:
    """The inverse of `_line`; by hand, since tables are read often. Raises `ValueError` for what it never writes."""
    kind, path, *rest = raw["image"]
    raw["image"] = _STORED[kind](Path(path), *rest)
    raw["size"], raw["bucket"], raw["position"] = Size(*raw["size"]), Size(*raw["bucket"]), tuple(raw["position"])
    candidate = Candidate(**raw)
    if not all(_are_sound(candidate)):
        raise ValueError("no row of ours")
    return candidate


def _are_sound(row: Candidate) -> Iterator[bool]:
    """Whether each field has the type and the range that `_line` was given."""
    yield isinstance(row.name, str) and _ID.fullmatch(row.id) is not None
    yield row.caption is None or (isinstance(row.caption, str) and is_writable(row.caption))
    yield type(row.flip) is bool and isinstance(row.why, dict)
    yield all(type(side) is int and side > 0 for side in (*row.size, *row.bucket))
    yield type(row.fingerprint) is int and 0 <= row.fingerprint < 2**64
    yield type(row.seed) is int and 0 <= row.seed < 2**63
    yield len(row.position) == 2 and all(0 <= share <= 1 for share in row.position)
    yield all(type(score) is float for score in row.scores.values())
    yield not row.image.path.is_absolute() and ".." not in row.image.path.parts
    for place in fields(row.image)[1:]:
        value = getattr(row.image, place.name)
        yield isinstance(value, str) if place.type == "str" else type(value) is int and value >= 0


def _left_out(raw: dict[str, Any]) -> LeftOut:
    row = LeftOut(**raw)
    if not all(isinstance(text, str) for text in vars(row).values()):
        raise ValueError("no row of ours")
    return row


def _cut_short(path: Path) -> None:
    """Remove a last line that a kill left unfinished."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(whole)
