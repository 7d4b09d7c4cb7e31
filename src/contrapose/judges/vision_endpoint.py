"""A vision-language model behind an OpenAI-compatible address, shown one image at a time with one question."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

from PIL import Image

from contrapose.asking import Asking, Job
from contrapose.contents import digest_of_json, digest_of_parts
from contrapose.endpoints import RefusedInput, RefusedRequest, only_model
from contrapose.errors import UserError, one_line
from contrapose.judges.shown import as_png, digest_of_pixels

PROTOCOL = 1
"""Counted up when what is sent, or how an answer is read, changes: numbers of two protocols do not compare."""
_TRIES = 3  # of an answer that cannot be used
_ALTERNATIVES = 20  # the most first tokens that servers tell of
_WORD_TOKENS = 16  # of an answer of one word, which may begin with marks and blanks
_PROBE = "Is this image grey? Answer yes or no."

Reading = Literal["either", "chance", "word"]
"""By the chances of the answer's first token, by the word that is written, or the first where the server tells them."""


class ImageQuestion(NamedTuple):
    """An image and what is asked about it."""

    image: Image.Image
    question: str


class Said(NamedTuple):
    """An answer: its text, and of its first token the likeliest ones with their chances, where they were asked for."""

    text: str
    chances: Mapping[str, float] | None


class Form(NamedTuple):
    """How an answer is asked for: so many tokens at most, and with the chances of the first one or without."""

    max_tokens: int
    with_chances: bool


CHANCES = Form(1, True)
WORD = Form(_WORD_TOKENS, False)

Complaint = Callable[[Said], str | None]
"""Why an answer cannot be used; None where it can."""


class VisionEndpoint:
    """A model that `user` asks, by the name that the server knows it by; its only one where the name is empty."""

    def __init__(self, user: str, address: str, model: str, asking: Asking) -> None:
        """Raises `UserError` for an address that is none, and for a server whose model has to be named."""
        self.user = user
        self.endpoint = asking.endpoint(address)
        self.model = model or only_model(self.endpoint, f"name the model that {user} is to ask")
        self._asking = asking

    @property
    def at_once(self) -> int:
        """Requests that are under way at once."""
        return self._asking.at_once

    def version(self, *parts: object) -> str:
        """A digest of the model's name, of how it is asked and of `parts`, what else decides a number.

        The address is not among them: a server may move.
        """
        return digest_of_parts([PROTOCOL, self.model, *parts])

    def form(self, reading: Reading) -> Form:
        """How a word is asked for. Whether chances are told is tried once for each model, and kept with the answers."""
        if reading != "either":
            return CHANCES if reading == "chance" else WORD
        cache = self._asking.answers
        key = digest_of_json(PROTOCOL, self.model, "does it tell chances?")
        tells = cache.get([key]).get(key)
        if not isinstance(tells, bool):
            tells = self._tells_chances()
            cache.add({key: tells})
        return CHANCES if tells else WORD

    def answers(self, shown: Sequence[ImageQuestion], form: Form, complaint: Complaint) -> list[Said]:
        """An answer to each question, from the cache where it is there; each depends on its image and question alone.

        One that `complaint` finds unusable is asked for again, with a temperature of 1 and another seed, three times in
        all. Raises `UserError` for one that stays so, and where the server cannot be worked with.
        """
        digests = {id(image): digest_of_pixels(image) for image, _ in shown}
        keys = []
        for image, question in shown:
            keys.append(digest_of_json(PROTOCOL, self.model, *form, digests[id(image)], question))
        answers: dict[str, Said] = {}
        for key, record in self._asking.answers.get(set(keys)).items():
            said = _of_record(record)
            # one that another judge could use, or that somebody has changed, is asked for anew
            if said is not None and self._complaint(said, form, complaint) is None:
                answers[key] = said
        missing = {key: each for key, each in zip(keys, shown, strict=True) if key not in answers}
        urls = {id(image): _Sent(image) for image, _ in missing.values()}
        jobs: list[Job] = []
        for key, each in missing.items():
            jobs.append(partial(self._answered, key, each.question, urls[id(each.image)], form, complaint))
        for key, record in self._asking.carry_out(jobs).items():
            answers[key] = Said(*record)
        return [answers[key] for key in keys]

    def _tells_chances(self) -> bool:
        grey = _data_url(Image.new("RGB", (64, 64), (128, 128, 128)))
        try:
            return self._said(_PROBE, grey, CHANCES, 0).chances is not None
        except RefusedRequest as refused:
            if "logprobs" in refused.reason.lower():
                return False
            raise

    def _answered(self, key: str, question: str, sent: _Sent, form: Form, complaint: Complaint) -> dict[str, Said]:
        # the chances of a first token are the same each time
        num_tries = 1 if form.with_chances else _TRIES
        for trial in range(num_tries):
            said = self._said(question, sent.url, form, trial)
            reason = self._complaint(said, form, complaint)
            if reason is None:
                return {key: said}
        raise UserError(
            f"{self.user}: {self.endpoint.url}: {_short(said.text)} to {_short(question)} {reason}; ask another "
            "question, or another model"
        )

    def _complaint(self, said: Said, form: Form, complaint: Complaint) -> str | None:
        if form.with_chances and said.chances is None:
            return "comes without the chances of its first token (logprobs)"
        return complaint(said)

    def _said(self, question: str, url: str, form: Form, trial: int) -> Said:
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
        payload: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": form.max_tokens,
            "temperature": 0,
        }
        if form.with_chances:
            # some servers tell chances as the temperature leaves them: those of 1 are the model's own
            payload |= {"logprobs": True, "top_logprobs": _ALTERNATIVES, "temperature": 1, "top_p": 1}
        elif trial:
            payload |= {"temperature": 1, "seed": trial}
        try:
            answer = self.endpoint.post(payload)
        except RefusedInput as refused:
            raise UserError(
                f"{self.user}: {self.endpoint.url}: refuses an image, or the question {_short(question)} ({refused}); "
                "ask another model, or leave out this prompt"
            ) from None
        said = _of_completion(answer)
        if said is None:
            raise UserError(
                f"{self.user}: {self.endpoint.url}: {_short(json.dumps(answer))} is no chat completion; is it "
                "OpenAI-compatible?"
            )
        return said


