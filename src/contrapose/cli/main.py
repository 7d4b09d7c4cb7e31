"""`contrapose COMMAND`: find the command, run it, and turn every user error into one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from contrapose import __version__
from contrapose.errors import UserError
from contrapose.files import full, is_full
from contrapose.processes import num_processes, rank


class Command(NamedTuple):
    """Where a command lives, and what it does in half a line."""

    module: str
    summary: str


COMMANDS = {
    "quickstart": Command("quickstart", "the main job, end to end, on the shipped shapes model"),
    "pairs draw": Command("pairs_draw", "draw winners from prompts and losers from degraded prompts"),
    "pairs check": Command("pairs_check", "count pairs and look for everything that spoils them"),
    "pairs import": Command("pairs_import", "import pairs of images of your own, of any sizes and in many formats"),
    "pairs export": Command("pairs_export", "write pairs as Pick-a-Pic's Parquet, for other trainers"),
    "pairs real": Command("pairs_real", "make pairs of real photographs: each against what spoiling makes of it"),
    "align": Command("align", "train a method (ddspo, realalign, diffusion-dpo, ...) on pairs, or a run.yaml"),
    "sample": Command("sample", "sample images of a model or an aligned run"),
    "sweep": Command("sweep", "images and scores by strength of guidance, with a page"),
    "play": Command("play", "a local page to try guidance by hand: prompt, seed and strength"),
    "estimate": Command("estimate", "what a run would cost: parameters, GPU memory, FLOPs, and on which card it fits"),
    "merge": Command("merge", "add aligned runs to a model's weights: adapters, or a whole pipeline"),
    "export": Command("export", "write a run's LoRA as one file for ComfyUI and AUTOMATIC1111"),
    "evaluate": Command("evaluate", "judge images, and compare models with intervals and tests"),
    "report": Command("report", "write one HTML page with runs, scores and images"),
    "toy": Command("toy", "the 2-D experiment: known answers on Gaussians"),
    "shapes prompts": Command("shapes_prompts", "write the shapes world's prompts of one split"),
    "shapes photos": Command("shapes_photos", "write the shapes world's photographs with their captions"),
    "shapes pretrain": Command("shapes_pretrain", "train the shapes model from nothing"),
}


_MOST_SHOWN = 2000  # characters of a message: some quote what a file holds
_SHARED = ("align",)  # commands that share their work over several processes


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = f"contrapose {__version__}: preference alignment of diffusion models without preference labels\n"
    return "\n".join([head, *lines, "\n'contrapose COMMAND --help' explains every option with its unit and default."])


def find(arguments: list[str]) -> tuple[Command, str, list[str]]:
    """The command that the arguments begin with, its name, and the arguments that are left."""
    for length in (2, 1):
        name = " ".join(arguments[:length])
        if name in COMMANDS:
            return COMMANDS[name], name, arguments[length:]
    near = [name for name in COMMANDS if arguments[0] in name.split()]
    raise UserError(f"{arguments[0]}: no such command (known: {', '.join(near or COMMANDS)})")


def run(arguments: list[str]) -> None:
    """Run one command line; errors come out as they are."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] == "--version":
        print(__version__)
        return
    _check_arguments(arguments)
    _check_processes(arguments)
    command, name, rest = find(arguments)
    importlib.import_module(f"contrapose.cli.{command.module}").main(rest, f"contrapose {name}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Read when the libraries are imported: they warn of a missing torchvision, which nothing here uses.
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    threading.excepthook = _tell_of_thread
    try:
        try:
            run(arguments)
        finally:
            sys.stdout.flush()  # here, where a reader that has left is still told apart
    except Exception as error:
        return _explained(error)
    except KeyboardInterrupt:
        return _fail("stopped; the same command carries on from here", 130)
    return 0


def _tell_of_thread(failed: threading.ExceptHookArgs) -> None:
    """Tell of a library's thread that failed, unless by the full disk that the command itself tells of."""
    if failed.exc_value is None or not is_full(failed.exc_value):
        threading.__excepthook__(failed)


def _explained(error: Exception) -> int:
    """The exit code of an error that is the user's to mend, told in one line; one that may be ours is raised again."""
    if isinstance(error, BrokenPipeError):
        # whoever read our output has left; there is nobody to tell, and Python would complain once more at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    message = str(error) if isinstance(error, UserError) else None
    if isinstance(error, OSError):
        message = _mendable(error)
    if _is_out_of_memory(error):
        message = "out of memory; take a smaller --batch-size (align: --micro-batch), smaller images or less precision"
    if message is None:
        raise error
    return _fail(message, 2)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of which each device tells in its own words."""
    phrases = ("out of memory", "can't allocate memory", "not enough memory")
    told = isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in phrases)
    return told or isinstance(error, MemoryError)


def _check_arguments(arguments: list[str]) -> None:
    """Raise `UserError` for text that no file could hold: bytes of the command line that are not UTF-8."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{argument!a}: is not UTF-8; name it otherwise") from None


def _check_processes(arguments: list[str]) -> None:
    """Raise `UserError` where several processes were started of a command that would do all of its work in each."""
    if num_processes() > 1 and arguments[0] not in _SHARED:
        raise UserError(
            f"{arguments[0]}: was started as {num_processes()} processes, but shares no work between them; start it "
            f"once (only {', '.join(_SHARED)} is for several)"
        )


def _mendable(error: OSError) -> str | None:
    """What the user can do about an error of the file system; None when it may be ours."""
    if is_full(error):
        return str(full(error.filename or "output"))
    if error.filename is not None:
        reason = (error.strerror or "cannot be used").lower()
        return f"{error.filename}: {reason}; check the path, or choose another"
    return None


def _fail(message: str, code: int) -> int:
    """Tell the message in one line, once where several processes failed alike; returns the code."""
    if rank() > 0:
        return code
    if len(message) > _MOST_SHOWN:
        message = f"{message[:_MOST_SHOWN]} ..."
    Console(stderr=True, highlight=False).print(
        f"[red]contrapose:[/red] {escape(' '.join(message.split()))}", soft_wrap=True
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
