"""A question about each image, put to a vision-language model behind an address: a number it writes, or yes or no."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from PIL.Image import Image

from contrapose.asking import Asking
from contrapose.judges.judge import Judge, Marks
from contrapose.judges.shown import check_metric_name
from contrapose.judges.vision_endpoint import Form, ImageQuestion, Reading, Said, VisionEndpoint
from contrapose.judges.written import begins_with, chance_of, number_in
from contrapose.ranges import Number, Rising, Tokens, check_unused, checked
from contrapose.runfile import Practical
from contrapose.store.prompts import Prompt

RATE = (
    'This image was made from the prompt "{prompt}". How well does it show what the prompt asks for, and how good does '
    "it look? Answer with one number from LOW (not at all) to HIGH (perfectly), in this form: Score: N"
)
SHOWS = 'Does this image show "{prompt}"? Answer yes or no.'
_LONGEST_REASON = 500  # characters


@dataclass(frozen=True)
@checked
class EndpointQuestion:
    """The number that a vision-language model writes about each image, or how sure it is of yes.

    With yes-no the score is P(yes) / (P(yes) + P(no)) of the answer's first token where the server tells these chances,
    else 1 for a written yes and 0 for a written no. A number is the one after "score" or "rating", in JSON or not, or
    the only one of the answer. Raises `UserError` for settings that do not go together.
    """

    address: Practical[str] = "http://127.0.0.1:8000/v1"
    """Address of a server that speaks OpenAI's protocol, such as vLLM's."""
    model: str = ""
    """The name that the server knows the model by; its only one when empty."""
    question: str = ""
    """What is asked; `{prompt}` in it stands for the image's prompt. When empty, how well it shows that prompt."""
    expect: Literal["number", "yes-no"] = "number"
    """What the answer is."""
    interval: Annotated[tuple[Number, Number], Rising()] = (0.0, 10.0)
    """The lowest and the highest number that an answer may be; of yes-no it is 0 to 1."""
    lower_is_better: bool = False
    """Whether the lower of two numbers is the better one."""
    reading: Reading = "either"
    """How a yes or no is read: by the chances of its first token, by the word written, or the first where told."""
    max_new_tokens: Tokens = 256
    """Tokens after which an answer that is a number is cut off."""
    metric: str = "endpoint"
    """What the number is called in tables and pages; several such judges need a name each."""
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        check_metric_name("metric", self.metric)
        of_other = ("interval", "max_new_tokens") if self.expect == "yes-no" else ("reading",)
        check_unused(self, of_other, f"is nothing to an answer that is a {self.expect}")

    def load(self, device: str) -> Judge:
        """Raises `UserError` for an address that is none, and for a server that cannot be worked with."""
        endpoint = VisionEndpoint(self.metric, self.address, self.model, self.asking)
        low, high = self.interval
        if self.expect == "yes-no":
            return yes_no_judge(self.metric, endpoint, self.question or SHOWS, self.reading, not self.lower_is_better)
        question = self.question or RATE.replace("LOW", f"{low:g}").replace("HIGH", f"{high:g}")

        def value(said: Said) -> float | None:
            number = number_in(said.text, high)
            return number if number is not None and low <= number <= high else None

        version = endpoint.version(question, low, high, self.max_new_tokens)
        form = Form(self.max_new_tokens, with_chances=False)
        complaint = f"is no number from {low:g} to {high:g}"
        return EndpointJudge(self.metric, version, not self.lower_is_better, endpoint, question, form, value, complaint)


@dataclass(frozen=True)
class EndpointJudge:
    """A judge of one number by a model's answers, and by what `value` reads in one: None where it cannot be used."""

    name: str
    version: str
    is_better_higher: bool
    endpoint: VisionEndpoint
    question: str
    form: Form
    value: Callable[[Said], float | None]
    complaint: str

    @property
    def higher_is_better(self) -> dict[str, bool]:
        return {self.name: self.is_better_higher}

    @property
    def at_once(self) -> int:
        return self.endpoint.at_once

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        """Raises `UserError` for an answer that cannot be used, and where the server cannot be worked with."""
        shown = []
        for image, prompt in zip(images, prompts, strict=True):
            shown.append(ImageQuestion(image, self.question.replace("{prompt}", prompt.text)))

        def unusable(said: Said) -> str | None:
            return self.complaint if self.value(said) is None else None

        answers = self.endpoint.answers(shown, self.form, unusable)
        values = np.array([self.value(said) for said in answers], dtype=np.float64)
        reasons: list[str | None] = []
        for said in answers:
            words = said.text.split()
            # a bare number, or a word, gives no reason
            reasons.append(" ".join(words)[:_LONGEST_REASON] if len(words) > 2 else None)
        return {self.name: Marks(values, reasons)}


def yes_no_judge(
    metric: str, endpoint: VisionEndpoint, question: str, reading: Reading, is_better_higher: bool = True
) -> EndpointJudge:
    """How sure the model is of yes: P(yes) / (P(yes) + P(no)) by chances, 1 or 0 by the word that it writes."""
    form = endpoint.form(reading)

    def by_chances(said: Said) -> float | None:
        yes = chance_of(["yes"], said.chances or {})
        no = chance_of(["no"], said.chances or {})
        return yes / (yes + no) if yes + no > 0 else None

    def by_word(said: Said) -> float | None:
        if begins_with(said.text, ["yes"]):
            return 1.0
        return 0.0 if begins_with(said.text, ["no"]) else None

    value = by_chances if form.with_chances else by_word
    version = endpoint.version(question, *form)
    complaint = "is neither yes nor no"
    return EndpointJudge(metric, version, is_better_higher, endpoint, question, form, value, complaint)
