"""The noun phrases of a prompt, each of which becomes a question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from contrapose.documents import load_json
from contrapose.errors import UserError
from contrapose.store.prompts import Prompt

MOST = 8  # phrases of a prompt that are asked about, in T2I-CompBench
DETERMINERS = frozenset({"a", "an", "the", "some", "his", "her", "its", "their", "this", "that", "these", "those"})
# Prepositions, conjunctions, pronouns, auxiliaries and the verbs of such prompts: what stands between noun phrases.
_WORDS_BETWEEN = """
about above across after against along among and around as at atop away before behind below beneath beside between
beyond but by down during for from in inside into it near next of off on onto or out outside over she he they through to
towards under underneath up upon while which who whose with within without is are was were be been being has have had
having does do did sits sit sitting stands stand standing lies lie lying hangs hang hanging rests rest resting hidden
toward placed holds hold holding wears wear wearing looks look looking
"""
_BETWEEN = frozenset(_WORDS_BETWEEN.split())
_NO_THINGS = frozenset({"top", "the top", "the side", "side", "the left", "left", "the right", "right", "front"})
_PART = re.compile(r"[\w'-]+|[^\w\s]")


def split_phrases(text: str) -> list[str]:
    """The noun phrases by rule: runs of words between prepositions, verbs and marks, anew at each article.

    Differs from the authors' code, which takes spaCy's noun chunks: verbs that are no auxiliaries and not in the list
    stay in a phrase. `top`, `the side`, `the left` and `the right` are no phrases, as in theirs.
    """
    phrases: list[list[str]] = [[]]
    for part in _PART.findall(text):
        word = part.lower()
        is_word = part[0].isalnum()
        if not is_word or word in _BETWEEN:
            phrases.append([])
            continue
        if word in DETERMINERS:
            phrases.append([])
        phrases[-1].append(part)
    named: list[str] = []
    for words in phrases:
        phrase = " ".join(words)
        is_thing = phrase and phrase.lower() not in _NO_THINGS | DETERMINERS
        if is_thing:
            named.append(phrase)
    return named


class Phrases:
    """The phrases of each prompt: those of a file where there is one, by the rule otherwise."""

    def __init__(self, path: Path | None) -> None:
        """Raises `UserError` for a file that is not {prompt: [phrase, ...]}."""
        self._path = path
        self._listed: Mapping[str, Sequence[str]] | None = None if path is None else read_phrases(path)

    def of(self, prompt: Prompt) -> list[str]:
        """At most `MOST`; `UserError` for a prompt that the file lacks, or that has none."""
        text = prompt.text
        if self._listed is not None and text not in self._listed:
            raise UserError(f"{self._path}: has no phrases of the prompt {text!r}; add them")
        phrases = split_phrases(text) if self._listed is None else list(self._listed[text])
        if not phrases:
            raise UserError(f"prompt {text!r}: has no noun phrases to ask about; give them with --phrases")
        return phrases[:MOST]


@cache
def read_phrases(path: Path) -> Mapping[str, Sequence[str]]:
    """{prompt: [phrase, ...]}; raises `UserError` for any other file."""
    listed: Any = load_json(path, "fix it")
    if not isinstance(listed, dict):
        raise UserError(f'{path}: is not {{"prompt": ["phrase", ...]}}; fix it')
    for text, phrases in listed.items():
        is_list = isinstance(phrases, list) and bool(phrases)
        if not is_list or not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases):
            raise UserError(f"{path}: the phrases of {text!r} are not a list of texts; fix it")
    return dict(listed)
