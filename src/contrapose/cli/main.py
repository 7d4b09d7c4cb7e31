"""`contrapose COMMAND`: find the command, run it, and turn every user error into one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
import threading

from contrapose import __version__
from contrapose.cli.commands import COMMANDS, find
from contrapose.cli.failures import explained, stopped, tell_of_thread
from contrapose.cli.started import check_processes
from contrapose.cli.torchvision import check_torchvision
from contrapose.cli.usage import FIRST_WORDS, usage
from contrapose.errors import UserError

__all__ = ["COMMANDS", "find", "main", "run"]


def run(arguments: list[str]) -> None:
    """Run one command line; errors come out as they are."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] in FIRST_WORDS and arguments[1:] in (["-h"], ["--help"]):
        print(usage(f"{arguments[0]} "))
        return
    if arguments[0] == "--version":
        print(__version__)
        return
    _check_arguments(arguments)
    command, name, rest = find(arguments)
    check_processes(name)
    if command.uses_networks:
        check_torchvision(rest)
    importlib.import_module(f"contrapose.cli.{command.module}").main(rest, f"contrapose {name}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare()
    try:
        return _outcome(arguments)
    except KeyboardInterrupt:  # while an error is told, too, for which one of several processes waits
        return stopped()


def _outcome(arguments: list[str]) -> int:
    """The exit code of a command line, whose errors are told."""
    try:
        try:
            run(arguments)
        finally:
            sys.stdout.flush()  # here, where a reader that has left is still told apart
    except Exception as error:
        return explained(error)
    return 0


def prepare() -> None:
    """Make this process one of commands: what libraries and their threads would say is silenced, or told our way."""
    # Read when the libraries are imported: they warn of a missing torchvision, which nothing here uses.
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    threading.excepthook = tell_of_thread


def _check_arguments(arguments: list[str]) -> None:
    """Raise `UserError` for text that no file could hold: bytes of the command line that are not UTF-8."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{argument!a}: is not UTF-8; name it otherwise") from None


if __name__ == "__main__":
    sys.exit(main())
