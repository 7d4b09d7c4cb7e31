"""Malformed inputs, of which most once ended in a traceback, a hang or silence; what each command says to them now.

    python tests/malformed/run.py [--only pairs model ...]

Prints what does not behave, and how many of all do. Also `pytest tests/malformed -m exhaustive`. The kinds are tested,
wider and faster, beside the rooms that they belong to; this list keeps the very inputs that were found by trying.

Each runs in a fork with a minute, bounded memory and nothing to read from. To behave is to exit with 2, one line that
names the file or the setting, and nothing written; or, where that is the right answer, to carry on.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' own modules are

import commands

from contrapose.cli.main import main
from malformed.case import Arguments, Case, Place
from malformed.folders import REPORTS, RESUMED
from malformed.images import IMAGES
from malformed.networks import ADAPTERS, MODELS
from malformed.settings import RUN_FILES, TYPED
from malformed.stores import PAIRS, SCORED
from malformed.studies import STUDIES

CASES = [*RUN_FILES, *TYPED, *PAIRS, *SCORED, *MODELS, *ADAPTERS, *RESUMED, *IMAGES, *REPORTS, *STUDIES]
SECONDS, MEMORY = 60, 12 << 30


def answer(arguments: Arguments) -> tuple[int | str, str]:
    """A command's exit code (or how it ended) and what it wrote to stderr, in a fork of its own."""
    process = os.fork()
    if process == 0:
        for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, "stdout", 577), (2, "stderr", 577)):
            os.dup2(os.open(path, flags, 0o644), number)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.alarm(SECONDS)
        code = 1
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            sys.stderr.write(f"TRACEBACK {type(error).__name__}: {error}")
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(process, 0)
    told = Path("stderr").read_text(errors="replace")
    return ("hung" if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)), told


def complaint(case: Case, folder: Path) -> str | None:
    """What is wrong with the answer to a case; None where it behaves."""
    folder.mkdir()
    os.chdir(folder)
    arguments = case.prepare(folder)
    before = sorted(folder.iterdir())
    code, told = answer(arguments)
    lines = [line for line in told.splitlines() if line.startswith("contrapose:")]
    if code != case.code:
        return f"ended with {code}, not {case.code}: {told[-300:]}"
    if code == 2 and (len(lines) != 1 or "Traceback" in told):
        return f"{len(lines)} lines: {told[-300:]}"
    if code == 2 and case.named.replace("-", "_") not in lines[0].replace("-", "_"):
        return f"does not name {case.named}: {lines[0]}"
    left = [path.name for path in sorted(folder.iterdir()) if path not in before and path.name.startswith("out")]
    if code == 2 and left:
        return f"left {', '.join(left)}"
    return None


def prepare(folder: Path) -> None:
    """Every command once, in the folder that the cases copy from."""
    os.environ["CONTRAPOSE_CACHE"] = str(folder / "cache")
    base = folder / "base"
    base.mkdir()
    os.chdir(base)
    Place.base = base
    commands.write_inputs(base)
    for line in commands.LINES:
        if line.name not in (
            "staged",
            "data",
            "chats",
            "kto",
            "best",
            "guided",
            "sweep",
            "toy",
            "merged",
            "whole",
            "file",
        ):
            assert main(line.at()) == 0, line.name


def complaints(folder: Path, cases: list[Case]) -> Iterator[tuple[Case, str]]:
    prepare(folder)
    for number, case in enumerate(cases):
        message = complaint(case, folder / f"case-{number}")
        if message is not None:
            yield case, message


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="sections")
    options = parser.parse_args()
    chosen = [case for case in CASES if not options.only or case.section in options.only]
    with tempfile.TemporaryDirectory() as place:
        wrong = 0
        for case, message in complaints(Path(place), chosen):
            wrong += 1
            print(f"{case}: {' '.join(message.split())}", flush=True)
        print(f"{len(chosen) - wrong} of {len(chosen)} behave")
        os.chdir("/")
    sys.exit(bool(wrong))
