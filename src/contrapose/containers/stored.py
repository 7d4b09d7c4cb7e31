"""Where an image's bytes are: a file of its own, a member of a tar, or a cell of a Parquet table.

All three are a name and a place, small enough to list by the hundred thousand; bytes are read when they are asked for.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contrapose.containers.places import Place, place_of, size_of

_MOST_BYTES = 1 << 30  # of an image file, so that no file takes all memory


class TooLarge(OSError):
    """More bytes than a reader can do with."""

    def __init__(self, size: int, most: int):
        super().__init__(f"has {size} bytes, and {most} are the most")


@dataclass(frozen=True, slots=True)
class InFile:
    """A file of its own."""

    path: Place

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, most: int = _MOST_BYTES) -> bytes:
        """The file's bytes; `TooLarge` when they are more than `most`."""
        size = size_of(self.path)
        if size > most:
            raise TooLarge(size, most)
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class InTar:
    """A member of an uncompressed tar, by the place of its bytes."""

    path: Place
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.path.name}:{self.member}"

    def read(self, most: int = _MOST_BYTES) -> bytes:
        """The member's bytes; `TooLarge` when they are more than `most`."""
        if self.size > most:
            raise TooLarge(self.size, most)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class InParquet:
    """A cell of a Parquet table that holds an image file, as bytes or as Hugging Face's {bytes, path}."""

    path: Place
    column: str
    group: int
    row: int

    @property
    def name(self) -> str:
        return f"{self.path.name}:{self.group}.{self.row}.{self.column}"

    def read(self, most: int = _MOST_BYTES) -> bytes:
        """The cell's bytes, empty when the cell is; `TooLarge` when they are more than `most`."""
        try:
            with _READING:
                cell = _column(self.path, self.group, self.column).cell(self.row)
        except pa.ArrowException as error:
            raise OSError(str(error)) from None
        data = (cell.get("bytes") if isinstance(cell, dict) else cell) or b""
        if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
            raise OSError("it is the path of an image, not the image; embed the images in the table")
        if len(data) > most:
            raise TooLarge(len(data), most)
        return data


Stored = InFile | InTar | InParquet
_KINDS: dict[str, type[Stored]] = {kind.__name__: kind for kind in (InFile, InTar, InParquet)}
_READING = threading.Lock()
_ROWS = 32  # decoded at a time: several images that are looked at together are in one such batch, or in two


def stored_to_json(stored: Stored) -> list[Any]:
    """A place in what JSON holds."""
    path, *rest = (getattr(stored, field.name) for field in fields(stored))
    return [type(stored).__name__, str(path), *rest]


def stored_from_json(said: list[Any]) -> Stored:
    """The place of which this was said."""
    kind, path, *rest = said
    return _KINDS[kind](place_of(Path(path)), *rest)


@lru_cache(maxsize=4)  # a pair's two columns, and the next group's, as those looked at together may be of both
def _column(path: Place, group: int, column: str) -> _Column:
    return _Column(path, group, column)


class _Column:
    """A column of one row group, read forwards and a few rows at a time, since a whole file may be one group.

    What is in memory is a page of the file, Parquet's smallest unit: 1,024 rows or fewer.
    """

    def __init__(self, path: Place, group: int, column: str):
        self._place = path, group, column
        self._restart()

    def _restart(self) -> None:
        path, group, column = self._place
        file = pq.ParquetFile(path.open("rb"), buffer_size=1 << 20, pre_buffer=False)
        self._batches = file.iter_batches(_ROWS, row_groups=[group], columns=[column], use_threads=False)
        self._kept: deque[tuple[int, Any]] = deque(maxlen=2)
        self._next = 0

    def cell(self, row: int) -> Any:
        """One cell as Python has it; going back by more than a batch means to begin again."""
        if self._kept and row < self._kept[0][0]:
            self._restart()
        while row >= self._next:
            batch = next(self._batches, None)
            if batch is None:
                raise OSError("broken further up, or changed in the meantime")
            cells = batch.column(0)
            self._kept.append((self._next, cells))
            self._next += len(cells)
        first, cells = next(kept for kept in reversed(self._kept) if kept[0] <= row)
        return cells[row - first].as_py()
