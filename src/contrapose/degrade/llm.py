"""Degraded prompts written by a language model, asked with a few examples and checked answer by answer."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar

from contrapose.asking import Asking, Job
from contrapose.contents import digest_of, digest_of_json
from contrapose.degrade.degrader import Degraded, not_degraded
from contrapose.degrade.writers import EndpointWriter, Writer
from contrapose.errors import UserError
from contrapose.files import claimed
from contrapose.ranges import AtLeast0, Batch, Range, Tokens, checked
from contrapose.runfile import Practical
from contrapose.seeds import prompt_seed

FIELD = "degraded_prompts"
FIELDS = (FIELD, "neg_prompts")  # the second is what models answer that were shown DDSPO's own template
MAX_VARIANTS = 5
_SELDOM = 60.0  # seconds between two notes of how far the asking is
_log = logging.getLogger(__name__)
MAX_ANSWER = 20_000  # characters looked at: the search for a JSON object takes quadratic time in the worst case


@dataclass(frozen=True)
@checked
class LanguageModel:
    """Which model degrades prompts and how it is asked: ask, check, ask again with another seed, remember.

    An answer that stays unusable after 1 + num_retries tries leaves its prompt out with a reason. Raises `UserError`
    for an empty `model`.
    """

    model: str = "meta-llama/Meta-Llama-3-8B-Instruct"
    """Folder or hub id of a chat model; with an endpoint, the name that the server knows the model by."""
    endpoint: Practical[str | None] = None
    """Address of a server that speaks OpenAI's protocol; the model runs on this machine when unset."""
    temperature: AtLeast0 = 0.7
    """Temperature of the answers; 0 takes the likeliest words."""
    max_new_tokens: Tokens = 256
    """Tokens after which an answer is cut off."""
    batch_size: Practical[Batch] = 16
    """Prompts that a model on this machine reads at once; a server is asked as asking.at_once says."""
    num_retries: Annotated[int, Range(0, 1000, integer=True)] = 3
    """How often a prompt whose answer cannot be used is asked about again; then it is left out."""
    asking: Asking = field(default_factory=Asking)

    def __post_init__(self) -> None:
        if not self.model:
            raise UserError("model is empty; name a folder, a hub id or the endpoint's model")

    def variants(self, template: str, prompts: Sequence[str], seed: int) -> list[Degraded]:
        """Return up to five degraded prompts each, from the cache where it has them; UserError if nobody answers."""
        keys = self._keys(template, prompts, seed)
        records = self.asking.answers.get(set(keys.values()))
        if _unanswered(keys, records):
            # of several processes that plan the same, one asks, and the others find its answers
            plan = self.asking.answers.path.with_name(f"asking-{digest_of_json(*keys.values())[:16]}")
            in_line_since = time.time()
            with claimed(plan, wait=True):
                records = self.asking.answers.get(set(keys.values()))
                records |= self._answers(template, _unanswered(keys, records), seed, in_line_since)
        degraded: list[Degraded] = []
        for prompt in prompts:
            reply = Reply.of_record(records[keys[prompt]]) if prompt in keys else _EMPTY
            assert reply is not None, "those that somebody has changed were asked for anew"
            degraded.append(reply.degraded(prompt))
        return degraded

    def _answers(self, template: str, keys: Mapping[str, str], seed: int, in_line_since: float) -> dict[str, Any]:
        """Ask about prompts; the records of the replies by their keys."""
        writer = self._writer()
        # a server has many requests under way, and answers each when it is done
        at_once = 1 if self.endpoint else self.batch_size
        prompts = list(keys)
        jobs: list[Job] = []
        for first in range(0, len(prompts), at_once):
            batch = {prompt: keys[prompt] for prompt in prompts[first : first + at_once]}
            jobs.append(partial(self._asked, writer, template, batch, seed))
        asking = self.asking if self.endpoint else replace(self.asking, at_once=1)
        return asking.carry_out(jobs, _Told(at_once, len(prompts)), in_line_since)

    def _keys(self, template: str, prompts: Sequence[str], seed: int) -> dict[str, str]:
        """Each prompt that is not blank, and the key of its answer: of all that decides it.

        That is not the address, since a server may move.
        """
        model = self.model
        if not self.endpoint and Path(model).is_dir():
            model = digest_of(Path(model))
        asked_by = ("endpoint" if self.endpoint else "local", model, self.temperature, self.max_new_tokens)
        parts = (template_text(template), *asked_by, self.num_retries, seed)
        return {prompt: digest_of_json(prompt, *parts) for prompt in prompts if prompt.strip()}

    def _writer(self) -> Writer:
        if self.endpoint:
            endpoint = self.asking.endpoint(self.endpoint)
            return EndpointWriter(endpoint, self.model, self.temperature, self.max_new_tokens)
        from contrapose.degrade.local_writer import LocalWriter  # seconds of torch, needed here alone

        return LocalWriter(self.model, self.temperature, self.max_new_tokens)

    def _asked(self, writer: Writer, template: str, keys: Mapping[str, str], seed: int) -> dict[str, Any]:
        """The records of replies by their keys; prompts whose reply cannot be used are asked about again, each time
        with another seed."""
        replies: dict[str, Reply] = {}
        pending = list(keys)
        for trial in range(1 + self.num_retries):
            questions = [ask(template, prompt) for prompt in pending]
            # 31 bits, which fit whatever integer a server keeps its seed in
            written = writer.write(questions, prompt_seed(seed, trial, bits=31))
            for prompt, answer in zip(pending, written, strict=True):
                replies[prompt] = parse(answer, prompt)
            pending = [prompt for prompt in pending if replies[prompt].ask_again]
            if not pending:
                break
        return {keys[prompt]: reply.record(prompt) for prompt, reply in replies.items()}


