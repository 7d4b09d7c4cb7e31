"""The runs that a run consists of: what its method begins with, each a whole run in a folder of its own, and itself.

out/start            RealAlign's first stage, where trainee and reference of the second begin
out/winner, loser    the two policies that data-driven DDSPO contrasts
out                  the run itself
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from contrapose.methods import name_of
from contrapose.train.settings import Run


@dataclass(frozen=True)
class Stage:
    """One run, its folder, and the earlier runs that it builds on."""

    run: Run
    folder: Path
    start: Path | None = None
    """Where the trainee and the reference begin."""
    policies: Mapping[str, Path] = field(default_factory=dict)
    """Runs that are asked by name."""
    then: Run | None = None
    """The run that builds on this one, if any does."""

    @property
    def earlier(self) -> bool:
        """Whether another run builds on this one."""
        return self.then is not None

    @property
    def title(self) -> str:
        """What is being done."""
        return f"aligning with {name_of(self.run.method)}"


def stages(run: Run, out: Path) -> list[Stage]:
    """In the order in which they are trained; the last one is the run itself."""
    if run.policies:
        return [Stage(run, out, run.start, dict(zip(("winner", "loser"), run.policies, strict=True)))]
    earlier: dict[str, Stage] = {}
    for role, method in run.method.before.items():
        # swapped, masked and against a moving reference is what the last stage compares; what it begins with keeps the
        # pairs' own sense, and its reference
        first = replace(
            run.first.of(run),
            method=method,
            swap=False,
            mask_floor=None,
            reference_decay=None,
            reference_every=None,
            # what takes the times of its own sampler has no density of them
            time_density=None if method.composition().has_own_times else run.time_density,
            sharding=run.sharding.for_run_before(method.objective()),
        )
        earlier[role] = Stage(first, out / role, run.start, then=run)
    folders = {role: stage.folder for role, stage in earlier.items()}
    start = folders.pop("start", run.start)
    return [*earlier.values(), Stage(run, out, start, folders)]
