"""A degraded prompt beside its prompt: which words are gone, and which are new."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

# a word or a sign; of scripts that leave no space between words, each character
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
Change = Literal["", "new", "gone"]


class MarkedText(NamedTuple):
    """A part of a degraded prompt: the prompt's own, new in it, or the prompt's that is gone from it."""

    text: str
    change: Change


def changed_words(prompt: str, degraded: str) -> tuple[MarkedText, ...]:
    """The degraded prompt in parts, and among them what is gone; without those it reads as it stands, spaces aside."""
    before = list(_WORD.finditer(prompt))
    after = list(_WORD.finditer(degraded))
    old_words = [word[0] for word in before]
    new_words = [word[0] for word in after]
    # autojunk would take words that a long prompt repeats for noise
    matcher = SequenceMatcher(None, old_words, new_words, autojunk=False)
    parts: list[MarkedText] = []
    for operation, first, last, start, end in matcher.get_opcodes():
        if operation == "equal":
            parts += _part(degraded, after[start:end], "")
        else:
            parts += _part(prompt, before[first:last], "gone")
            parts += _part(degraded, after[start:end], "new")
    return tuple(parts)


def _part(text: str, words: Sequence[re.Match[str]], change: Change) -> list[MarkedText]:
    """Some words on end as they stand in their text, behind the space before them, which no change is marked on."""
    if not words:
        return []
    start = words[0].start()
    marked = MarkedText(text[start : words[-1].end()], change)
    spaced = text[start - 1 : start].isspace()
    return [MarkedText(" ", ""), marked] if spaced else [marked]
