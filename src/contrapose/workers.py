"""Workers: processes that make the files of one folder together, each file by one of them.

A worker claims a file by a lock beside it, makes it aside and renames it. The lock ends with its process, so that a
worker that is killed leaves nothing claimed, and another one makes the file. What is in a file does not depend on who
makes it: the folder holds the same bytes as one process would have written. Where the disk knows no locks, a file may
be made twice, to the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from contrapose.errors import UserError
from contrapose.files import claimed, one_writer
from contrapose.processes import Launched

T = TypeVar("T")
_SHARE = "wait for it, start both with --part 1/1 to share its work, or choose another --out"
_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


Turn = tuple[Path, T, Literal["make", "look", "leave"]]
"""A file of the folder, what it is made of, and what is to be done: make it, look at it, or leave it to others."""


@dataclass(frozen=True)
class Worker:
    """One of several processes that share a folder, or the only one."""

    alone: bool = True
    """Whether the folder is this process's; otherwise it lets others in that work in the same way."""
    part: int = 0
    """Of so many parts the one, from 0, whose files are made here; the others are left alone."""
    num_parts: int = 1
    number: int = 0
    """Among the workers of this part: it says which files are begun with, and decides nothing else."""
    num_workers: int = 1

    @classmethod
    def of(cls, part: str | None, launched: Launched | None = None) -> Worker:
        """The worker of a part, such as 3/8, and of a launcher; `UserError` for what is no part."""
        if part is None and launched is None:
            return ALONE
        named = _PART.fullmatch("1/1" if part is None else part)
        if named is None or not 1 <= int(named[1]) <= int(named[2]):
            raise UserError(f"part {part}: a number and how many there are is wanted, from 1/8 to 8/8")
        number, num_workers, _ = launched or Launched(0, 1, 0)
        return cls(False, int(named[1]) - 1, int(named[2]), number, num_workers)

    def writing(self, out: Path) -> AbstractContextManager[None]:
        """Hold the folder `out`, alone or beside others, as `one_writer` does."""
        return one_writer(out, several=not self.alone, fix=_SHARE)

    def in_turn(self, file: Path) -> AbstractContextManager[object]:
        """Hold a file that all workers write, the same in each, so that they look at it and write it one by one."""
        return nullcontext() if self.alone else claimed(file, wait=True)

    def turns(
        self, files: Iterable[tuple[Path, T]], is_made: Callable[[Path, T], bool] = lambda file, _: file.exists()
    ) -> Iterator[Turn[T]]:
        """All files, each once: those to be made are claimed until the next one is asked for.

        A worker begins with files that others come to last. It leaves out those that others have claimed, and waits for
        them in the end: whoever made one is done with it then, or was killed, and it is made here.
        """
        if self.alone:
            for file, content in files:
                yield (file, content, "look" if is_made(file, content) else "make")
            return
        claimed_by_others: list[tuple[Path, T]] = []
        for in_part, file, content in self._ordered(list(files)):
            if not in_part or is_made(file, content):
                yield (file, content, "look" if in_part else "leave")
                continue
            with claimed(file) as is_mine:
                if is_mine:
                    # it may have been finished between the look and the claim
                    yield (file, content, "look" if is_made(file, content) else "make")
                else:
                    claimed_by_others.append((file, content))
        for file, content in claimed_by_others:
            with claimed(file, wait=True):
                yield (file, content, "look" if is_made(file, content) else "make")

    def _ordered(self, files: list[tuple[Path, T]]) -> Iterator[tuple[bool, Path, T]]:
        """The files in the order in which this worker comes to them, and whether each is of its part."""
        of_part = [index for index in range(len(files)) if index % self.num_parts == self.part]
        first = of_part[self.number :: self.num_workers]
        begun_with = set(first)
        # those that others begin with from the end, where they come to last
        rest = [index for index in reversed(of_part) if index not in begun_with]
        of_others = sorted(set(range(len(files))) - set(of_part))
        for index in of_others:
            yield False, *files[index]
        for index in [*first, *rest]:
            yield True, *files[index]


ALONE = Worker()
"""The only process that writes a folder."""
