"""Command lines that are read and not run, to tell what is wrong with them before any is."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from contrapose.errors import UserError

T = TypeVar("T")
_alone = ContextVar("_alone", default=False)


class ReadAlone(Exception):
    """Ends a command whose line was only to be read; it carries what was read."""

    def __init__(self, settings: Any):
        self.settings = settings


def whole(settings: T) -> T:
    """The settings themselves, for the command to go on; raises `ReadAlone` where its line is only to be read."""
    if _alone.get():
        raise ReadAlone(settings)
    return settings


def settings_of(words: Sequence[str]) -> Any:
    """What a command line is read into, without running it; `UserError` as the command itself raises it."""
    from contrapose.cli.main import run

    token = _alone.set(True)
    try:
        run(list(words))
    except ReadAlone as reading:
        return reading.settings
    finally:
        _alone.reset(token)
    raise UserError(f"{words[0]}: has no settings to read")
