"""What models answered, in one SQLite file, so that nothing is asked twice, whatever was killed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from contrapose.errors import UserError, one_line
from contrapose.files import full, is_full

VERSION = 1  # of the file's layout
_WAIT = 60  # seconds for another process that writes
_AT_ONCE = 500  # keys in one query, of which SQLite takes a limited number
FIX = "delete it, or name another file as the cache of answers"


class AnswerCache:
    """Answers, anything that JSON holds, by key; any number of processes may share the file.

    It is made by whatever is first asked of it, and opened anew each time, so that no process has to let go of it. All
    methods raise `UserError` for a file that is broken, no such cache, or on a disk that is full or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, keys: Collection[str]) -> dict[str, Any]:
        """The answers of those keys that have one."""
        answers: dict[str, Any] = {}
        wanted = list(keys)
        with self._open() as connection:
            for first in range(0, len(wanted), _AT_ONCE):
                part = wanted[first : first + _AT_ONCE]
                marks = ", ".join("?" * len(part))
                query = f"SELECT key, answer FROM answers WHERE key IN ({marks})"
                for key, answer in connection.execute(query, part):
                    answers[key] = self._parsed(answer)
        return answers

    def add(self, answers: Mapping[str, Any]) -> None:
        """Keep these answers in one transaction, in place of earlier ones of their keys."""
        if not answers:
            return
        rows = [(key, json.dumps(answer)) for key, answer in answers.items()]
        with self._open() as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    def _parsed(self, text: object) -> Any:
        try:
            return json.loads(str(text))
        except (ValueError, RecursionError):
            raise UserError(f"{self.path}: holds an answer that is no JSON; {FIX}") from None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_WAIT)) as connection:
                self._prepare(connection)
                yield connection
        except sqlite3.OperationalError as error:
            if is_full(error):
                raise full(self.path) from error
            raise UserError(f"{self.path}: the cache of answers cannot be used ({one_line(error)}); {FIX}") from None
        except sqlite3.Error as error:
            raise UserError(f"{self.path}: is no cache of answers ({one_line(error)}); {FIX}") from None
        except OSError as error:
            raise UserError(f"{self.path}: the cache of answers cannot be made ({error.strerror}); {FIX}") from None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # both of one moment: another process may make the file in between
        connection.execute("BEGIN")
        [(version,)] = connection.execute("PRAGMA user_version")
        [(num_tables,)] = connection.execute("SELECT COUNT(*) FROM sqlite_master")
        connection.commit()
        if version == VERSION:
            return
        if version or num_tables:
            raise UserError(f"{self.path}: is no cache of answers that this program reads; {FIX}")
        # IF NOT EXISTS: another process may be making the same file
        connection.executescript(f"""
            BEGIN IMMEDIATE;
            CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
            PRAGMA user_version = {VERSION};
            COMMIT;
        """)
