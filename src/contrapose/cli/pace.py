"""How fast something goes, what is left of it, and the memory that it has taken."""

from __future__ import annotations

import sys
import time
from collections import deque
from datetime import timedelta

_RECENT = 20  # calls that the pace is taken over: of a training run, its last steps


class Pace:
    """The seconds that each of what is done takes, over the last calls."""

    def __init__(self, total: int | None = None):
        self.done = 0
        self.total = total
        self._seen: deque[tuple[float, int]] = deque(maxlen=_RECENT)

    def __call__(self, done: int, total: int | None) -> None:
        self._seen.append((time.monotonic(), done))
        self.done = done
        self.total = total

    @property
    def seconds(self) -> float | None:
        """For each; None before there are two calls to compare."""
        if not self._seen or self._seen[-1][1] <= self._seen[0][1]:
            return None
        first, done_first = self._seen[0]
        last, done_last = self._seen[-1]
        return (last - first) / (done_last - done_first)

    @property
    def count(self) -> str:
        """How many are done, and of how many."""
        return str(self.done) if self.total is None else f"{self.done}/{self.total}"

    @property
    def left(self) -> str:
        """The time left by the clock, running down between two calls; empty where nothing tells it."""
        if self.seconds is None or self.total is None:
            return ""
        since = time.monotonic() - self._seen[-1][0]
        seconds = max(self.seconds * (self.total - self.done) - since, 0)
        return f"{timedelta(seconds=round(seconds))} left"

    def each(self, unit: str) -> str:
        """The pace in words: seconds for each, or how many a second where they are fast."""
        if not self.seconds:
            return ""
        if self.seconds < 0.1:
            return f"{1 / self.seconds:.3g} {unit}s/s" if unit else f"{1 / self.seconds:.3g}/s"
        return f"{self.seconds:.3g} s/{unit}" if unit else f"{self.seconds:.3g} s each"


def peak_memory() -> str:
    """The most memory that was in use so far, the GPU's where there is one; empty where the system does not tell."""
    torch = sys.modules.get("torch")  # which a command that computes nothing has not imported
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    try:
        import resource
    except ImportError:  # on Windows
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"
