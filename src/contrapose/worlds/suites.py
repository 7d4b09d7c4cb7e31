"""Every suite by its name: the worlds' own, and scores for prompts of any kind; a new one is one line here."""

from __future__ import annotations

from collections.abc import Sequence

from contrapose import runfile
from contrapose.errors import UserError
from contrapose.evaluate.compbench.suite import CompBench
from contrapose.evaluate.geneval.suite import GenEval
from contrapose.evaluate.questions.suite import Questions
from contrapose.evaluate.sets.suite import Sets
from contrapose.evaluate.suites import NONE, Scores, Unjudged
from contrapose.judges.judge import Judge
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


def judge_of(prompts: Sequence[Prompt], name: str | None, device: str) -> Judge | None:
    """The judge of the suite of this name; when unset, that of the prompts' own world, if any.

    Raises `UserError` when a suite was asked for that cannot judge these prompts.
    """
    suite = SUITES[name or "shapes"]()
    try:
        suite.check(prompts)
    except UserError:
        if name is not None:
            raise
        return None
    return suite.load(device)


def as_settings(suite: AnySuite) -> dict[str, object]:
    """A suite with its name, as it stands in a file."""
    settings: dict[str, object] = CONVERTER.unstructure(suite, unstructure_as=AnySuite)
    return settings
