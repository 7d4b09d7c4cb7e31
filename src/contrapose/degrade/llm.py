"""Degraded prompts written by a language model, asked with a few examples and checked answer by answer."""

import hashlib
import json
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar

from contrapose.degrade.answers import Answers
from contrapose.degrade.degrader import Skipped
from contrapose.degrade.writers import EndpointWriter, Writer
from contrapose.errors import UserError
from contrapose.ranges import AtLeast0, Batch, Range, Tokens, checked
from contrapose.seeds import prompt_seed

FIELD = "degraded_prompts"
FIELDS = (FIELD, "neg_prompts")  # the second is what models answer that were shown DDSPO's own template
MAX_VARIANTS = 5
MAX_ANSWER = 20_000  # characters looked at: the search for a JSON object takes quadratic time in the worst case


@dataclass(frozen=True)
@checked
class _Llm(ABC):
    """What the two share: ask, check, ask again with another seed, remember.

    `model` is a folder or hub id; with `endpoint` it is the name that server knows the model by. An answer that stays
    unusable after 1 + num_retries tries skips its prompt with a reason. `batch_size` and `cache` decide no result.
    """

    model: str = "meta-llama/Meta-Llama-3-8B-Instruct"
    """Folder or hub id of a chat model; with an endpoint, the name that the server knows the model by."""
    endpoint: str | None = None
    """Address of a server that speaks OpenAI's protocol; the model runs on this machine when unset."""
    temperature: AtLeast0 = 0.7
    """Temperature of the answers; 0 takes the likeliest words."""
    max_new_tokens: Tokens = 256
    """Tokens after which an answer is cut off."""
    batch_size: Batch = 16
    """Prompts that are asked about at once; decides no result."""
    num_retries: Annotated[int, Range(0, 1000, whole=True)] = 3
    """How often a prompt whose answer cannot be used is asked about again; then it is left out."""
    cache: Path | None = None
    """File that keeps the answers, so that nothing is asked twice; decides no result."""

    template: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError(f"{self.template}: model is empty; name a folder, a hub id or the endpoint's model")

    def variants(self, prompts: Sequence[str], seed: int) -> list[tuple[str, ...]]:
        """Return up to five degraded prompts each, from the cache where it has them; UserError if nobody answers."""
        answers = Answers(Path(self.cache) if self.cache else None)
        keys = {prompt: self._key(prompt, seed) for prompt in prompts}
        todo = [prompt for prompt, key in keys.items() if prompt.strip() and answers.get(key) is None]
        if todo:
            writer = self._writer()
            for start in range(0, len(todo), self.batch_size):
                batch = todo[start : start + self.batch_size]
                found = self._asked(writer, batch, seed)
                answers.add({keys[prompt]: _as_record(prompt, found[prompt]) for prompt in batch})
        return [_from_record(answers.get(keys[prompt])) for prompt in prompts]

    def _writer(self) -> Writer:
        if self.endpoint:
            return EndpointWriter(self.endpoint, self.model, self.temperature, self.max_new_tokens)
        from contrapose.degrade.local_writer import LocalWriter  # seconds of torch, needed here alone

        return LocalWriter(self.model, self.temperature, self.max_new_tokens)

    def _asked(self, writer: Writer, prompts: list[str], seed: int) -> dict[str, tuple[str, ...]]:
        """Return each prompt's variants; those answered badly are asked again, each time with a seed of its own."""
        found: dict[str, tuple[str, ...]] = {}
        pending = prompts
        for trial in range(1 + self.num_retries):
            written = writer.write(
                [ask(self.template, prompt) for prompt in pending], prompt_seed(seed, trial, bits=31)
            )
            for prompt, answer in zip(pending, written, strict=True):
                found[prompt] = parse(answer, prompt)
            pending = [prompt for prompt in pending if isinstance(found[prompt], Unusable)]
            if not pending:
                break
        return found

    def _key(self, prompt: str, seed: int) -> str:
        where = "endpoint" if self.endpoint else "local"  # not the address: a server may move
        settings = (self.temperature, self.max_new_tokens, self.num_retries)
        parts = [prompt, template_text(self.template), where, self.model, *settings, seed]
        return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class LlmAlignment(_Llm):
    """Words that carry the composition are left out; structure and style words stay (DDSPO's LLaMA TA).

    Differs from the authors' code: our own instructions and examples, of which as many leave words out as of theirs
    (about four in five; the others generalise or exchange some). The answer is one JSON object, of which at most five
    variants are kept, where theirs keeps all. A model on this machine draws from all of its tokens, where theirs cuts
    at the model's own top_p.
    """

    template: ClassVar[str] = "alignment"


@dataclass(frozen=True)
class LlmAesthetics(_Llm):
    """Only the look is degraded: light, colour, sharpness, framing; subject and meaning stay (DDSPO's LLaMA AQ).

    Differs from the authors' code: our own instructions and examples, and no improved prompts are asked for.
    """

    template: ClassVar[str] = "aesthetics"


class Unusable(Skipped):
    """No variants because the answer cannot be used, so that asking again may help."""


@cache
def template_text(name: str) -> str:
    """Return the few-shot template of this name."""
    return (files("contrapose.degrade") / "templates" / f"{name}.txt").read_text("utf-8")


def ask(template: str, prompt: str) -> str:
    """Return the whole message: the template with the prompt in it, quoted so that line breaks cannot mislead."""
    return template_text(template).replace("{prompt}", json.dumps(prompt, ensure_ascii=False)).rstrip()


def parse(answer: str, prompt: str) -> tuple[str, ...]:
    """Return the answer's usable variants, or why there are none: `Skipped` (too vague) or `Unusable` (ask again)."""
    listed = _listed(answer[:MAX_ANSWER])
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        begin = " ".join(answer.split())[:80]
        return Unusable(f'the language model gave no JSON object with a list "{FIELD}" of strings: {begin!r}')
    if not listed:
        return Skipped("the language model found nothing to degrade in the prompt")
    texts = dict.fromkeys(" ".join(text.split()) for text in listed)
    sound = tuple(text for text in texts if _is_sound(text, prompt))
    return sound[:MAX_VARIANTS] or Unusable("the language model gave only empty, unchanged or overlong prompts")


def _listed(answer: str) -> Any:
    """Return the list in the first JSON object that has one, wherever it stands, or None."""
    decoder = json.JSONDecoder()
    start = answer.find("{")
    while start >= 0:
        try:
            found, _ = decoder.raw_decode(answer, start)
        except (ValueError, RecursionError):
            found = None
        named = [field for field in FIELDS if isinstance(found, dict) and field in found]
        if named:
            return found[named[0]]
        start = answer.find("{", start + 1)
    return None


def _is_sound(text: str, prompt: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    unchanged = text.casefold() == " ".join(prompt.split()).casefold()
    return bool(text) and "\0" not in text and not unchanged and len(text) <= 3 * len(prompt) + 200


def _as_record(prompt: str, variants: tuple[str, ...]) -> dict[str, Any]:
    return {"prompt": prompt, "variants": list(variants), "reason": getattr(variants, "reason", "")}


def _from_record(record: Any) -> tuple[str, ...]:
    if record is None:
        return Skipped("the prompt is empty")
    return tuple(record["variants"]) or Skipped(record["reason"])
