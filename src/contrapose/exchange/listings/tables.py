"""CSV tables as people write them: read row by row, checked to the last field."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from contrapose.errors import UserError


def header(path: Path) -> list[str]:
    """The names of a table's columns; raises `UserError` when it cannot be read."""
    for _, row in _rows(path):
        return [name.strip() for name in row]
    raise UserError(f"{path}: is empty; write its columns' names into the first line")


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Every row by its columns' names, with the line that it ends on.

    Raises `UserError` when one of `columns` is missing, and naming the line of a row with too few or too many fields.
    """
    names = header(path)
    missing = [name for name in columns if name not in names]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)} (columns found: {', '.join(names)}); add it")
    table = _rows(path)
    next(table)
    for line, row in table:
        if len(row) != len(names):
            raise UserError(
                f"{path}: line {line}: has {len(row)} fields, but there are {len(names)} columns; "
                "put texts that hold commas in quotes"
            )
        yield line, dict(zip(names, row, strict=True))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Every row that is not empty, with the line that it ends on."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file, strict=True)
            try:
                yield from ((table.line_num, row) for row in table if row)
            except csv.Error as error:
                raise UserError(f"{path}: line {table.line_num}: is cut short or no CSV ({error}); mend it") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; save the file as UTF-8") from None
