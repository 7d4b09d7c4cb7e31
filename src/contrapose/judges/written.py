"""What a model's answer comes to: a number that it writes, a word, or how likely it was to say that word."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

_LONGEST = 20_000  # characters of an answer that are looked at
_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_KEYS = ("score", "rating")
# Score: 7, **Rating** = 7.5, "score": 7; models write marks of emphasis and quotes around either
_NAMED = re.compile(rf"\b(?:{'|'.join(_KEYS)})\b[\s*_\"'`]*(?:[:=]|\bis\b)[\s*_\"'`]*({_NUMBER})", re.IGNORECASE)
_PLAIN = re.compile(rf"(?<![\w.])({_NUMBER})(?![\w]|\.\d)")
_OF = r"\s*(?:/|out of)\s*"
_BLANK = " \t\r\n▁Ġ"  # the last two are what tokenizers show spaces as


def number_in(text: str, high: float) -> float | None:
    """The number that an answer gives; None where it gives none, or several without saying which.

    It is that of a JSON object's `score` or `rating`, or the object's only one; else the last that follows one of these
    words, as in "Score: 7"; else the only one that the answer holds. The `high` of "7/10" or "7 out of 10" is no number
    of its own.
    """
    text = text[:_LONGEST]
    for fields in _objects(text):
        number = _of_fields(fields)
        if number is not None:
            return number
    ending = re.compile(rf"{_OF}{re.escape(f'{high:g}')}(?:\.0+)?(?![\w]|\.\d)", re.IGNORECASE)
    text = ending.sub(" ", text)
    named = _NAMED.findall(text)
    if named:
        return float(named[-1])
    numbers = _PLAIN.findall(text)
    return float(numbers[0]) if len(numbers) == 1 else None


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of an answer, the last one first: models think before they answer."""
    decoder = json.JSONDecoder()
    for start in reversed([match.start() for match in re.finditer(r"\{", text)][-50:]):
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _of_fields(fields: Mapping[str, Any]) -> float | None:
    numbers = {name.lower(): value for name, value in fields.items() if is_number(value)}
    for key in _KEYS:
        if key in numbers:
            return float(numbers[key])
    return float(next(iter(numbers.values()))) if len(numbers) == 1 else None


def is_number(value: object) -> bool:
    """Whether a value out of JSON is a finite number; yes and no are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def begins_with(text: str, words: Collection[str]) -> bool:
    """Whether an answer begins with one of these words, in capitals or not, and after quotes and the like."""
    begin = re.sub(r"^[\W_]+", "", text.lower())
    return any(re.match(rf"{re.escape(word)}(?!\w)", begin) for word in words)


def chance_of(words: Collection[str], chances: Mapping[str, float]) -> float:
    """P of an answer that is one of these words, in small letters: the sum over every spelling of them.

    `chances` are those of the first token, as far as the server tells them; the others count 0. A word that is no
    token counts by its beginnings of two letters or more.
    """
    tokens = [(token.strip(_BLANK).lower(), p) for token, p in chances.items()]
    total = 0.0
    for word in words:
        p = sum(p for token, p in tokens if token == word)
        if p == 0 and word.isalpha():
            p = sum(p for token, p in tokens if len(token) > 1 and word.startswith(token))
        total += p
    return min(total, 1.0)
