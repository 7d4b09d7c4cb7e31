"""JSON lines, and JSON lists of any size, of which one entry is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

import ijson
import numpy as np

from contrapose.containers.places import Place
from contrapose.containers.row import ContainerRow
from contrapose.documents import json_lines
from contrapose.errors import UserError

_CHUNK = 1 << 16  # bytes read at once
_LONGEST = 1 << 24  # bytes of one entry; beyond that something is not closed
_MOST_LEVELS = 1000
_MARK = b"\xef\xbb\xbf"
_STEPS = np.zeros(256, dtype=np.int8)  # what each byte adds to the number of open brackets
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1
_BAD_TEXT = "invalid bytes in UTF8"  # as the parser says it


def line_rows(path: Place, needs: Sequence[str] = ()) -> Iterator[ContainerRow]:
    """Every line that is not blank; raises `UserError` naming a line that is not a JSON object."""
    for number, fields in json_lines(path, "fix or remove the line"):
        yield ContainerRow(path, f"line {number}", fields)


def list_rows(path: Place, needs: Sequence[str] = ()) -> Iterator[ContainerRow]:
    """The objects of a JSON list; an entry that is a text is the field `prompt`, as benchmarks list their prompts.

    Raises `UserError` naming the entry that is broken, cut short or not an object, and for a file that is not a list.
    """
    for number, entry in enumerate(list_entries(path), start=1):
        fields = {"prompt": entry} if isinstance(entry, str) else entry
        if not isinstance(fields, dict):
            raise UserError(f"{path}: entry {number}: is not an object; fix the file or fetch it again")
        yield ContainerRow(path, f"entry {number}", fields)


def list_entries(path: Place) -> Iterator[Any]:
    """The entries of a JSON list as they come; or those of `annotations` in an object, as COCO's files have it."""
    with path.open("rb") as file:
        is_object = _opening(file).startswith(b"{")
    if is_object:
        yield from _annotations(path)
        return
    entries = ijson.sendable_list()  # which the parser fills as it is fed
    parser = ijson.items_coro(entries, "item", use_float=True)
    num = 0
    pending = b""  # what was read since an entry ended
    with path.open("rb") as file:
        chunk = _beginning(path, file)
        while True:
            reason = _fed(parser, chunk, pending)
            # An entry that ended in this chunk leaves at most the rest of the chunk unparsed.
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
    """Feed the parser, or finish it with an empty chunk; returns what is wrong with the text, None if nothing is."""
    if len(pending) > _LONGEST:
        return "it does not end"
    # The parser names each level by its whole path, so deep nesting takes memory that grows with its square. Brackets
    # within strings count too, which nobody writes by the thousand.
    letters = np.frombuffer(pending[-_CHUNK:] + chunk, dtype=np.uint8)
    levels = int(np.cumsum(_STEPS[letters], dtype=np.int32).max(initial=0))
    if levels > _MOST_LEVELS:
        return f"it has more than {_MOST_LEVELS} levels"
    try:
        if chunk:
            parser.send(chunk)
        else:
            parser.close()
    except (ijson.JSONError, ValueError, RecursionError) as error:
        return " ".join(str(error).split("\n", maxsplit=1)[0].split()) or type(error).__name__
    return None


def _beginning(path: Place, file: IO[bytes]) -> bytes:
    """The first bytes of a list, without a byte order mark."""
    head = _opening(file)
    if not head.startswith(b"["):
        raise UserError(f"{path}: is not a JSON list; write [{{...}}, {{...}}]")
    return head


def _opening(file: IO[bytes]) -> bytes:
    """The first bytes that are no byte order mark and no blanks."""
    head = file.read(len(_MARK)).removeprefix(_MARK).lstrip()
    while not head and (chunk := file.read(_CHUNK)):
        head = chunk.lstrip()
    return head


def _annotations(path: Place) -> list[Any]:
    """COCO's captions, of which the largest file has 90 MB, so that it is read as a whole."""
    try:
        fields = json.loads(path.read_bytes().removeprefix(_MARK))
    except (ValueError, RecursionError):
        fields = {}
    annotations = fields.get("annotations")
    if not isinstance(annotations, list):
        raise UserError(f"{path}: is not a JSON list, nor has it `annotations`; write [{{...}}, {{...}}]")
    return annotations
