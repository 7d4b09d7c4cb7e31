"""Degraded prompts: the same wish, said worse, so that one model gives both the winner and the loser of a pair."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from contrapose.degrade.word_exchange import exchanges
from contrapose.errors import UserError
from contrapose.ranges import Few, Range, checked
from contrapose.seeds import python_stream


class Skipped(tuple[str, ...]):
    """The empty tuple of variants of a prompt that cannot be degraded, with the `reason` for `skipped.jsonl`."""

    reason: str

    def __new__(cls, reason: str) -> "Skipped":
        skipped = super().__new__(cls)
        skipped.reason = reason
        return skipped


class Degrader(Protocol):
    """What every degrader does; what it returns for a prompt depends on (settings, seed, prompt) alone."""

    def variants(self, prompts: Sequence[str], seed: int) -> list[tuple[str, ...]]:
        """Return for each prompt its distinct degraded variants, or `Skipped(reason)`, which equals ()."""
        ...


@dataclass(frozen=True)
@checked
class Words:
    """Random removal (DDSPO): max(1, int(ratio * n)) of n whitespace words dropped, ratio ~ U(low, high), order kept.

    Each of `num_trials` draws a ratio and the words; up to `num_variants` distinct results are kept.
    Differs from the authors' code: each prompt has a random stream of its own (theirs is one stream through the file,
    so a prompt's variants there change with the prompts before it).
    """

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

    def variants(self, prompts: Sequence[str], seed: int) -> list[tuple[str, ...]]:
        """Return up to `num_variants` shortened prompts each; a prompt of fewer than two words is skipped."""
        return [self._shortened(prompt, python_stream(seed, "words", prompt)) for prompt in prompts]

    def _shortened(self, prompt: str, rng: random.Random) -> tuple[str, ...]:
        words = prompt.split()
        if len(words) < 2:
            return Skipped("fewer than two words between spaces: nothing can be dropped")
        found: dict[str, None] = {}
        for _ in range(self.num_trials):
            num_dropped = max(1, int(rng.uniform(self.low, self.high) * len(words)))
            dropped = set(rng.sample(range(len(words)), num_dropped))
            found[" ".join(word for place, word in enumerate(words) if place not in dropped)] = None
        return tuple(found)[: self.num_variants]


@dataclass(frozen=True)
@checked
class Swap:
    """Composition altered by rule: attributes, objects or relations of an English prompt exchanged or replaced.

    Exchanges come first, in random order; replacements of attributes that stand alone fill what is left.
    "a cat and a dog" is skipped: the exchange says the same thing again, and the same wish is no worse one.
    """

    num_variants: Few = 5
    """Degraded prompts that are kept of each prompt, at most; a pair takes one of them by its seed."""

    def variants(self, prompts: Sequence[str], seed: int) -> list[tuple[str, ...]]:
        """Return up to `num_variants` altered prompts each; a prompt that no rule fits is skipped."""
        return [self._altered(prompt, python_stream(seed, "swap", prompt)) for prompt in prompts]

    def _altered(self, prompt: str, rng: random.Random) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for text in exchanges(prompt, rng):
            if text != prompt:
                found[text] = None
            if len(found) == self.num_variants:
                break
        return tuple(found) or Skipped("no attribute, relation or pair of objects that a rule could exchange")


def choose(variants: Sequence[str], seed: int, prompt: str) -> str:
    """Return the one variant that the pair uses: drawn uniformly, the same for the same (variants, seed, prompt)."""
    assert variants, "a skipped prompt has no variant to choose"
    return python_stream(seed, "choose", prompt).choice(tuple(variants))
