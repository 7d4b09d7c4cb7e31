"""Options from dataclasses: every field a flag, its docstring the help, a union chosen by name."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from itertools import takewhile
from typing import Any, TypeVar

import tyro

from contrapose.errors import UserError

T = TypeVar("T")
REQUIRED: Any = tyro.MISSING
# tyro frames its complaints, and indents them alike where it takes the terminal to know no frames
_FRAME = " │"
_RULE = re.compile(r"[│ ]*[─-]+[│ ]*")
_FLAG = re.compile(r"[│ ] {5}(--\S+|[A-Z]\S*)")


def parse(cls: type[T], arguments: list[str], prog: str, default: T | None = None, *, short: bool = False) -> T:
    """The dataclass that the arguments describe; `short` drops the prefixes of nested settings from the flags.

    Raises `UserError` for flags that are unknown, missing or without a value that fits.
    """
    config = [tyro.conf.AvoidSubcommands, tyro.conf.CascadeSubcommandArgs]
    if short:
        config.append(tyro.conf.OmitArgPrefixes)
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint), _unwrapped(arguments):
            return tyro.cli(cls, args=arguments, prog=prog, default=default, config=config)
    except SystemExit as stop:
        if not complaint.getvalue():  # it was asked for help, and gave it
            raise
        message = _in_one_line(complaint.getvalue())
        raise UserError(f"{message}; '{prog} --help' explains every option") from stop


@contextmanager
def _unwrapped(arguments: list[str]) -> Iterator[None]:
    """Let tyro write its complaints on lines of any length; its help keeps to the terminal."""
    if {"-h", "--help"} & set(arguments):
        yield
        return
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if width is not None:
            os.environ["COLUMNS"] = width


def _in_one_line(box: str) -> str:
    """What tyro complains of in its box, without the frame and the help texts."""
    rows = box.splitlines()
    blocks: list[list[str]] = [[]]
    for row in rows[1:-1]:
        if _RULE.fullmatch(row):
            blocks.append([])
        else:
            blocks[-1].append(row)
    parts = []
    for block in blocks:
        head = " ".join(row.strip(_FRAME) for row in block)
        if head.startswith("Missing from"):
            flags = [flag[1] for flag in map(_FLAG.match, block) if flag]
            parts.append(f"{', '.join(flags)} must be given")
        elif not head.startswith(("Argument helptext", "For full helptext")):
            parts.append(head.removesuffix("."))
    return "; ".join(filter(None, parts))


def choice(arguments: list[str], flag: str, table: Mapping[str, T], default: str) -> tuple[T, list[str]]:
    """Take `flag NAME` out of the arguments: the table's entry of that name, and the arguments that are left."""
    rest, name = [], default
    pending = iter(arguments)
    for argument in pending:
        key, given, value = argument.partition("=")
        if key == flag:
            name = value if given else next(pending, "")
        else:
            rest.append(argument)
    if name not in table:
        raise UserError(f"{flag} {name}: not known (choose from {', '.join(table)})")
    return table[name], rest


def several(arguments: list[str], flag: str, table: Mapping[str, T]) -> tuple[list[T], list[str]]:
    """Take `flag NAME ...` out of the arguments: the table's entries of these names, and what is left."""
    if flag not in arguments:
        return [], arguments
    start = arguments.index(flag) + 1
    names = list(takewhile(lambda argument: not argument.startswith("-"), arguments[start:]))
    for name in names:
        if name not in table:
            raise UserError(f"{flag} {name}: not known (choose from {', '.join(table)})")
    return [table[name] for name in names], arguments[: start - 1] + arguments[start + len(names) :]
