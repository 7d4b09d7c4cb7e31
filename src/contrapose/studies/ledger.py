"""Which command lines of a study are done, so that none is started again for nothing.

OUT/done.yaml   each command line with digests of the study's inputs and of the names of what it wrote

A line is done where it was once run to its end, what the study reads is what it was then, and no file that it wrote is
missing. Any other is run, and finds for itself what is left to do: the commands decide what is done, and this saves the
time in which they find out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contrapose.contents import digest_of_parts
from contrapose.documents import dump_yaml, load_yaml
from contrapose.errors import UserError
from contrapose.files import write_text
from contrapose.studies.stages import CommandLine

DONE = "done.yaml"
_WITHOUT_NAME = ("events.out",)  # TensorBoard's files are named by the time


class Ledger:
    """The command lines that are done, by their words."""

    def __init__(self, out: Path, inputs: str):
        self.path = out / DONE
        self.inputs = inputs
        self._done: dict[str, dict[str, str]] = _read(self.path) if self.path.is_file() else {}

    def has(self, line: CommandLine) -> bool:
        """Whether the line need not be run."""
        noted = self._done.get(_key(line))
        return noted is not None and noted == self._state(line)

    def note(self, line: CommandLine) -> None:
        """Write down that a line has come to its end."""
        self._done[_key(line)] = self._state(line)
        write_text(self.path, dump_yaml(self._done))

    def _state(self, line: CommandLine) -> dict[str, str]:
        names = digest_of_parts(sorted(_names(line.out))) if line.out is not None else ""
        return {"inputs": self.inputs, "wrote": names}


def _key(line: CommandLine) -> str:
    return digest_of_parts(line.words)


def _names(out: Path) -> Iterator[str]:
    """The names of a result's files, hidden ones left out."""
    if out.is_file():
        yield out.name
    for path in out.rglob("*") if out.is_dir() else ():
        if not path.name.startswith((".", *_WITHOUT_NAME)) and path.is_file():
            yield path.relative_to(out).as_posix()


def _read(path: Path) -> dict[str, dict[str, str]]:
    values: Any = load_yaml(path, "delete it")
    lines = values.values() if isinstance(values, dict) else [values]
    if not all(isinstance(line, dict) for line in lines):
        raise UserError(f"{path}: broken, digests by command line were expected; delete it")
    return dict(values)
