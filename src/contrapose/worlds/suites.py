"""Every suite by its name: the worlds' own, and scores for prompts of any kind; a new one is one line here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contrapose import runfile
from contrapose.errors import UserError
from contrapose.evaluate.compbench.suite import CompBench
from contrapose.evaluate.geneval.suite import GenEval
from contrapose.evaluate.questions.suite import Questions
from contrapose.evaluate.sets.suite import Sets
from contrapose.evaluate.suites import NONE, Scores, Unjudged
from contrapose.judges.table import JUDGES, AnyJudge
from contrapose.store.prompts import Prompt
from contrapose.worlds.shapes.suite import Shapes

AnySuite = Shapes | GenEval | CompBench | Questions | Scores | Sets | Unjudged
SUITES: dict[str, type[AnySuite]] = {
    "shapes": Shapes,
    "geneval": GenEval,
    "compbench": CompBench,
    "questions": Questions,
    "scores": Scores,
    "set": Sets,
    NONE: Unjudged,
}
CONVERTER = runfile.converter((AnyJudge, JUDGES), (AnySuite, SUITES))


@dataclass(frozen=True)
class OwnWorld:
    """The suite of the prompts' own world: shapes for prompts of the shapes world, and none for others."""


SweepSuite = AnySuite | OwnWorld
OF_SWEEPS: dict[str, type[SweepSuite]] = {"auto": OwnWorld} | {
    name: kind for name, kind in SUITES.items() if kind is not Sets
}
"""The suites of a sweep, which has numbers of images at every strength and none of whole sets."""


def suite_of(prompts: Sequence[Prompt], suite: SweepSuite) -> AnySuite:
    """What judges a sweep's images of these prompts.

    Raises `UserError` when a suite was asked for that cannot judge them, and for settings that no sweep heeds.
    """
    if isinstance(suite, OwnWorld):
        try:
            Shapes().check(prompts)
        except UserError:
            return Unjudged()
        return Shapes()
    if isinstance(suite, Shapes) and suite.autoencoder:
        raise UserError("--autoencoder: a sweep draws no ceiling; leave it out")
    if isinstance(suite, GenEval) and suite.detections:
        raise UserError("--detections: are of images that are there already; a sweep needs a detector")
    suite.check(prompts)
    return suite


def as_settings(suite: AnySuite) -> dict[str, object]:
    """A suite with its name, as it stands in a file."""
    settings: dict[str, object] = CONVERTER.unstructure(suite, unstructure_as=AnySuite)
    return settings
