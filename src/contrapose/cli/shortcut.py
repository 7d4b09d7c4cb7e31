"""The short way to read a command line: by the flags alone that it names.

tyro takes most of its time to learn which flags there are, and a command has dozens, of which a line names a few.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from contrapose.cli import boxes
from contrapose.cli.leaf import REQUIRED, Key, Leaf
from contrapose.errors import UserError


def read(flags: Sequence[Leaf], arguments: list[str], prog: str, about: str) -> dict[Key, Any]:
    """The value of each flag, as `boxes.read` has it of all of them; so are help and complaints."""
    words = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    if not {"-h", "--help"} & words:
        named = [leaf for leaf in flags if _is_read(leaf, words)]
        with suppress(UserError):  # which all flags together explain better
            return {leaf.key: leaf.default for leaf in flags} | boxes.read(named, arguments, prog, about)
    return boxes.read(flags, arguments, prog, about)


def _is_read(leaf: Leaf, words: Collection[str]) -> bool:
    """Whether one of the words may be for the flag, or it is missed where none is."""
    if leaf.default is REQUIRED or leaf.is_positional:
        return True
    way, point, name = leaf.flag.replace("_", "-").rpartition(".")
    return f"--{way}{point}{name}" in words or f"--{way}{point}no-{name}" in words
