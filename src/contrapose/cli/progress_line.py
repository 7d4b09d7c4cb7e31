"""One line of progress, as wide as the terminal: what matters most first, and nothing cut in two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import ProgressColumn, Task
from rich.text import Text

from contrapose.cli.pace import Pace

_GAP = "  "
_SHORTEST_TITLE = 12
_SHORTEST_BAR = 4
_LONGEST_BAR = 20


def _fitting(text: str, parts: Iterable[str], room: int) -> str:
    """The text with as many of the parts behind it as there is room for, in their order."""
    for part in filter(None, parts):
        if len(text) + len(_GAP) + len(part) > room:
            break
        text = f"{text}{_GAP}{part}"
    return text


class Lines(ProgressColumn):
    """A column of such lines in rich's bars."""

    def render(self, task: Task) -> Any:
        return task.fields["line"]


class ProgressLine:
    """A title, a bar and how far it is; metrics, pace and memory as far as there is room for them."""

    def __init__(self, title: str, pace: Pace, unit: str):
        self.title = title
        self.notes: tuple[str, ...] = ()
        self.memory = ""
        self._pace = pace
        self._unit = unit

    @property
    def plain(self) -> str:
        """All of it, for a log."""
        peak = f"peak {self.memory}" if self.memory else ""
        parts = [self._pace.count, self._pace.left, *self.notes, self._pace.each(self._unit), peak]
        return f"{self.title}: {', '.join(part for part in parts if part)}"

    def text(self, width: int) -> Text:
        """In so many characters: step, time left, first metric, pace, memory, then the other metrics."""
        first, *further = self.notes or ("",)
        needed = [self._pace.count, self._pace.left, first, self._pace.each(self._unit), self.memory]
        tail = _fitting("", needed, width - min(len(self.title), _SHORTEST_TITLE))
        tail = _fitting(tail, further, width - len(self.title))  # these are not worth a letter of the title
        room = width - len(tail)
        title = self.title if len(self.title) <= room else f"{self.title[: room - 1]}…"
        bar = self._bar(min(room - len(title) - len(_GAP), _LONGEST_BAR))
        return Text.assemble(title, _GAP if bar else "", bar, tail)

    def _bar(self, width: int) -> Text:
        total = self._pace.total
        if width < _SHORTEST_BAR or not total:
            return Text()
        filled = width * min(self._pace.done, total) // total
        return Text.assemble(("━" * filled, "bar.complete"), ("━" * (width - filled), "bar.back"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self.text(options.max_width)
        text.no_wrap = True
        yield text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)
