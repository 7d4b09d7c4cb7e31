"""Progress bars with the time left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from contrapose.processes import rank

_NOTED = ("loss", "accuracy", "drift")  # of a training step's metrics


class Bar:
    """One progress bar, to be called with (done, total); of several processes the first one draws it."""

    def __init__(self, title: str, total: int | None = None):
        columns = (
            TextColumn("{task.description:<26}"), BarColumn(20), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        self._progress = Progress(*columns, console=Console(stderr=True), disable=rank() > 0)
        self._task = self._progress.add_task(title, total=total, note="")

    def __enter__(self) -> Bar:
        if self._progress.console.is_terminal:  # elsewhere a bar that never begins would leave an empty line
            self._progress.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None and not self._progress.tasks[0].completed:
            self._progress.update(self._task, visible=False)  # it never began, and its error is one line
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        self._progress.start()
        self._progress.update(self._task, completed=done, total=total, note=note)


def follow(title: str, total: int, done: Iterable[Any]) -> None:
    """Draw a bar while an iterable yields how much is done (a number, or an object with `step` and `metrics`)."""
    with Bar(title, total) as bar:
        for state in done:
            metrics = getattr(state, "metrics", {})
            notes = [f"{name} {metrics[name]:.3g}" for name in _NOTED if name in metrics]
            bar(getattr(state, "step", state), note="  ".join(notes))
