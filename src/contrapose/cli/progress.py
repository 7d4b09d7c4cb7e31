"""Progress: a bar with the time left in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import ClassVar

from rich.console import Console
from rich.progress import Progress

from contrapose.cli.pace import Pace, peak_memory
from contrapose.cli.progress_line import Lines, ProgressLine
from contrapose.processes import rank

_LINES = 20  # of a whole, where there is no terminal
_OFTEN = 1.0  # seconds that lie between two of them at least
_SELDOM = 600.0  # and at most


class Bar:
    """One progress bar, to be called with (done, total); of several processes the first one draws it."""

    listener: ClassVar[Callable[[str, int, int | None], None] | None] = None
    """Who is told each title, how much is done and the total, where all bars of a process are shown elsewhere."""

    def __init__(self, title: str, total: int | None = None, unit: str = "", memory: Callable[[], str] = peak_memory):
        console = Console(stderr=True, highlight=False)
        self._is_live = console.is_terminal or console.is_jupyter
        self._is_silent = rank() > 0
        self._pace = Pace(total)
        self._line = ProgressLine(title, self._pace, unit)
        self._memory = memory
        self._progress = Progress(Lines(), console=console, disable=self._is_silent)
        self._task = self._progress.add_task(title, total=total, line=self._line)
        self._due = 1
        self._last_line = -_SELDOM

    def __enter__(self) -> Bar:
        if self._is_live:
            self._progress.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None and not self._pace.done:
            self._progress.update(self._task, visible=False)  # it never began, and its error is one line
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, done: int, total: int | None = None, notes: Iterable[str] = ()) -> None:
        total = self._pace.total if total is None else total
        if Bar.listener is not None:
            Bar.listener(self._line.title, done, total)
            return
        self._pace(done, total)
        self._line.notes = tuple(notes)
        self._line.memory = self._memory()
        if self._is_live:
            self._progress.update(self._task, completed=done, total=total)
        elif not self._is_silent:
            self._tell(done, total)

    def _tell(self, done: int, total: int | None) -> None:
        """A plain line: of the first, of about every twentieth and of the last; of slow ones every ten minutes too."""
        since = time.monotonic() - self._last_line
        is_due = done >= self._due and since >= _OFTEN
        if done == total or (done and (is_due or since >= _SELDOM)):
            self._progress.console.print(self._line.plain, soft_wrap=True, markup=False)
            self._last_line = time.monotonic()
            self._due = done + max((total or 0) // _LINES, 1)
