"""Sequences whose items are made when they are asked for: what is listed by the million need not lie in memory."""

from __future__ import annotations

import json
import mmap
import tempfile
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from contrapose.containers.left_out import LeftOut
from contrapose.files import naming_a_full_disk

T = TypeVar("T")


class MadeWhenAsked(Sequence[T]):
    """A sequence that makes each item anew when it is asked for, alone or in a slice."""

    @abstractmethod
    def one(self, index: int) -> T:
        """The item of an index from 0 on that there is."""

    def some(self, indices: range) -> list[T]:
        """Several items of indices that there are."""
        return [self.one(index) for index in indices]

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        place = range(len(self))[index]
        return self.some(place) if isinstance(place, range) else self.one(place)


class Spool(MadeWhenAsked[T]):
    """Items in a file without a name that goes with the sequence, each made again when it is asked for.

    `to_json` says an item in what JSON holds, and `from_json` makes it of that. Raises `UserError` where the disk is
    full.
    """

    def __init__(self, items: Iterable[T], to_json: Callable[[T], Any], from_json: Callable[[Any], T]):
        self._from_json = from_json
        self._ends = array("q", [0])
        self._data: mmap.mmap | bytes = b""  # an empty file cannot be mapped
        with tempfile.TemporaryFile() as file, naming_a_full_disk(Path(tempfile.gettempdir())):
            for item in items:
                text = json.dumps(to_json(item)).encode("ascii")
                file.write(text)
                self._ends.append(self._ends[-1] + len(text))
            file.flush()
            if self._ends[-1]:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def one(self, index: int) -> T:
        return self._from_json(json.loads(self._data[self._ends[index] : self._ends[index + 1]]))


def apart(
    tried: Iterable[T | LeftOut],
    to_json: Callable[[T], Any],
    from_json: Callable[[Any], T],
    progress: Callable[[int], None],
) -> tuple[Spool[T], list[LeftOut]]:
    """What was tried apart: what came of it, as a `Spool`, and what is left out; `progress` is told how many were."""
    left_out: list[LeftOut] = []

    def kept() -> Iterator[T]:
        for number, item in enumerate(tried, 1):
            if isinstance(item, LeftOut):
                left_out.append(item)
            else:
                yield item
            progress(number)

    return Spool(kept(), to_json, from_json), left_out
