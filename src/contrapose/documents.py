"""YAML and JSON files read with suspicion: plain and whole, or one line that says what is wrong with them.

A file of settings is a few kilobytes of mappings, lists and values. What a YAML file can hold beyond that (tags,
aliases that blow up to gigabytes, keys said twice, nesting that breaks the reader) is refused, in files of our own too,
since disks and people change those.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

import yaml

from contrapose.errors import UserError

MOST_BYTES = 1 << 20  # of a YAML file
MOST_LEVELS = 32  # of lists and mappings inside each other
_MARK = b"\xef\xbb\xbf"
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)\n---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_SHOWN = 200  # characters of a reader's own words


class _Plain(yaml.composer.Composer, yaml.constructor.SafeConstructor):
    """Mappings, lists and plain values alone, each key said once."""

    peek_event: Callable[[], Any]  # of the parser
    _level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            mark = cast("yaml.Mark | None", event.start_mark)  # the other kind of mark is that of the reader in C
            raise yaml.composer.ComposerError(None, None, "an alias (*); write the value out", mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, "a tag (!); write the plain value", event.start_mark)
        if self._level >= MOST_LEVELS:
            message = f"more than {MOST_LEVELS} levels of lists and mappings"
            raise yaml.composer.ComposerError(None, None, message, event.start_mark)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep=True)
        if len(mapping) < len(node.value):
            # every key is hashable, or the mapping could not have been made
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"{twice} is said twice", node.start_mark)
        return mapping


class _PlainLoader(_Plain, yaml.SafeLoader):
    """Reads in Python, and has the words for what is wrong."""

    def __init__(self, text: str):
        yaml.SafeLoader.__init__(self, text)


_BY_LIBYAML: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _QuickLoader(_Plain, _BY_LIBYAML):  # type: ignore[misc, valid-type]
    """Reads by libyaml, where PyYAML was built with it, and composes what it reads as in Python."""

    def __init__(self, text: str):
        _BY_LIBYAML.__init__(self, text)
        yaml.composer.Composer.__init__(self)


class _PlainDumper(yaml.SafeDumper):
    """Values written out wherever they stand, as `_PlainLoader` wants them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump_yaml(values: Any) -> str:
    """YAML that `load_yaml` reads back, in the order of the keys."""
    return yaml.dump(values, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)


def as_read(values: Any) -> Any:
    """The values as `load_yaml` reads them from a file that `dump_yaml` wrote: tuples are lists there."""
    if isinstance(values, Mapping):
        return {name: as_read(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [as_read(value) for value in values]
    return values


class Opened(Protocol):
    """A path, here or on another machine, whose bytes can be read."""

    def open(self, mode: Literal["rb"], /) -> IO[bytes]: ...


def load_yaml(path: Opened, fix: str = "") -> Any:
    """What a YAML file holds; `fix` is what the user can do when it is broken.

    Raises `UserError` naming the file and the line when it is missing, larger than 1 MB, not UTF-8, broken, or says
    more than plain mappings, lists and values.
    """
    content = _content(path, MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"{path}: not readable as YAML: it is larger than 1 MB{_ending(fix)}")
    try:
        return deepcopy(_parsed(content.decode("utf-8")))  # the caller's own to change
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reason = f"{line}{error.problem or error.context}"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error)
    raise UserError(f"{path}: not readable as YAML: {_short(reason)}{_ending(fix)}")


def front_matter(text: str) -> dict[str, Any]:
    """What a page of Markdown says of itself between lines of three dashes at its top; empty where it is broken."""
    matter = _FRONT_MATTER.match(text)
    if matter is None or len(text) > MOST_BYTES:
        return {}
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        values = deepcopy(_parsed(matter[1]))
        return values if isinstance(values, dict) else {}
    return {}


# One command reads a folder's settings several times, and reading them takes milliseconds.
@lru_cache(maxsize=32)
def _parsed(text: str) -> Any:
    try:
        return _read(text, _QuickLoader)
    except (yaml.YAMLError, ValueError):
        return _read(text, _PlainLoader)


def _read(text: str, kind: type[_PlainLoader] | type[_QuickLoader]) -> Any:
    loader = kind(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def load_json(path: Path, fix: str = "") -> Any:
    """What a JSON file holds; `fix` is what the user can do when it is broken.

    Raises `UserError` naming the file when it is missing, not UTF-8 or broken.
    """
    try:
        return json.loads(_content(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON: {_short(str(error))}{_ending(fix)}") from None


def json_lines(path: Opened, fix: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their lines' numbers, counted from 1; blank lines are passed over.

    Byte order marks are dropped, of joined files too. Raises `UserError` naming the file and the line when it is
    missing, not UTF-8, broken, or holds something else than objects.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(_MARK).strip()
                if text:
                    yield number, _object(path, number, text, fix)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None


def _object(path: Opened, number: int, line: bytes, fix: str) -> dict[str, Any]:
    try:
        if b"\0" in line:
            raise ValueError("it holds a NUL character")
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: line {number}: not readable as JSON: {_short(str(error))}{_ending(fix)}") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}: line {number}: not a JSON object{_ending(fix)}")
    return row


def _content(path: Opened, most: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None


def _short(reason: str) -> str:
    words = " ".join(reason.split())
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]} ..."


def _ending(fix: str) -> str:
    return f"; {fix}" if fix else ""
