"""Where an image's bytes are: a file of its own, a member of a tar, or a cell of a Parquet table.

All three are a name and a place, small enough to list by the hundred thousand; bytes are read when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


@dataclass(frozen=True)
class InFile:
    """A file of its own."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def read(self) -> bytes:
        """The file's bytes."""
        return self.path.read_bytes()


@dataclass(frozen=True)
class InTar:
    """A member of an uncompressed tar, by the place of its bytes."""

    path: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.path.name}:{self.member}"

    def read(self) -> bytes:
        """The member's bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class InParquet:
    """A cell of a Parquet table that holds an image file, as bytes or as Hugging Face's {bytes, path}."""

    path: Path
    column: str
    group: int
    row: int

    @property
    def name(self) -> str:
        return f"{self.path.name}:{self.group}.{self.row}.{self.column}"

    def read(self) -> bytes:
        """The cell's bytes; empty when the cell is."""
        cell = _cells(self.path, self.group, self.column)[self.row].as_py()
        return (cell.get("bytes") if isinstance(cell, dict) else cell) or b""


Stored = InFile | InTar | InParquet


@lru_cache(maxsize=2)  # a pair's two columns
def _cells(path: Path, group: int, column: str) -> Any:
    """One column of one row group: what is read at a time, as neighbours are asked for one after the other."""
    return pq.ParquetFile(path).read_row_group(group, columns=[column]).column(0)
