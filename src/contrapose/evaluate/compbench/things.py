"""The things that a prompt places or counts, in words that a detector of anything is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from contrapose.evaluate.compbench.phrases import DETERMINERS, split_phrases

_PEOPLE = frozenset({"girl", "boy", "man", "woman"})
_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
# The words between the two things of a complex prompt, as the authors' code has them.
_AROUND = re.compile(r"\b(?:on top of|on bottom of|on the left|on the right|next to|on side of|near)\b")
_PLURALS = {
    "men": "man", "women": "woman", "people": "person", "children": "child", "mice": "mouse", "geese": "goose",
    "knives": "knife", "leaves": "leaf", "loaves": "loaf", "shelves": "shelf", "wolves": "wolf", "shoes": "shoe",
    "cookies": "cookie", "pies": "pie", "ties": "tie", "buses": "bus", "sheep": "sheep", "fish": "fish",
}  # fmt: skip


def thing_of(phrase: str) -> str:
    """What a noun phrase names, without its determiner; people of every kind are persons."""
    words = [word for word in phrase.lower().split() if word not in DETERMINERS]
    if words and words[-1] in _PEOPLE:
        return "person"
    return " ".join(words) or phrase.lower()


def things_around(text: str) -> tuple[str, str] | None:
    """The things before and after the place that a complex prompt names; None unless it names just one."""
    places = list(_AROUND.finditer(text))
    if len(places) != 1:
        return None
    before = split_phrases(text[: places[0].start()])
    after = split_phrases(text[places[0].end() :])
    return (thing_of(before[-1]), thing_of(after[0])) if before and after else None


def counts_of(phrases: Sequence[str]) -> list[tuple[str, int]]:
    """The things that phrases count, by their names for one, and how many; phrases without a number are left out."""
    counts: list[tuple[str, int]] = []
    for phrase in phrases:
        number, _, name = phrase.lower().partition(" ")
        if number in _NUMBERS and name:
            words = name.split()
            if _NUMBERS[number] > 1:
                words[-1] = _singular(words[-1])
            counts.append((thing_of(" ".join(words)), _NUMBERS[number]))
    return counts


def _singular(noun: str) -> str:
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    if noun.endswith(("sses", "shes", "ches", "xes", "oes")):
        return noun[:-2]
    return noun.removesuffix("s")
