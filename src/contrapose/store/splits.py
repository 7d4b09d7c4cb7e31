"""Which prompts are tuned on, and which are reported on: decided by their words alone, the same on every machine.

A prompt's place does not depend on the order of its file, nor on what else stands in it, so that a list that grows, or
a second one that repeats some of it, moves no prompt from dev to test.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from contrapose.seeds import seed_of
from contrapose.store.prompts import Prompt, canonical


@dataclass(frozen=True)
class PromptSplit:
    """Prompts for two uses, each in the order of its file."""

    dev: list[Prompt]
    test: list[Prompt]


def by_canonical(prompts: Iterable[Prompt]) -> dict[str, Prompt]:
    """By canonical text, the first prompt of it."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(canonical(prompt.text), prompt)
    return first


def distinct(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The first of all prompts whose canonical texts are the same."""
    return list(by_canonical(prompts).values())


def chosen(prompts: Sequence[Prompt], number: int, seed: int = 0) -> list[Prompt]:
    """So many of the prompts, by the smallest hashes; fewer where there are not as many."""
    ranked = sorted(prompts, key=lambda prompt: _draw("choose", prompt, seed))
    kept = {canonical(prompt.text) for prompt in ranked[:number]}
    return [prompt for prompt in prompts if canonical(prompt.text) in kept]


def split(prompts: Iterable[Prompt], dev_share: float, seed: int = 0) -> PromptSplit:
    """Dev and test: a prompt is in dev where u < dev_share, u in [0, 1) being drawn by the hash of its words."""
    parts = PromptSplit([], [])
    for prompt in prompts:
        part = parts.dev if _draw("split", prompt, seed) < dev_share else parts.test
        part.append(prompt)
    return parts


def as_lines(prompts: Iterable[Prompt]) -> str:
    """Prompts as JSON lines, which `read_prompts` reads back."""
    lines = [json.dumps({"prompt": prompt.text, **prompt.fields}, ensure_ascii=False) for prompt in prompts]
    return "".join(f"{line}\n" for line in lines)


def described(prompts: Sequence[Prompt]) -> list[str]:
    """What a list of prompts holds, in plain lines: how many, how many twice, by category, and how long they are."""
    num_distinct = len(distinct(prompts))
    words = sorted(len(prompt.text.split()) for prompt in prompts)
    lines = [f"{len(prompts)} prompts, {num_distinct} of them different"]
    tags = Counter(prompt.tag for prompt in prompts)
    if set(tags) != {None}:
        for tag, number in tags.items():
            lines.append(f"  {tag or 'without a category'}: {number}")
    lines.append(f"words: {words[0]} to {words[-1]}, half of the prompts up to {words[(len(words) - 1) // 2]}")
    fields = Counter(name for prompt in prompts for name in prompt.fields)
    if fields:
        lines.append(f"fields: {', '.join(fields)}")
    return lines


def _draw(use: str, prompt: Prompt, seed: int) -> float:
    """A number in [0, 1) by 53 bits, all that a float holds, over the use, the seed and the canonical text."""
    return seed_of(use, seed, canonical(prompt.text), bits=53, between=" ") / 2**53
