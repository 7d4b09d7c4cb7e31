"""Best of n: of a prompt's images the one that judges find best, the base line that needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from contrapose import runfile
from contrapose.guiding.choosing import Kept
from contrapose.judges.judge import Jury, judge_of
from contrapose.store.prompts import Prompt
from contrapose.worlds.judges import IMAGE_JUDGES, ImageJudge, check_without_ceiling
from contrapose.worlds.shapes.suite import Shapes

JUDGES_FILE = "judges.yaml"


@dataclass(frozen=True)
class Judges:
    """Who chooses among images, as it stands in a file."""

    judges: tuple[ImageJudge, ...]


_CONVERTER = runfile.converter((ImageJudge, IMAGE_JUDGES))


def judges_of(folder: Path) -> list[dict[str, Any]]:
    """The judges that chose among a folder's images, as they stand in its file; none where nobody chose.

    Raises `UserError` for a file that is broken.
    """
    path = folder / JUDGES_FILE
    if not path.is_file():
        return []
    judges: list[dict[str, Any]] = _CONVERTER.unstructure(runfile.read(path, Judges, _CONVERTER))["judges"]
    return judges


class BestByJudges:
    """Keeps the image of the best number of the first judge; further numbers and judges decide between equals.

    Numbers count in the order in which a judge names them, the one that matters most first. The judges are loaded here,
    once; one that looks with a model's own eyes takes `model` where none is named. Raises `UserError` for weights that
    are missing or broken, two judges of one number, and prompts that the shapes world does not know where its suite is
    to judge them.
    """

    def __init__(self, judges: Sequence[ImageJudge], prompts: Sequence[Prompt], device: str, model: str) -> None:
        check_without_ceiling(judges, "here")
        for judge in judges:
            if isinstance(judge, Shapes):
                judge.check(prompts)
        self._settings = Judges(tuple(judges))
        self._jury = Jury([judge_of(judge, device, model, "") for judge in judges])

    @property
    def version(self) -> str:
        """A digest of the judges' weights and rules."""
        return self._jury.version

    def sign(self, out: Path) -> None:
        """Write `judges.yaml` into a folder of images; `UserError` where it names others."""
        runfile.claim(out / JUDGES_FILE, self._settings, _CONVERTER)

    def __call__(self, candidates: Sequence[Image], prompt: Prompt) -> Kept:
        """The best of these images and all numbers; of equals the first."""
        marks = self._jury(candidates, [prompt] * len(candidates))
        scores = {name: marks[name].values.tolist() for name in self._jury.higher_is_better}

        def merits(place: int) -> list[float]:
            """An image's numbers, each turned so that more is better."""
            turned: list[float] = []
            for name, is_higher in self._jury.higher_is_better.items():
                turned.append(scores[name][place] if is_higher else -scores[name][place])
            return turned

        # `max` gives the first of equals
        return Kept(max(range(len(candidates)), key=merits), scores)
