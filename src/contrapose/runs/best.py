"""The best of a run's kept steps by a judge, as `best.json` has it: RUN@best is that step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from contrapose import runfile
from contrapose.documents import load_json
from contrapose.files import write_text
from contrapose.runs.names import BEST

_FIX = "delete it; 'contrapose align --keep-best' writes it anew at the next kept step"


@dataclass(frozen=True)
class Spread:
    """A number and its 95 % interval over prompts; one prompt alone has none."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def decides(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class BestStep:
    """The best kept step, and how it stands to the last one and to where training began, on the same prompts."""

    step: int
    metric: str
    score: Spread
    last_step: int
    last_score: Spread
    over_last: Spread
    """Its score minus the last step's."""
    over_start: Spread | None
    """Its score minus that before the first step; None where nothing was judged then."""

    @property
    def sentence(self) -> str:
        """All of it in words, with a warning where a difference may be chance."""
        words = f"step {self.step:,} by {self.metric}, {self.score}"
        if self.step == self.last_step:
            words += "; it is the last one"
        else:
            words += f"; the last one, {self.last_step:,}, has {self.last_score}: a difference of {self.over_last}"
            if not self.over_last.decides:
                words += ", which cannot be told from none"
        if self.over_start is not None:
            words += f"; since the start {self.over_start}"
            if not self.over_start.decides:
                words += ", which cannot be told from none"
        return words


def write_best(run: Path, best: BestStep | None) -> None:
    """Write which step is the best one, or that there is none."""
    if best is None:
        (run / BEST).unlink(missing_ok=True)
    else:
        write_text(run / BEST, json.dumps(asdict(best), indent=1) + "\n")


def read_best(run: Path) -> BestStep | None:
    """The best of a run's kept steps; None where no judge chose one. Raises `UserError` for a broken `best.json`."""
    path = run / BEST
    if not path.is_file():
        return None
    return runfile.structured(path, load_json(path, _FIX), BestStep, runfile.converter(), _FIX)
