"""Questions put to a vision-language model on this machine: the chance of the right answer's first token."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image

from contrapose.evaluate.questions.question import ONE_WORD, Question
from contrapose.judges.vision_language import VisionLanguage


class LocalAnswers:
    """p = sum of P(token) over the first tokens of every spelling of every right answer (Soft-TIFA)."""

    def __init__(self, model: VisionLanguage) -> None:
        self._model = model
        self.version = model.version

    def chances(self, image: Image, questions: Sequence[Question]) -> list[float]:
        """Each question alone, so that no other one moves its answer."""
        answers = []
        for question in questions:
            asked = ONE_WORD.format(question=question.text)
            answers.append(float(self._model.chance(image, asked, question.answers)))
        return answers
