"""Every suite by its name: the worlds' own, and scores for prompts of any kind; a new one is one line here."""

from __future__ import annotations

from contrapose import runfile
from contrapose.evaluate.suites import Scores
from contrapose.judges.table import JUDGES, AnyJudge
from contrapose.worlds.shapes.suite import Shapes

AnySuite = Shapes | Scores
SUITES: dict[str, type[AnySuite]] = {"shapes": Shapes, "scores": Scores}
CONVERTER = runfile.converter((AnyJudge, JUDGES), (AnySuite, SUITES))


def as_settings(suite: AnySuite) -> dict[str, object]:
    """A suite with its name, as it stands in a file."""
    settings: dict[str, object] = CONVERTER.unstructure(suite, unstructure_as=AnySuite)
    return settings
