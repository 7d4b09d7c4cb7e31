"""What goes wrong, told in one line: every error that is the user's to fix, and none that is ours."""

from __future__ import annotations

import os
import sys
import threading

from rich.console import Console
from rich.markup import escape

from contrapose.cli.fixes import is_of_one, message_of
from contrapose.files import is_full
from contrapose.processes import rank, told_once

_MOST_SHOWN = 2000  # characters of a message: some quote what a file holds


def tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """Tell of a library's thread that failed, unless by the full disk that the command itself tells of."""
    if failed.exc_value is None or not is_full(failed.exc_value):
        threading.__excepthook__(failed)


def explained(error: Exception) -> int:
    """The exit code of an error that is the user's to fix, told in one line; one that may be ours is raised again."""
    if isinstance(error, BrokenPipeError):
        # whoever read our output has left; there is nobody to tell, and Python would complain once more at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    message = message_of(error)
    if message is None:
        raise error
    wordings = [message]
    if rank() > 0:
        # one process may be alone with it, and then tells of it itself
        wordings.append(f"process {rank()}: {message}")
    if rank() > 0 and is_of_one(error):
        _tell(wordings[-1])
        return 2
    with told_once(*wordings) as is_to_tell:
        if is_to_tell:
            _tell(wordings[-1])
    return 2


def stopped() -> int:
    """The exit code of a command that was interrupted, told once for all processes."""
    if rank() == 0:
        _tell("stopped; the same command carries on from here")
    return 130


def _tell(message: str) -> None:
    if len(message) > _MOST_SHOWN:
        message = f"{message[:_MOST_SHOWN]} ..."
    Console(stderr=True, highlight=False).print(
        f"[red]contrapose:[/red] {escape(' '.join(message.split()))}", soft_wrap=True
    )
