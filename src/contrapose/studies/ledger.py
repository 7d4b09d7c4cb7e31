"""Which command lines of a study are done, so that none is started again for nothing.

OUT/done.yaml   each command line with digests of the study's inputs and of what it wrote

A line is done where it was once run to its end, and what the study reads and what the line wrote are what they were
then. Any other is run, and finds for itself what is left to do: the commands decide what is done, and this saves the
time in which they find out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contrapose.contents import digest_of_parts, file_digest
from contrapose.documents import dump_yaml, load_yaml
from contrapose.errors import UserError
from contrapose.files import write_text
from contrapose.store.manifest import MANIFEST, NOTES
from contrapose.store.noted_digests import shard_digests
from contrapose.store.shard_files import shard_paths
from contrapose.studies.stages import CommandLine

DONE = "done.yaml"
_OF_NO_LINE = ("events.out", *NOTES)  # TensorBoard's files, named by the time, and what readers of pairs leave there


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
        # by key, so that a line that is run again leaves the file as it was
        write_text(self.path, dump_yaml(dict(sorted(self._done.items()))))

    def _state(self, line: CommandLine) -> dict[str, str]:
        wrote = digest_of_parts(sorted(_contents(line.out))) if line.out is not None else ""
        return {"inputs": self.inputs, "wrote": wrote}


def _key(line: CommandLine) -> str:
    return digest_of_parts(line.words)


def _contents(out: Path) -> Iterator[str]:
    """Name and digest of each of a result's files; hidden ones are left out, and those that say nothing of a line."""
    if out.is_file():
        yield f"{out.name} {file_digest(out)}"
    noted: dict[str, str] = {}
    if (out / MANIFEST).is_file():
        shards = shard_paths(out)
        noted = dict(zip((shard.name for shard in shards), shard_digests(out, shards), strict=True))
    for path in out.rglob("*") if out.is_dir() else ():
        if not path.name.startswith((".", *_OF_NO_LINE)) and path.is_file():
            name = path.relative_to(out).as_posix()
            yield f"{name} {noted.get(name) or file_digest(path)}"


def _read(path: Path) -> dict[str, dict[str, str]]:
    values: Any = load_yaml(path, "delete it")
    lines = values.values() if isinstance(values, dict) else [values]
    if not all(isinstance(line, dict) for line in lines):
        raise UserError(f"{path}: broken, digests by command line were expected; delete it")
    return dict(values)
