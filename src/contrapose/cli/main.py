"""`contrapose COMMAND`: find the command, run it, and turn every user error into one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
import threading

from contrapose import __version__
from contrapose.cli.commands import COMMANDS, find
from contrapose.cli.failures import explained, fail, tell_of_thread
from contrapose.cli.torchvision import check_torchvision
from contrapose.cli.usage import FIRST_WORDS, usage
from contrapose.errors import UserError
from contrapose.processes import launched, num_processes

__all__ = ["COMMANDS", "find", "main", "run"]
_SHARED = ("align", "evaluate", "pairs draw", "pairs import", "pairs score", "sample")  # over several processes
_LONG = ("align", "sweep", "pairs real", "study run")  # the others are over before they are in the way


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
    _check_processes(name)
    _check_tasks(name)
    if command.uses_networks:
        check_torchvision(rest)
    importlib.import_module(f"contrapose.cli.{command.module}").main(rest, f"contrapose {name}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Read when the libraries are imported: they warn of a missing torchvision, which nothing here uses.
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    threading.excepthook = tell_of_thread
    try:
        try:
            run(arguments)
        finally:
            sys.stdout.flush()  # here, where a reader that has left is still told apart
    except Exception as error:
        return explained(error)
    except KeyboardInterrupt:
        return fail("stopped; the same command carries on from here", 130)
    return 0


def _check_arguments(arguments: list[str]) -> None:
    """Raise `UserError` for text that no file could hold: bytes of the command line that are not UTF-8."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{argument!a}: is not UTF-8; name it otherwise") from None


def _check_processes(name: str) -> None:
    """Raise `UserError` where several processes were started of a command that would do all of its work in each."""
    if num_processes() > 1 and name not in _SHARED:
        raise UserError(
            f"{name}: was started as {num_processes()} processes, but shares no work between them; start it once (for "
            f"several are {', '.join(_SHARED)})"
        )


def _check_tasks(name: str) -> None:
    """Raise `UserError` where srun alone started several processes of a long command that no workers share."""
    task = launched()
    if task is None or num_processes() > 1 or name not in _LONG:
        return
    if task.number > 0:
        raise SystemExit(2)  # the first task says it for all
    instead = "start it once (srun --ntasks 1)"
    if name == "align":
        instead = "let srun start one torchrun a machine (docs/many-gpus.md has the lines)"
    raise UserError(
        f"{name}: srun started it as {task.of} tasks, which do not know of each other; {instead}; for a run of its own "
        f"in each task, put 'env -u SLURM_PROCID' before it"
    )


if __name__ == "__main__":
    sys.exit(main())
