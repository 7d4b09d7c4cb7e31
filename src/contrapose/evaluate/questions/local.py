"""Questions put to a vision-language model on this machine: the chance of the right answer's first token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from contrapose.evaluate.questions.judge import QuestionedImage
from contrapose.evaluate.questions.question import ONE_WORD
from contrapose.judges.vision_language import VisionLanguage


class LocalAnswers:
    """p = sum of P(token) over the first tokens of every spelling of every right answer (Soft-TIFA)."""

    def __init__(self, model: VisionLanguage) -> None:
        self._model = model
        self.version = model.version

    at_once: ClassVar[int] = 1

    def chances(self, asked: Sequence[QuestionedImage]) -> list[list[float]]:
        """Each question alone, so that no other one moves its answer."""
        every: list[list[float]] = []
        for image, questions in asked:
            chances = []
            for question in questions:
                text = ONE_WORD.format(question=question.text)
                chances.append(float(self._model.chance(image, text, question.answers)))
            every.append(chances)
        return every
