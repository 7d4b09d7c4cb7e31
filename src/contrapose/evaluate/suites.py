"""What images are judged by, and what their scores are read against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from contrapose.errors import UserError
from contrapose.judges.judge import Judge, Jury
from contrapose.judges.table import AnyJudge
from contrapose.ranges import checked
from contrapose.store.prompts import Prompt


class Bounds(Protocol):
    """What scores are read against: chance below, and above it the best that a model can make."""

    def floor(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts in another order: judged by these, images show what chance alone scores.

        Raises `UserError` for prompts too alike to be told apart.
        """
        ...

    def draw_ceiling(self, prompts: Sequence[Prompt], seeds: Sequence[int], out: Path) -> None:
        """Write the best that a model can make of each prompt and seed into a folder that is there, as GenEval does."""
        ...


class Suite(Protocol):
    """The settings of a judge whose numbers are evidence."""

    @property
    def bounds(self) -> Bounds | None:
        """The floor and the ceiling; None where the judge's numbers have none."""
        ...

    @property
    def counted(self) -> str:
        """What its detector counts as an object, in sentences for a report's reader; empty where it has none."""
        ...

    @property
    def title(self) -> str:
        """What tables call its numbers, which never stand without their detector; empty where metrics say enough."""
        ...

    def load(self, device: str) -> Judge:
        """Its judge; raises `UserError` when weights that it needs are missing or broken."""
        ...

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `UserError` for prompts whose images it cannot judge."""
        ...

    def inputs(self) -> dict[str, str]:
        """Its settings that name what is read, with the digest of what lies there."""
        ...


@runtime_checkable
class WritesResults(Protocol):
    """A suite whose numbers other tools read from files of their own."""

    def write_results(self, rows: Path, out: Path) -> None:
        """Write what a file of rows says as they have it, into the folder `out`."""
        ...


@dataclass(frozen=True)
@checked
class Scores:
    """The suite "scores": the numbers of judges, for images of any prompts; a report is about the first judge's."""

    judges: tuple[AnyJudge, ...] = ()
    """What gives the numbers."""

    bounds: ClassVar[None] = None
    counted: ClassVar[str] = ""
    title: ClassVar[str] = ""

    def load(self, device: str) -> Judge:
        if not self.judges:
            raise UserError("the suite scores needs a judge; name one or more with --judges")
        return Jury([settings.load(device) for settings in self.judges])

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Every prompt can be scored."""

    def inputs(self) -> dict[str, str]:
        return {}


NONE = "none"


@dataclass(frozen=True)
class Unjudged:
    """The suite "none": no judge and no numbers; a report shows the images side by side."""

    bounds: ClassVar[None] = None
    counted: ClassVar[str] = ""
    title: ClassVar[str] = ""

    def load(self, device: str) -> None:
        """There is none."""

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Images of any prompts can be shown."""

    def inputs(self) -> dict[str, str]:
        return {}
