"""Looks made worse by rule: praise of them leaves a prompt, and words of bad looks come where such words stand."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from contrapose.degrade.degrader import Degraded, not_degraded
from contrapose.degrade.looks import (
    BAD_ADJECTIVES,
    BAD_PHRASES,
    PRAISE,
    Praise,
    says,
    takes_lead_in,
    with_lead_in,
    with_tail,
)
from contrapose.errors import UserError
from contrapose.ranges import Few, checked
from contrapose.seeds import python_stream
from contrapose.store.named_prompts import named_prompts

_DRAWS = 4  # for each variant that is wanted, since some come out alike


@dataclass(frozen=True)
@checked
class Quality:
    """Only the look is degraded, by rule: praise of it goes, words of bad looks come, and what is shown stays.

    "a professional photo of a professional dancer, 8k" may become "a blurry, grainy photo of a professional dancer", or
    "a photo of a professional dancer, harsh lighting, dull". It does without a language model what DDSPO's LLaMA AQ
    asks one for, with that template's words among the usual ones.
    """

    by_rule: ClassVar[bool] = True
    num_phrases: Few = 2
    """Words or phrases of bad looks that are put into a prompt."""
    num_variants: Few = 5
    """Degraded prompts that are kept of each prompt, at most; a pair takes one of them by its seed."""
    place: Literal["any", "lead-in", "tail"] = "any"
    """Where bad looks are told: lead-in as in "a blurry photo of a cat", tail as in "a cat, blurry"; any takes both."""
    adjectives: tuple[str, ...] = ()
    """Words of bad looks for lead-in and tail, such as blurry: typed, or files of one a line. Usual ones, and usual
    phrases, where neither these nor phrases are named."""
    phrases: tuple[str, ...] = ()
    """Phrases of bad looks for the tail alone, such as "harsh lighting": typed, or files of one a line."""
    praise: tuple[str, ...] = ()
    """Words and phrases that are taken out, such as "sharp focus": typed, or files of one a line; usual ones when
    empty."""

    def __post_init__(self) -> None:
        for name in ("adjectives", "phrases", "praise"):
            if not all(entry.strip(" ,") for entry in getattr(self, name)):
                raise UserError(f"{name}: holds an empty text; write words, or the name of a file of them")
        if self.place == "lead-in" and self.phrases and not self.adjectives:
            raise UserError("place lead-in: has adjectives alone, and there are only phrases; name adjectives")

    def variants(self, prompts: Sequence[str], seed: int) -> list[Degraded]:
        """Return up to `num_variants` prompts of worse looks each.

        A prompt is left out that shows nothing but praise, or that has no place for a word which it does not say yet.
        Raises `UserError` for a file of words that cannot be read.
        """
        praise = Praise(_listed(self.praise) or PRAISE)
        adjectives = _listed(self.adjectives)
        phrases = _listed(self.phrases)
        if not adjectives and not phrases:
            adjectives = BAD_ADJECTIVES
            phrases = BAD_PHRASES
        texts = []
        for prompt in prompts:
            rng = python_stream(seed, "quality", prompt)
            texts.append(self._worse(prompt, praise.taken_out(prompt), adjectives, phrases, rng))
        return texts

    def _worse(
        self, prompt: str, plain: str, adjectives: Sequence[str], phrases: Sequence[str], rng: random.Random
    ) -> Degraded:
        if not plain:
            return not_degraded(prompt, "shows nothing but praise of its looks, or nothing at all")
        unsaid = [word for word in adjectives if not says(plain, word)]
        ways: list[tuple[Callable[[str, Sequence[str]], str], list[str]]] = []
        if self.place != "tail" and unsaid and takes_lead_in(plain):
            ways.append((with_lead_in, unsaid))
        unsaid = [*unsaid, *(phrase for phrase in phrases if not says(plain, phrase))]
        if self.place != "lead-in" and unsaid:
            ways.append((with_tail, unsaid))
        if not ways:
            return not_degraded(prompt, "has no place for a word of bad looks that it does not say already")
        texts: dict[str, None] = {}  # as a set that keeps its order
        for _ in range(_DRAWS * self.num_variants):
            write, words = rng.choice(ways)
            texts[write(plain, rng.sample(words, min(self.num_phrases, len(words))))] = None
        # the draws of fewer variants come first: a larger num_variants adds some and changes none
        return tuple(texts)[: self.num_variants]


def _listed(entries: Sequence[str]) -> tuple[str, ...]:
    """Words and phrases that are typed or listed in files, each once; commas part them as line breaks do.

    Raises `UserError` for an entry that is blank, and for files as prompts do.
    """
    if not entries:
        return ()
    parts = [part.strip() for prompt in named_prompts(entries) for part in prompt.text.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))
