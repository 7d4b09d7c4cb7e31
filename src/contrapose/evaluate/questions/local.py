"""Questions put to a vision-language model on this machine: the chance of the right answer's first token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL.Image import Image

from contrapose.errors import UserError
from contrapose.evaluate.questions.question import Question
from contrapose.judges.vision_language import VisionLanguage

ONE_WORD = "{question} Answer in one word."  # as GenEval 2 asks


class LocalAnswers:
    """p = sum of P(token) over the first tokens of every spelling of every right answer (Soft-TIFA)."""

    def __init__(self, model: VisionLanguage) -> None:
        """Raises `UserError` for a model that cannot be asked."""
        if not model.can_be_asked:
            raise UserError("questions: the model has no chat template, so it cannot be asked; use a chat model")
        self._model = model
        self._tokens: dict[str, list[int]] = {}
        self.version = model.version

    def chances(self, image: Image, questions: Sequence[Question]) -> list[float]:
        """Each question alone, so that no other one moves its answer."""
        answers = []
        for question in questions:
            logits = self._model.first_token(image, ONE_WORD.format(question=question.text))
            right: set[int] = set()  # a token that begins two of the answers counts once
            for word in question.answers:
                if word not in self._tokens:
                    self._tokens[word] = self._model.spellings(word) or self._model.beginnings(word)
                right.update(self._tokens[word])
            answers.append(float(logits.softmax(0)[torch.tensor(sorted(right))].sum()))
        return answers
