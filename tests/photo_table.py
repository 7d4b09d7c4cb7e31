"""What the SQLite file of `pairs real` holds, for tests: its rows, and the whole of it as text to compare."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

NAME = "photographs.sqlite"


def rows(out: Path, condition: str = "1") -> list[dict[str, Any]]:
    """The rows of which a condition holds, by the names of their columns."""
    with closing(sqlite3.connect(out / NAME)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM photographs WHERE {condition}")]


def change(out: Path, statement: str, *values: object) -> None:
    """Change the rows as some other program might, whatever the checks of the file say."""
    with closing(sqlite3.connect(out / NAME)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement, values)


def content(path: Path) -> bytes:
    """A file's bytes; of an SQLite file the statements that would make it again."""
    if path.suffix != ".sqlite":
        return path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        [[version]] = connection.execute("PRAGMA user_version")
        return "\n".join([str(version), *connection.iterdump()]).encode()


def contents(out: Path) -> dict[str, bytes]:
    """What every file of a folder holds."""
    return {str(path.relative_to(out)): content(path) for path in sorted(out.rglob("*")) if path.is_file()}
