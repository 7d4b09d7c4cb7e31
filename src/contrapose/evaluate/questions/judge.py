"""The judge that asks: from the chance of each right answer to the numbers of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from PIL.Image import Image

from contrapose.evaluate.questions.question import Question, questions_of
from contrapose.judges.judge import Marks
from contrapose.store.prompts import Prompt

_LEAST = 1e-6  # of a chance in a geometric mean, so that one wrong answer does not hide all others


class QuestionedImage(NamedTuple):
    """An image, and the questions about it."""

    image: Image
    questions: Sequence[Question]


class Answerer(Protocol):
    """A model that can be asked about an image."""

    @property
    def version(self) -> str:
        """A digest of what answers: weights, or an endpoint's model."""
        ...

    @property
    def at_once(self) -> int:
        """Images that it has to be given together to be asked as much at once as may be."""
        ...

    def chances(self, asked: Sequence[QuestionedImage]) -> list[list[float]]:
        """Of each image's questions, the chance of the right answer, 0 to 1; no other question moves it."""
        ...


class QuestionJudge:
    """`questions` and three further numbers of each image, from the chances p of the right answers.

    questions       mean of p, where a question whose needs have p <= 1/2 counts 0 (DPG-Bench's rule)
    questions_mean  mean of p: Soft-TIFA's arithmetic mean (GenEval 2)
    questions_geometric   geometric mean of p: Soft-TIFA's, which is low where any part is missing
    questions_all   1 where every p is over 1/2, else 0
    """

    name = "questions"
    higher_is_better: ClassVar[dict[str, bool]] = {
        "questions": True,
        "questions_mean": True,
        "questions_geometric": True,
        "questions_all": True,
    }

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self.version = answerer.version

    @property
    def at_once(self) -> int:
        return self._answerer.at_once

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        """Raises `UserError` for a prompt without questions."""
        asked = []
        for image, prompt in zip(images, prompts, strict=True):
            asked.append(QuestionedImage(image.convert("RGB"), questions_of(prompt)))
        rows = []
        reasons: list[str | None] = []
        for (_, questions), chances in zip(asked, self._answerer.chances(asked), strict=True):
            rows.append(numbers_of(questions, chances))
            wrong = [question.text for question, p in zip(questions, chances, strict=True) if p <= 0.5]
            reasons.append("\n".join(wrong) or None)
        columns = np.array(rows, dtype=np.float64).reshape(len(rows), len(self.higher_is_better)).T
        return {name: Marks(values, reasons) for name, values in zip(self.higher_is_better, columns, strict=True)}


def numbers_of(questions: Sequence[Question], chances: Sequence[float]) -> tuple[float, float, float, float]:
    """The four numbers of an image, in the order of `QuestionJudge.higher_is_better`."""
    counted = [0.0] * len(questions)
    for place, (question, p) in enumerate(zip(questions, chances, strict=True)):
        holds = all(chances[earlier] > 0.5 for earlier in question.needs)
        counted[place] = p if holds else 0.0
    logs = [math.log(max(p, _LEAST)) for p in chances]
    every = all(p > 0.5 for p in chances)
    return float(np.mean(counted)), float(np.mean(chances)), math.exp(float(np.mean(logs))), float(every)
