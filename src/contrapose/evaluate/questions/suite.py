"""The suite "questions": prompts whose lines carry questions, which a vision-language model answers of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from contrapose.backbones.settings import Precision
from contrapose.evaluate.questions.question import questions_of
from contrapose.judges.judge import Judge
from contrapose.ranges import checked
from contrapose.store.prompts import Prompt


@dataclass(frozen=True)
@checked
class Questions:
    """The suite "questions": how sure is a model that each thing the prompt asks for is there?

    GenEval 2's file is read as it is, with Soft-TIFA's numbers; other benchmarks by `questions` in their lines.
    """

    answerer: str = "Qwen/Qwen3-VL-8B-Instruct"
    """Folder or hub id of the chat model that looks at the images; GenEval 2's is the default."""
    precision: Precision = "bf16"
    """Precision of that model."""

    bounds: ClassVar[None] = None
    counted: ClassVar[str] = ""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when the weights are missing or broken, or the model cannot be asked."""
        from contrapose.evaluate.questions.judge import QuestionJudge
        from contrapose.evaluate.questions.local import LocalAnswers
        from contrapose.judges.vision_language import load_chat_model

        return QuestionJudge(LocalAnswers(load_chat_model("questions", self.answerer, self.precision, device)))

    def check(self, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            questions_of(prompt)

    def inputs(self) -> dict[str, str]:
        return {}
