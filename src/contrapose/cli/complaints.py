"""The option parser's complaints in one line, where it draws a box."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from contrapose.errors import UserError

# tyro frames its complaints, and indents them alike where it takes the terminal to know no frames
_FRAME = " │"
_RULE = re.compile(r"[│ ]*[─-]+[│ ]*")
_FLAG = re.compile(r"[│ ] {5}(--\S+|[A-Z]\S*)")


@contextmanager
def in_one_line(arguments: list[str], prog: str) -> Iterator[None]:
    """Turn what tyro complains of into a `UserError`; help that was asked for goes its way."""
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint), _unwrapped(arguments):
            yield
    except SystemExit as stop:
        if not complaint.getvalue():  # it was asked for help, and gave it
            raise
        message = _line(complaint.getvalue())
        raise UserError(f"{message}; '{prog} --help' explains every option") from stop


@contextmanager
def _unwrapped(arguments: list[str]) -> Iterator[None]:
    """Let tyro write its complaints on lines of any length; its help keeps to the terminal."""
    if {"-h", "--help"} & set(arguments):
        yield
        return
    # It asks the environment for the width, and would break a line within a flag's name.
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if width is not None:
            os.environ["COLUMNS"] = width


def _line(box: str) -> str:
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
        # What is missing is listed with its help text, of which the flags alone are told.
        if head.startswith("Missing from"):
            flags = [flag[1] for flag in map(_FLAG.match, block) if flag]
            parts.append(f"{', '.join(flags)} must be given")
        elif not head.startswith(("Argument helptext", "For full helptext")):
            parts.append(head.removesuffix("."))
    return "; ".join(filter(None, parts))
