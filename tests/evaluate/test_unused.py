"""Settings that others of a judge, a suite or a study make useless are refused: nobody would heed them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contrapose.asking import Asking
from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.evaluate.compbench.suite import CompBench
from contrapose.evaluate.geneval.suite import GenEval
from contrapose.evaluate.questions.suite import Questions
from contrapose.judges.endpoint import EndpointQuestion
from contrapose.judges.yes_no import YesNo
from contrapose.studies.sources import PromptSource

URL = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: EndpointQuestion(expect="yes-no", interval=(0.0, 5.0)), "interval: is nothing to an answer"),
        (lambda: EndpointQuestion(expect="yes-no", max_new_tokens=9), "max_new_tokens: is nothing to an answer"),
        (lambda: EndpointQuestion(reading="word"), "reading: is nothing to an answer"),
        (lambda: YesNo(reading="word"), "reading: is of a server"),
        (lambda: YesNo(asking=Asking(at_once=3)), "asking: is of a server"),
        (lambda: YesNo(address=URL, precision="fp32"), "precision: is the server's"),
        (lambda: Questions(asking=Asking(at_once=3)), "asking: is of a server"),
        (lambda: Questions(judge=URL, precision="fp32"), "precision: is the server's"),
        (lambda: GenEval(least_correct=0.9), "least_correct: is of known images"),
        (lambda: CompBench(least_score=0.5), "least_score: is of what an OWLv2 finds"),
        (lambda: CompBench("non_spatial", Path("phrases.json")), "phrases: non_spatial is judged by whole prompts"),
        (lambda: PromptSource(file=Path("test.txt"), per_tag=5), "per_tag: is of a split of the shapes world"),
    ],
)
def test_a_setting_that_nothing_heeds_is_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(UserError, match=f"^{told}.*; leave it out$"):
        make()


def test_settings_are_heeded_beside_what_they_are_for(tmp_path: Path) -> None:
    EndpointQuestion(expect="yes-no", reading="word", asking=Asking(at_once=3))
    EndpointQuestion(interval=(0.0, 5.0), max_new_tokens=9)
    YesNo(address=URL, reading="word", asking=Asking(at_once=3))
    Questions(judge=URL, reading="word", asking=Asking(at_once=3))
    GenEval(self_test=tmp_path, least_correct=0.9)
    CompBench(owl="owl", least_score=0.5)


def test_numbers_of_what_nobody_judges_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", "--suite", "none", "--images", f"base={tmp_path}", "--out", str(tmp_path / "out")]
    assert main([*line, "--replicates", "20"]) == 2
    assert "replicates: the suite none has no numbers; leave it out" in capsys.readouterr().err
