"""The suite "questions": prompts whose lines carry questions, which a vision-language model answers of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from contrapose.asking import Asking
from contrapose.backbones.settings import Precision
from contrapose.evaluate.questions.question import questions_of
from contrapose.judges.judge import Judge
from contrapose.judges.vision_endpoint import Reading, VisionEndpoint
from contrapose.ranges import check_unused, checked
from contrapose.runfile import Practical
from contrapose.store.prompts import Prompt

USUAL = "Qwen/Qwen3-VL-8B-Instruct"


@dataclass(frozen=True)
@checked
class Questions:
    """The suite "questions": how sure is a model that each thing the prompt asks for is there?

    GenEval 2's file is read as it is, with Soft-TIFA's numbers; other benchmarks by `questions` in their lines.
    """

    answerer: str | None = None
    """Folder or hub id of the chat model that looks at the images, when unset GenEval 2's Qwen3-VL-8B-Instruct; with
    judge, the name that the server knows the model by, its only one when unset."""
    precision: Precision = "bf16"
    """Precision of a model on this machine."""
    judge: Practical[str | None] = None
    """Address of a server that speaks OpenAI's protocol and asks the model there, such as http://127.0.0.1:8000/v1."""
    reading: Reading = "either"
    """With judge: answers by the chances of their first token, by the word written, or the first where told."""
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        if self.judge is None:
            check_unused(self, ("reading", "asking"), "is of a server, and none is named with --judge")
        else:
            check_unused(self, ("precision",), "is the server's")

    bounds: ClassVar[None] = None
    counted: ClassVar[str] = ""
    title: ClassVar[str] = ""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when weights are missing or broken, or the model cannot be asked."""
        from contrapose.evaluate.questions.judge import QuestionJudge

        if self.judge is not None:
            from contrapose.evaluate.questions.over_http import EndpointAnswers

            endpoint = VisionEndpoint("questions", self.judge, self.answerer or "", self.asking)
            return QuestionJudge(EndpointAnswers(endpoint, self.reading))
        from contrapose.evaluate.questions.local import LocalAnswers
        from contrapose.judges.vision_language import load_chat_model

        return QuestionJudge(LocalAnswers(load_chat_model("questions", self.answerer or USUAL, self.precision, device)))

    def check(self, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            questions_of(prompt)

    def inputs(self) -> dict[str, str]:
        return {}
