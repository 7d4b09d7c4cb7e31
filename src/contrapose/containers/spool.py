"""A sequence on the disk: what is listed by the million is not in memory but for a number each."""

from __future__ import annotations

import json
import mmap
import tempfile
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from contrapose.files import naming_a_full_disk

T = TypeVar("T")


class Spool(Sequence[T]):
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

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        number = range(len(self))[index]
        if isinstance(number, range):
            return [self[place] for place in number]
        return self._from_json(json.loads(self._data[self._ends[number] : self._ends[number + 1]]))
