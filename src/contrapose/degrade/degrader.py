"""Degraded prompts: the same wish, said worse, so that one model gives both the winner and the loser of a pair."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar, Protocol

from contrapose.containers.left_out import LeftOut
from contrapose.degrade.word_exchange import exchanges
from contrapose.errors import UserError
from contrapose.ranges import Few, Range, checked
from contrapose.seeds import python_stream

Degraded = tuple[str, ...] | LeftOut
"""A prompt's distinct degraded variants, one at least, or the prompt left out with the reason why it has none."""

NOT_DEGRADED = "not degraded"
"""The kind of what is left out because it cannot be degraded."""
_AT_ONCE = 4096  # prompts that are degraded together


def not_degraded(prompt: str, reason: str) -> LeftOut:
    """Return the prompt as one that is left out because it cannot be degraded."""
    return LeftOut(prompt, NOT_DEGRADED, reason)


class Degrader(Protocol):
    """What every degrader does; what it returns for a prompt depends on (settings, seed, prompt) alone."""

    by_rule: ClassVar[bool]
    """Whether it begins at once, so that a long list of prompts is given to it a part at a time."""

    def variants(self, prompts: Sequence[str], seed: int) -> list[Degraded]:
        """Return for each prompt, in order, its degraded variants or why it has none."""
        ...


@dataclass(frozen=True)
@checked
class Words:
    """Random removal (DDSPO): max(1, int(ratio * n)) of n whitespace words dropped, ratio ~ U(low, high), order kept.

    Each of `num_trials` draws a ratio and the words; up to `num_variants` distinct results are kept.
    Differs from the authors' code: each prompt has a random stream of its own (theirs is one stream through the file,
    so a prompt's variants there change with the prompts before it).
    """

    by_rule: ClassVar[bool] = True
    low: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.4
    """Smallest share of a prompt's words that is dropped."""
    high: Annotated[float, Range(0, 1, low_open=True, high_open=True)] = 0.7
    """Largest share of a prompt's words that is dropped."""
    num_variants: Few = 5
    """Degraded prompts that are kept of each prompt, at most; a pair takes one of them by its seed."""
    num_trials: Few = 5
    """Draws for each prompt, of which the distinct ones are kept."""

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UserError(f"words: low {self.low} is more than high {self.high}")

    def variants(self, prompts: Sequence[str], seed: int) -> list[Degraded]:
        """Return up to `num_variants` shortened prompts each; a prompt of fewer than two words is left out."""
        return [self._shortened(prompt, python_stream(seed, "words", prompt)) for prompt in prompts]

    def _shortened(self, prompt: str, rng: random.Random) -> Degraded:
        words = prompt.split()
        if len(words) < 2:
            return not_degraded(prompt, "fewer than two words between spaces: nothing can be dropped")
        texts: dict[str, None] = {}  # as a set that keeps its order
        for _ in range(self.num_trials):
            num_dropped = max(1, int(rng.uniform(self.low, self.high) * len(words)))
            kept = words.copy()
            for place in rng.sample(range(len(words)), num_dropped):
                kept[place] = ""
            texts[" ".join(filter(None, kept))] = None
        # all trials are drawn even if fewer are kept: a larger num_variants adds some and changes none
        return tuple(texts)[: self.num_variants]


@dataclass(frozen=True)
@checked
class Swap:
    """Composition altered by rule: attributes, objects or relations of an English prompt exchanged or replaced.

    Exchanges come first, in random order; replacements of attributes that stand alone fill what is left.
    "a cat and a dog" is left out: the exchange says the same thing again, and the same wish is no worse one.
    """

    by_rule: ClassVar[bool] = True
    num_variants: Few = 5
    """Degraded prompts that are kept of each prompt, at most; a pair takes one of them by its seed."""

    def variants(self, prompts: Sequence[str], seed: int) -> list[Degraded]:
        """Return up to `num_variants` altered prompts each; a prompt that no rule fits is left out."""
        return [self._altered(prompt, python_stream(seed, "swap", prompt)) for prompt in prompts]

    def _altered(self, prompt: str, rng: random.Random) -> Degraded:
        texts: dict[str, None] = {}  # as a set that keeps its order
        for text in exchanges(prompt, rng):
            if text != prompt:
                texts[text] = None
            if len(texts) == self.num_variants:
                break
        if not texts:
            return not_degraded(prompt, "no attribute, relation or pair of objects that a rule could exchange")
        return tuple(texts)


def degraded(degrader: Degrader, prompts: Iterable[str], seed: int) -> Iterator[tuple[str, Degraded]]:
    """Each prompt with its variants; of a degrader by rule, few of them are in memory at a time."""
    waiting = iter(prompts)
    while part := list(islice(waiting, _AT_ONCE if degrader.by_rule else None)):
        yield from zip(part, degrader.variants(part, seed), strict=True)


def choose(variants: Sequence[str], seed: int, prompt: str) -> str:
    """Return the one variant that the pair uses: drawn uniformly, the same for the same (variants, seed, prompt)."""
    assert variants, "a prompt that is left out has no variant to choose"
    return python_stream(seed, "choose", prompt).choice(tuple(variants))
