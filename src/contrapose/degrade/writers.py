"""What writes degraded prompts: the `Writer` protocol, and a model behind an OpenAI-compatible address."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

from contrapose.endpoints import Endpoint, RefusedInput
from contrapose.errors import UserError
from contrapose.ranges import AtLeast0, Tokens, checked


class Writer(Protocol):
    """Answers whole messages; an answer depends on (message, seed) alone, and on no other message."""

    def write(self, prompts: list[str], seed: int) -> list[str]:
        """Return one answer per message, in order."""
        ...


@dataclass(frozen=True)
@checked
class EndpointWriter:
    """A model behind an endpoint's `/v1/chat/completions`, asked one message after the other."""

    endpoint: Endpoint
    model: str
    temperature: AtLeast0 = 0.7
    max_new_tokens: Tokens = 256

    def write(self, prompts: list[str], seed: int) -> list[str]:
        """Return the answers; UserError where the server cannot be worked with."""
        return [self._answer(prompt, seed) for prompt in prompts]

    def _answer(self, prompt: str, seed: int) -> str:
        question = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
            "seed": seed,
        }
        try:
            answer: Any = self.endpoint.post(question)
        except RefusedInput as refused:
            # an answer like any other that cannot be used: this prompt is left out, and the others go on
            return f"(not answered: {refused})"
        try:
            content = answer["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            begin = json.dumps(answer)[:80]
            raise UserError(
                f"endpoint {self.endpoint.url}: {begin!r} is no chat completion; is it OpenAI-compatible?"
            ) from None
        return content if isinstance(content, str) else ""
