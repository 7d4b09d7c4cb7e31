"""Reading prompts: one a line of a `.txt`, a column of any container, or a folder of such files.

These are the lists of prompts that are published: GenEval's, T2I-CompBench's, PartiPrompts', HPSv2's, DrawBench, DPG's,
Pick-a-Pic's, COCO's captions, TIIF's and UniGenBench's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.places import Place, place_of, spelled_out
from contrapose.containers.readers import READERS, file_rows, files_of, readable
from contrapose.containers.row import ContainerRow
from contrapose.containers.stored import Stored
from contrapose.errors import UserError
from contrapose.store.benchmarks import dpg_questions, prompt_files, with_questions

log = logging.getLogger(__name__)

COLUMNS = ("prompt", "Prompt", "Prompts", "caption", "text", "prompt_en", "short_description")
TAGS = ("tag", "Category", "category", "style", "type")
_CHUNK = 1 << 20  # bytes read at once
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Prompt:
    """One prompt and the other fields of its row; `fields` never holds the prompt itself.

    `place` is its line, entry or row within the file.
    """

    text: str
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    place: str = field(default="", compare=False)

    @property
    def tag(self) -> str | None:
        """The category that tables count it to: the first of the fields `tag`, `Category`, `category`, `style`, `type`.

        None where there is none, or none that is a text or a number.
        """
        values = [self.fields[name] for name in TAGS if name in self.fields]
        tags = [str(value) for value in values if isinstance(value, (str, int))]
        return tags[0] if tags else None


def prompt_id(text: str) -> str:
    """Return the first 16 hex digits of sha256(text as UTF-8): the same on every machine and in every run."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def canonical(text: str) -> str:
    """A prompt as it is told from others: letters composed and their case folded, each stretch of blanks one space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def read_prompts(path: str | Path, column: str | None = None) -> list[Prompt]:
    """Return the file's prompts in order, duplicates kept; UserError names the file, the place and the fix.

    They are the lines of a .txt, or `column` (else the first of `COLUMNS`) of a table, JSON lines, a JSON list (whose
    entries may be texts), COCO's annotations or a Parquet file; other columns become `fields`. Of a folder of such
    files all are read: a .txt of one line is one prompt (DPG), whose `item_id` is its name, and prompts of other files
    have their file's name as `tag`, unless they have one. DPG's questions, one a row, become `questions` of one prompt.
    Blank lines of a .txt are nothing; rows whose prompt is blank are left out, and a note tells how many.
    """
    return [row for row in iter_listed(path, column) if isinstance(row, Prompt)]


def iter_listed(path: str | Path, column: str | None = None) -> Iterator[Prompt | LeftOut]:
    """The file's prompts as `read_prompts` tells them and the rows that it leaves out, in order, as they are read.

    What is wrong with the file is told where it is come to.
    """
    place = place_of(Path(path))
    num_prompts = 0
    num_left_out = 0
    first: LeftOut | None = None
    for row in _of_place(place, column):
        if isinstance(row, LeftOut):
            num_left_out += 1
            first = first or row
        else:
            num_prompts += 1
        yield row
    if first:
        without = f"{num_left_out} rows without a prompt; the first is {first.name}: {first.reason}"
        if not num_prompts:
            raise UserError(f"{place}: holds no prompts, but {without}")
        _note_once(f"{place}: left out {without}")
    if not num_prompts:
        raise UserError(f"{place}: holds no prompts; write at least one")


@cache
def _note_once(line: str) -> None:
    """Tell it once a process: a command reads its prompts wherever it needs them."""
    log.info(line)


def _of_place(place: Place, column: str | None) -> Iterator[Prompt | LeftOut]:
    with readable(place):
        listed = prompt_files(place) if place.is_dir() else []
    if listed:
        yield from _of_folder(place, listed, column)
    elif place.suffix.lower() == ".txt":
        yield from _of_text(place)
    else:
        yield from _of_rows(place, column)


def _of_folder(folder: Place, listed: Sequence[Place], column: str | None) -> Iterator[Prompt | LeftOut]:
    """Every file's prompts, by the names of the files."""
    questions = dpg_questions(folder)
    for path in listed:
        name = spelled_out(path.name)
        stem = name.removesuffix(path.suffix)
        rows = _of_place(path, column)
        first_two = list(islice(rows, 2))
        is_one_prompt = path.suffix.lower() == ".txt" and len(first_two) == 1
        for row in chain(first_two, rows):
            if isinstance(row, LeftOut):
                yield replace(row, name=f"{name}: {row.name}")
            elif is_one_prompt:
                asked = {"questions": questions[stem]} if stem in questions else {}
                yield Prompt(row.text, {"item_id": stem, **asked}, name)
            else:
                tag = {} if row.tag else {"tag": stem.removesuffix("_val")}  # as T2I-CompBench names what it tests on
                yield Prompt(row.text, {**row.fields, **tag}, f"{name}: {row.place}")


