"""Reading prompts from `.txt` (one per line) and `.jsonl` (a `prompt` field, as GenEval's metadata lines have)."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contrapose.errors import UserError

_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Prompt:
    """One prompt and whatever else its line said; `fields` never holds `prompt` itself. `line` counts from 1."""

    text: str
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    line: int = field(default=0, compare=False)


def prompt_id(text: str) -> str:
    """Return the first 16 hex digits of sha256(text as UTF-8): the same on every machine and in every run."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def read_prompts(path: str | Path) -> list[Prompt]:
    """Return the file's prompts in order, duplicates kept; UserError names the file, the line and the mend."""
    path = Path(path)
    parsers = {".txt": _from_text, ".jsonl": _from_json}
    parse = parsers.get(path.suffix.lower())
    if parse is None:
        raise UserError(f"{path}: prompts are read from .txt (one per line) or .jsonl; write them alone into one")
    prompts = []
    for number, line in _lines(path):
        where = f"{path}: line {number}"
        prompt = parse(line, where)
        if "\0" in prompt.text:
            raise UserError(f"{where}: the prompt holds a NUL character; remove it")
        _check_whole("the prompt", prompt.text, where)
        prompts.append(replace(prompt, line=number))
    if not prompts:
        raise UserError(f"{path}: holds no prompts; write at least one line")
    return prompts


def is_writable(text: str) -> bool:
    """Whether every file can hold a text: it has no NUL and no half of a surrogate pair, such as JSON's "\\ud83d"."""
    try:
        return b"\0" not in text.encode("utf-8")
    except UnicodeEncodeError:
        return False


def num_duplicates(prompts: Sequence[Prompt]) -> int:
    """Return how many prompts repeat the text of an earlier one: len(prompts) - number of distinct texts."""
    return len(prompts) - len({prompt.text for prompt in prompts})


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) for every line that is not blank; byte order marks, of joined files too, are dropped."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such prompt file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a readable file") from None
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    # Split as bytes, so that a bad byte is told with its line and U+2028 stays inside its prompt.
    for number, raw in enumerate(data.split(b"\n"), start=1):
        try:
            line = raw.removeprefix(_MARK).decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
            raise UserError(f"{path}: line {number}: {byte} is not UTF-8; save the file as UTF-8") from None
        if line.strip():
            yield number, line


def _from_text(line: str, where: str) -> Prompt:
    return Prompt(line.strip())


def _from_json(line: str, where: str) -> Prompt:
    if "\0" in line:
        raise UserError(f"{where}: holds a NUL character; remove it")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not one JSON object ({error}); mend or remove the line") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: is not a JSON object; write {{"prompt": "..."}}')
    text = row.pop("prompt", None)
    if text is None:
        found = ", ".join(row) or "none"
        raise UserError(f"{where}: has no `prompt` field (fields found: {found}); add one")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: `prompt` is not a string with words in it; mend or remove the line")
    for name, value in row.items():
        for part in _texts([name, value]):
            _check_whole(f"field {name!a}", part, where)
    return Prompt(text, row)


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


def _check_whole(what: str, text: str, where: str) -> None:
    """Raise `UserError` for half a character, as JSON can spell it, which nothing later could write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {what} holds half of a surrogate pair; write the whole character") from None
