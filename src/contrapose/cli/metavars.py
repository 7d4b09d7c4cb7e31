"""How the help writes what a flag takes, where tyro's own way of writing types would be read by its author alone."""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

_WORDS: dict[Any, str] = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH", NoneType: "None"}


def metavar_of(hint: Any) -> str | None:
    """The words for a type, as PATH|None or STR ...; None for one that tyro writes better, such as choices."""
    hint = _plain(hint)
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = [_written(_plain(option)) for option in options]
    if None in words:
        return None
    # a list of paths takes a single one too
    written = [str(word) for word in words if f"{word} ..." not in words]
    return "|".join(sorted(written, key=lambda word: word == "None"))


def _plain(hint: Any) -> Any:
    """A type without what is said about it."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _written(hint: Any) -> str | None:
    """The words for one type, None where there are none for it."""
    if get_origin(hint) is not tuple:
        return _WORDS.get(hint)
    inner = [_WORDS.get(_plain(each)) for each in get_args(hint) if each is not ...]
    if None in inner:
        return None
    several = " ".join(map(str, inner))
    return f"{several} ..." if ... in get_args(hint) else several