@dataclass
class _Sent:
    """An image as it is sent, which whoever asks first makes of it: many are packed beside one another."""

    image: Image.Image

    @cached_property
    def url(self) -> str:
        return _data_url(self.image)


def _data_url(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(as_png(image)).decode("ascii")


def _of_completion(answer: Any) -> Said | None:
    """What a chat completion says; None for anything else."""
    try:
        choice = answer["choices"][0]
        content = choice["message"]["content"]
        logprobs = choice.get("logprobs") or {}
        tokens = logprobs.get("content") or []
        alternatives = tokens[0].get("top_logprobs") if tokens else None
        chances = _chances(alternatives) if alternatives else None
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    return Said(content if isinstance(content, str) else "", chances)


def _chances(alternatives: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """P by token; several tokens may be the same text. Raises `ValueError` for what is no logarithm of a chance."""
    chances: dict[str, float] = {}
    for alternative in alternatives:
        token = alternative["token"]
        logarithm = alternative["logprob"]
        p = 0.0 if logarithm is None else math.exp(min(float(logarithm), 1.0))
        if not isinstance(token, str) or not p <= 1.001:  # also where it is not a number
            raise ValueError("no chance")
        chances[token] = chances.get(token, 0.0) + p
    return chances


def _of_record(record: Any) -> Said | None:
    """An answer as the cache has it; None where somebody has changed it."""
    if not isinstance(record, list) or len(record) != 2 or not isinstance(record[0], str):
        return None
    text, chances = record
    if chances is None:
        return Said(text, None)
    sound = isinstance(chances, dict) and all(isinstance(p, float) and 0 <= p <= 1.1 for p in chances.values())
    return Said(text, chances) if sound else None


def _short(text: str) -> str:
    line = one_line(text)
    return repr(line if len(line) <= 80 else f"{line[:80]} ...")