def _of_text(path: Place) -> Iterator[Prompt]:
    for number, line in _lines(path):
        text = line.strip()
        where = f"{path}: line {number}"
        _check_text("the prompt", text, where)
        yield Prompt(text, place=f"line {number}")


def _lines(path: Place) -> Iterator[tuple[int, str]]:
    """Yield (number, text) for every line that is not blank; byte order marks, of joined files too, are dropped."""
    # Split as bytes, so that a bad byte is told with its line and U+2028 stays inside its prompt.
    for number, raw in enumerate(_byte_lines(path), start=1):
        try:
            line = raw.removeprefix(_MARK).decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
            raise UserError(f"{path}: line {number}: {byte} is not UTF-8; save the file as UTF-8") from None
        if line.strip():
            yield number, line


def _byte_lines(path: Place) -> Iterator[bytes]:
    """The lines of a file, whose ends may be those of Windows and of Macs of old, a part of it in memory at a time."""
    rest = b""
    with readable(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            text = rest + chunk
            # half of an end of line, whose other half may follow
            is_half = text.endswith(b"\r")
            lines = text[: len(text) - is_half].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            rest = lines.pop() + b"\r" * is_half
            yield from lines
    yield from rest.replace(b"\r", b"\n").split(b"\n")


def _of_rows(source: Place, column: str | None) -> Iterator[Prompt | LeftOut]:
    if source.suffix.lower() not in READERS and not source.is_dir():
        endings = ", ".join([".txt", *READERS])
        raise UserError(f"{source}: prompts are read from {endings}; write them alone into a .txt, one a line")
    for path in files_of(source):
        for row in with_questions(file_rows(path)):
            yield attempt(row.name, _of_row, row, column)


def _of_row(row: ContainerRow, named: str | None) -> Prompt:
    columns = COLUMNS if named is None else (named,)
    column = next((name for name in columns if name in row.fields), None)
    if column is None:
        raise UserError(f"{row.where}: has no `{columns[0]}` field (fields found: {row.field_names}); add one")
    text = row.fields[column]
    if text is None or (isinstance(text, str) and not text.strip()):
        raise Skip(f"its `{column}` is blank", "no prompt")
    if not isinstance(text, str):
        raise UserError(f"{row.where}: `{column}` is not a string with words in it; fix or remove it")
    _check_text("the prompt", text, row.where)
    fields = {name: value for name, value in row.fields.items() if name != column and not isinstance(value, Stored)}
    if row.kinds:  # a typed table, whose decimals and nested dates JSON cannot hold
        fields = json.loads(json.dumps(fields, default=str))
    for name, value in fields.items():
        for part in _texts([name, value]):
            _check_whole(f"field {name!a}", part, row.where)
    return Prompt(text, fields, row.place)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names of fields included."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]


def _check_text(what: str, text: str, where: str) -> None:
    """Raise `UserError` for a prompt that no later file could hold."""
    if "\0" in text:
        raise UserError(f"{where}: {what} holds a NUL character; remove it")
    _check_whole(what, text, where)


def _check_whole(what: str, text: str, where: str) -> None:
    """Raise `UserError` for half a character, as JSON can spell it, which nothing later could write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {what} holds half of a surrogate pair; write the whole character") from None
