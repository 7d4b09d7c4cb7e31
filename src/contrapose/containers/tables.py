"""CSV and TSV tables as people write them: read row by row, checked to the last field."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence

from contrapose.containers.places import Place
from contrapose.containers.row import ContainerRow
from contrapose.errors import UserError


def table_rows(path: Place, needs: Sequence[str] = ()) -> Iterator[ContainerRow]:
    """Every row by its columns' names; its place is the line that it ends on.

    Raises `UserError` when a column of `needs` is missing or a name stands twice, and naming the line of a row with
    another number of fields.
    """
    table = _lines(path)
    header = next(table, None)
    if header is None:
        raise UserError(f"{path}: is empty; write its columns' names into the first line")
    names = [name.strip() for name in header[1]]
    check_columns(path, names, needs)
    # those without a name, as spreadsheets leave them at the end, are nobody's
    twice = next((name for name, count in Counter(names).items() if name and count > 1), None)
    if twice is not None:
        raise UserError(f"{path}: has {names.count(twice)} columns named {twice}; give each a name of its own")
    for line, row in table:
        if len(row) != len(names):
            raise UserError(
                f"{path}: line {line}: has {len(row)} fields, but there are {len(names)} columns; "
                "put texts that hold commas in quotes"
            )
        yield ContainerRow(path, f"line {line}", dict(zip(names, row, strict=True)), typed=False)


def check_columns(path: Place, names: Sequence[str], needs: Sequence[str]) -> None:
    """Raise `UserError` for columns that are needed and not there."""
    missing = [name for name in needs if name not in names]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)} (columns found: {', '.join(names)}); add it")


def _lines(path: Place) -> Iterator[tuple[int, list[str]]]:
    """Every row that is not empty, with the line that it ends on."""
    has_tabs = path.suffix.lower() == ".tsv"
    with path.open("rb") as data, io.TextIOWrapper(data, encoding="utf-8-sig", newline="") as file:
        if has_tabs:  # as spreadsheets write it, where a quotation mark quotes nothing
            table = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        else:
            table = csv.reader(file, strict=True)
        try:
            for row in table:
                if not row:
                    continue
                fields = list(map(_unquoted, row)) if has_tabs else row
                yield table.line_num, fields
        except csv.Error as error:
            raise UserError(f"{path}: line {table.line_num}: is cut short or no CSV ({error}); fix it") from None
        except UnicodeDecodeError:
            raise UserError(f"{path}: is not UTF-8; save the file as UTF-8") from None


def _unquoted(text: str) -> str:
    """A field without the quotation marks that some programs put around it, doubling those inside."""
    if len(text) < 2 or not text[0] == text[-1] == '"':
        return text
    inner = text[1:-1]
    if '"' in inner.replace('""', ""):  # a mark that is not doubled: the outer ones belong to the text
        return text
    return inner.replace('""', '"')
