"""What goes wrong, told in one line: every error that is the user's to fix, and none that is ours."""

from __future__ import annotations

import os
import sys
import threading

from rich.console import Console
from rich.markup import escape

from contrapose.cli.memory import OutOfMemory, ran_out
from contrapose.cli.sharing import OF_ONE
from contrapose.errors import UserError
from contrapose.files import full, is_full
from contrapose.processes import rank

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
    message = str(error) if isinstance(error, UserError) else None
    if isinstance(error, OSError):
        message = _fixable(error)
    if not isinstance(error, UserError) and ran_out(error):
        message = "out of memory; close what else uses it, or take less at once, or less precision; what is saved stays"
    if _is_left_alone(error):
        message = (
            "another process of this run has ended, or cannot be reached; what was said before tells why, unless it "
            "was killed; the same command carries on from the last kept step"
        )
    if message is None:
        raise error
    is_of_one = isinstance(error, OutOfMemory) or _is_left_alone(error) or OF_ONE in getattr(error, "__notes__", ())
    if rank() > 0 and is_of_one:  # one process may be alone with it, and then tells of it itself
        message = f"process {rank()}: {message}"
        print(f"contrapose: {message}", file=sys.stderr)
    return fail(message, 2)


def _is_left_alone(error: Exception) -> bool:
    """Whether this process waited for another one in vain; gloo alone tells that in no error of its own kind."""
    is_of_torch = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    return is_of_torch or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def _fixable(error: OSError) -> str | None:
    """What the user can do about an error of the file system; None when it may be ours."""
    if is_full(error):
        return str(full(error.filename or "output"))
    if error.filename is not None:
        reason = (error.strerror or "cannot be used").lower()
        return f"{error.filename}: {reason}; check the path, or choose another"
    return None


def fail(message: str, code: int) -> int:
    """Tell the message in one line, once where several processes failed alike; returns the code."""
    if rank() > 0:  # the first process says it for all
        return code
    if len(message) > _MOST_SHOWN:
        message = f"{message[:_MOST_SHOWN]} ..."
    Console(stderr=True, highlight=False).print(
        f"[red]contrapose:[/red] {escape(' '.join(message.split()))}", soft_wrap=True
    )
    return code
