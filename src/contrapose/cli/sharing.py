"""The option that says how a command shares its folder with others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contrapose.workers import Worker

OF_ONE = "one of several processes failed, and the others go on"


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Which files of the folder this process makes, where several are started on it."""

    part: str | None = None
    """For several processes on one folder, typed in each: 3/8 makes the third of eight parts of its files alone; 1/1
    whichever files no other process has claimed. Under torchrun and srun it can be left out, and GPUs are taken in
    turn."""

    def __post_init__(self) -> None:
        self.worker  # noqa: B018 - what is no part is refused here

    @property
    def worker(self) -> Worker:
        """This process as one of the folder's workers, or the only one."""
        from contrapose.processes import launched
        from contrapose.workers import Worker

        return Worker.of(self.part, launched())

    @contextmanager
    def working(self) -> Iterator[Worker]:
        """The worker at its work: what fails within is this process's own, which tells of it itself."""
        worker = self.worker
        try:
            yield worker
        except Exception as error:
            if not worker.alone:
                # as `add_note` does, which Python 3.10 has not
                error.__notes__ = [*getattr(error, "__notes__", ()), OF_ONE]
            raise