def _unanswered(keys: Mapping[str, str], records: Mapping[str, Any]) -> dict[str, str]:
    """The prompts without a reply among the records, and those whose reply somebody has changed."""
    return {prompt: key for prompt, key in keys.items() if Reply.of_record(records.get(key)) is None}


@dataclass
class _Told:
    """Notes once a minute how many prompts were asked about."""

    at_once: int
    total: int
    last: float = field(default_factory=time.monotonic)

    def __call__(self, num_jobs: int) -> None:
        now = time.monotonic()
        if now - self.last >= _SELDOM:
            self.last = now
            done = min(num_jobs * self.at_once, self.total)
            _log.info(f"degrading prompts: {done} of {self.total} are answered")


@dataclass(frozen=True)
class LlmAlignment:
    """Words that carry the composition are left out; structure and style words stay (DDSPO's LLaMA TA).

    Differs from the authors' code: our own instructions and examples, of which as many leave words out as of theirs
    (about four in five; the others generalise or exchange some). The answer is one JSON object, of which at most five
    variants are kept, where theirs keeps all. A model on this machine draws from all of its tokens, where theirs cuts
    at the model's own top_p.
    """

    by_rule: ClassVar[bool] = False
    llm: LanguageModel = field(default_factory=LanguageModel)

    def variants(self, prompts: Sequence[str], seed: int) -> list[Degraded]:
        """Return up to five degraded prompts each; UserError if nobody answers."""
        return self.llm.variants("alignment", prompts, seed)


@dataclass(frozen=True)
class LlmAesthetics:
    """Only the look is degraded: light, colour, sharpness, framing; subject and meaning stay (DDSPO's LLaMA AQ).

    Differs from the authors' code: our own instructions and examples, and no improved prompts are asked for.
    """

    by_rule: ClassVar[bool] = False
    llm: LanguageModel = field(default_factory=LanguageModel)

    def variants(self, prompts: Sequence[str], seed: int) -> list[Degraded]:
        """Return up to five degraded prompts each; UserError if nobody answers."""
        return self.llm.variants("aesthetics", prompts, seed)


@dataclass(frozen=True)
class Reply:
    """What one answer comes to: variants, or the reason why there are none and whether asking again may help."""

    variants: tuple[str, ...]
    reason: str = ""
    ask_again: bool = False

    def record(self, prompt: str) -> dict[str, Any]:
        """The reply as the cache of answers keeps it."""
        return {"prompt": prompt, "variants": list(self.variants), "reason": self.reason}

    @classmethod
    def of_record(cls, record: Any) -> Reply | None:
        """A reply as the cache has it; None where somebody has changed it, so that it is asked for anew."""
        if not isinstance(record, dict):
            return None
        variants = record.get("variants")
        reason = record.get("reason")
        if not isinstance(variants, list) or not all(isinstance(text, str) for text in variants):
            return None
        return cls(tuple(variants), reason) if isinstance(reason, str) else None

    def degraded(self, prompt: str) -> Degraded:
        """What it comes to for a prompt."""
        return self.variants or not_degraded(prompt, self.reason)


_EMPTY = Reply((), "the prompt is empty")  # about which nothing is asked


@cache
def template_text(name: str) -> str:
    """Return the few-shot template of this name."""
    return (files("contrapose.degrade") / "templates" / f"{name}.txt").read_text("utf-8")


def ask(template: str, prompt: str) -> str:
    """Return the whole message: the template with the prompt in it, quoted so that line breaks cannot mislead."""
    return template_text(template).replace("{prompt}", json.dumps(prompt, ensure_ascii=False)).rstrip()


def parse(answer: str, prompt: str) -> Reply:
    """Return the answer's usable variants, or why there are none: too vague a prompt, or an answer to ask for again."""
    listed = _listed(answer[:MAX_ANSWER])
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        begin = " ".join(answer.split())[:80]
        reason = f'the language model gave no JSON object with a list "{FIELD}" of strings: {begin!r}'
        return Reply((), reason, ask_again=True)
    if not listed:
        return Reply((), "the language model found nothing to degrade in the prompt")
    texts = dict.fromkeys(" ".join(text.split()) for text in listed)
    sound = tuple(text for text in texts if _is_sound(text, prompt))
    if not sound:
        return Reply((), "the language model gave only empty, unchanged or overlong prompts", ask_again=True)
    return Reply(sound[:MAX_VARIANTS])


def _listed(answer: str) -> Any:
    """Return the list in the first JSON object that has one, wherever it stands, or None."""
    decoder = json.JSONDecoder()
    # models write before and after what they were asked for, so each brace may be where the object begins
    start = answer.find("{")
    while start >= 0:
        try:
            value, _ = decoder.raw_decode(answer, start)
        except (ValueError, RecursionError):
            value = None
        names = [name for name in FIELDS if isinstance(value, dict) and name in value]
        if names:
            return value[names[0]]
        start = answer.find("{", start + 1)
    return None


def _is_sound(text: str, prompt: str) -> bool:
    """Tell whether a pair can be drawn from this text: one that can be written, is another one, and not endless."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a character, as JSON can spell it
        return False
    unchanged = text.casefold() == " ".join(prompt.split()).casefold()
    return bool(text) and "\0" not in text and not unchanged and len(text) <= 3 * len(prompt) + 200
