"""Questions put to a vision-language model behind an address: its first token's chances, or the word that it writes."""

from __future__ import annotations

from collections.abc import Sequence

from PIL.Image import Image

from contrapose.evaluate.questions.question import ONE_WORD, Question
from contrapose.judges.vision_endpoint import ImageQuestion, Reading, Said, VisionEndpoint
from contrapose.judges.written import begins_with, chance_of


class EndpointAnswers:
    """p as of a model on this machine (Soft-TIFA) where the server tells chances; else 1 or 0 by the word written.

    Of the chances, servers tell the twenty likeliest first tokens; all others count 0.
    """

    def __init__(self, endpoint: VisionEndpoint, reading: Reading) -> None:
        """Raises `UserError` for a server that cannot be worked with."""
        self._endpoint = endpoint
        self._form = endpoint.form(reading)
        self.version = endpoint.version(ONE_WORD, *self._form)

    def chances(self, image: Image, questions: Sequence[Question]) -> list[float]:
        """Each question by itself, several under way at once."""
        asked = [ImageQuestion(image, ONE_WORD.format(question=question.text)) for question in questions]
        answers = self._endpoint.answers(asked, self._form, self._complaint)
        chances = []
        for question, said in zip(questions, answers, strict=True):
            if self._form.with_chances:
                chances.append(chance_of(question.answers, said.chances or {}))
            else:
                chances.append(float(begins_with(said.text, question.answers)))
        return chances

    def _complaint(self, said: Said) -> str | None:
        says_something = self._form.with_chances or said.text.strip()
        return None if says_something else "is no word"
