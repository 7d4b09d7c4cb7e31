"""A JSON list read entry by entry: HPDv3's is hundreds of megabytes, of which only one entry is wanted at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from contrapose.errors import UserError

_CHUNK = 1 << 20  # characters read at once
_LONGEST = 1 << 24  # characters of one entry; beyond that something is not closed
_SPACE = " \t\n\r"


def items(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON list with their numbers, counted from 1, with one of them in memory at a time.

    Raises `UserError` naming the file and the entry when it is no list of objects, broken, cut short or not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _items(_Text(path, file))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; save the file as UTF-8") from None


class _Text:
    """What is left to read of a file, as much of it in memory as one entry needs."""

    def __init__(self, path: Path, file: TextIO):
        self.path, self.file, self.text, self.at = path, file, "", 0

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        chunk = self.file.read(_CHUNK)
        self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)

    def peek(self) -> str:
        """The next character that is not a space; empty at the end of the file."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in _SPACE:
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""


def _items(text: _Text) -> Iterator[tuple[int, dict[str, Any]]]:
    if text.peek() != "[":
        raise UserError(f"{text.path}: is not a JSON list; write [{{...}}, {{...}}]")
    number, expected = 0, "["
    while text.peek() == expected:
        text.at += 1
        if text.peek() == "]" and number == 0:
            break
        number, expected = number + 1, ","
        yield number, _entry(text, number)
    if text.peek() != "]":
        raise UserError(f"{text.path}: is cut short or broken after entry {number}; fetch or write it again")
    text.at += 1
    if text.peek():
        raise UserError(f"{text.path}: goes on after the end of its list; remove what follows the last ]")


def _entry(text: _Text, number: int) -> dict[str, Any]:
    where = f"{text.path}: entry {number}"
    if text.peek() != "{":
        what = "is not an object" if text.peek() else "is cut short"
        raise UserError(f"{where}: {what}; mend the file or fetch it again")
    while True:
        try:
            entry, text.at = json.JSONDecoder().raw_decode(text.text, text.at)
            return entry
        except (ValueError, RecursionError) as error:  # perhaps for want of what comes next
            if len(text.text) - text.at > _LONGEST or not text.more():
                reason = " ".join(str(error).split())
                raise UserError(f"{where}: is cut short or not JSON ({reason}); mend or remove it") from None
