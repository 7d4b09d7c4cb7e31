"""Questions put to a vision-language model behind an address: its first token's chances, or the word that it writes."""

from __future__ import annotations

from collections.abc import Sequence

from contrapose.evaluate.questions.judge import QuestionedImage
from contrapose.evaluate.questions.question import ONE_WORD
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

    @property
    def at_once(self) -> int:
        return self._endpoint.at_once

    def chances(self, asked: Sequence[QuestionedImage]) -> list[list[float]]:
        """Each question by itself, those of all images several under way at once."""
        shown: list[ImageQuestion] = []
        for image, questions in asked:
            shown += [ImageQuestion(image, ONE_WORD.format(question=question.text)) for question in questions]
        answers = iter(self._endpoint.answers(shown, self._form, self._complaint))
        every: list[list[float]] = []
        for _, questions in asked:
            chances = []
            for question in questions:
                said = next(answers)
                if self._form.with_chances:
                    chances.append(chance_of(question.answers, said.chances or {}))
                else:
                    chances.append(float(begins_with(said.text, question.answers)))
            every.append(chances)
        return every

    def _complaint(self, said: Said) -> str | None:
        says_something = self._form.with_chances or said.text.strip()
        return None if says_something else "is no word"
