"""JSON lines, and JSON lists of any size, of which one entry is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

import ijson
import numpy as np

from contrapose.containers.places import Place
from contrapose.containers.row import Row
from contrapose.documents import json_lines
from contrapose.errors import UserError

_CHUNK = 1 << 16  # bytes read at once
_LONGEST = 1 << 24  # bytes of one entry; beyond that something is not closed
_MOST_LEVELS = 1000
_MARK = b"\xef\xbb\xbf"
_STEPS = np.zeros(256, dtype=np.int8)  # what each letter adds to the number of open brackets
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1
_BAD_TEXT = "invalid bytes in UTF8"  # as the parser says it


def line_rows(path: Place, needs: Sequence[str] = ()) -> Iterator[Row]:
    """Every line that is not blank; raises `UserError` naming the line that is no JSON object."""
    for number, fields in json_lines(path, "fix or remove the line"):
        yield Row(path, f"line {number}", fields)


def list_rows(path: Place, needs: Sequence[str] = ()) -> Iterator[Row]:
    """The objects of a JSON list; an entry that is a text is the field `prompt`, as benchmarks list their prompts.

    Raises `UserError` naming the entry that is broken, cut short or something else, and for what is no list.
    """
    for number, entry in enumerate(list_entries(path), start=1):
        fields = {"prompt": entry} if isinstance(entry, str) else entry
        if not isinstance(fields, dict):
            raise UserError(f"{path}: entry {number}: is not an object; fix the file or fetch it again")
        yield Row(path, f"entry {number}", fields)


def list_entries(path: Place) -> Iterator[Any]:
    """The entries of a JSON list as they come."""
    entries = ijson.sendable_list()  # which the parser fills as it is fed
    parser = ijson.items_coro(entries, "item", use_float=True)
    num = 0
    pending = b""  # what was read since an entry ended
    with path.open("rb") as file:
        chunk = _beginning(path, file)
        while True:
            reason = _fed(parser, chunk, pending)
            pending = chunk if entries else pending + chunk
            num += len(entries)
            yield from entries
            entries.clear()
            if reason and _BAD_TEXT in reason:
                raise UserError(f"{path}: is not UTF-8; save the file as UTF-8")
            if reason:
                raise UserError(f"{path}: entry {num + 1}: is cut short or not JSON ({reason}); fix or fetch the file")
            if not chunk:
                return
            chunk = file.read(_CHUNK)


def _fed(parser: Any, chunk: bytes, pending: bytes) -> str | None:
    """Feed the parser, or finish it where the chunk is empty; what is wrong, if anything is."""
    if len(pending) > _LONGEST:
        return "it does not end"
    if _levels(pending[-_CHUNK:] + chunk) > _MOST_LEVELS:  # whose names would take memory that grows with their square
        return f"it has more than {_MOST_LEVELS} levels"
    try:
        if chunk:
            parser.send(chunk)
        else:
            parser.close()
    except (ijson.JSONError, ValueError, RecursionError) as error:
        return " ".join(str(error).split("\n", maxsplit=1)[0].split()) or type(error).__name__
    return None


def _levels(text: bytes) -> int:
    """How many brackets are open at most, of those that open in here; those within strings count too."""
    letters = np.frombuffer(text, dtype=np.uint8)
    return int(np.cumsum(_STEPS[letters], dtype=np.int32).max(initial=0))


def _beginning(path: Place, file: IO[bytes]) -> bytes:
    """The first bytes of a list, without a byte order mark."""
    head = file.read(len(_MARK)).removeprefix(_MARK).lstrip()
    while not head and (chunk := file.read(_CHUNK)):
        head = chunk.lstrip()
    if not head.startswith(b"["):
        raise UserError(f"{path}: is not a JSON list; write [{{...}}, {{...}}]")
    return head
