"""The rules of how code reads, held in all of the sources; `python tests/house/reading.py` measures more."""

from __future__ import annotations

import ast
import importlib.util
import sys
from functools import cache
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("reading", Path(__file__).with_name("reading.py"))
assert _spec and _spec.loader
reading = importlib.util.module_from_spec(_spec)
sys.modules["reading"] = reading  # dataclasses look for their module there
_spec.loader.exec_module(reading)

_sources = cache(reading.sources)

RULES = ("dense", "unrelated", "vague", "short_helpers")
SAME_NAMES = {"Command"}  # each command has its own


@pytest.mark.parametrize("rule", RULES)
def test_the_sources_keep_the_rules_of_reading(rule: str) -> None:
    lines = [line for source in _sources() for line in getattr(reading, rule)(source)]
    assert lines == []


def test_no_further_class_has_the_name_of_another() -> None:
    assert {line.partition(":")[0] for line in reading.twice(_sources())} == SAME_NAMES


def _source(text: str) -> object:
    return reading.Source(Path("a.py"), text, ast.parse(text))


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("dense", "a = [x for y in z for x in y]", "a = [x for x in (y for y in z)]"),
        ("dense", "a = f(lambda: 1)\nb = 1 if c else 2", "a = f(lambda: 1 if c else 2)"),
        ("unrelated", "a, b = b, a\nc, d = f()", "a, b = 1, 2"),
        ("vague", "message = 1", "told = 1"),
        ("vague", "def f(records): ...", "def f(some): ..."),
        ("short_helpers", "def _f():\n    a\n    b\n    c\n    d\n\n_f()", "def _f():\n    return 1\n\n_f()"),
        ("short_helpers", "def _f():\n    return 1\n\nf = g(read=_f)", "def _f():\n    return 1\n\nf = g(_f())"),
        ("short_helpers", "def _f():\n    return 1\n\n_f() + _f()", "def _f():\n    return 1\n\nx = _f() + 1"),
    ],
)
def test_the_rules_see(rule: str, good: str, bad: str) -> None:
    assert list(getattr(reading, rule)(_source(good))) == []
    assert len(list(getattr(reading, rule)(_source(bad)))) == 1
