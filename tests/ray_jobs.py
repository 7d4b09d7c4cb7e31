"""What workers on Ray do in tests, besides commands; they find it here by its name."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from contrapose.on_ray import HowFar, News, Remark


def killed_at(num_deaths: int, deaths: Path, tell: Callable[[News], None]) -> str | None:
    """Be killed so many times before anything is done, counted in a file, and then do it."""
    num = len(deaths.read_text()) if deaths.exists() else 0
    if num < num_deaths:
        deaths.write_text("x" * (num + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    tell(HowFar("working", 1, 1))
    tell(Remark(f"in {Path.cwd()}"))
    return None
