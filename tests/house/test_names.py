"""Names say what a thing is: no drawers for odds and ends, and `winner` and `loser` for the two sides."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [p for folder in ("src", "tests", "benchmarks", "recipes") for p in sorted((ROOT / folder).rglob("*.py"))]
SOURCES = [p for p in FILES if p.is_relative_to(ROOT / "src")]
DRAWERS = {"utils", "util", "misc", "common", "helpers", "helper"}
SIDES = re.compile(r"(^|_)(rejected|preferred|unpreferred|dispreferred)($|_)|(^|_)chosen_|^chosen_")


def _names(source: str) -> Iterator[str]:
    """Everything that the source itself gives a name to."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _words(path: Path) -> set[str]:
    return {word for part in path.with_suffix("").parts for word in part.removeprefix("test_").split("_")}


def test_no_drawers() -> None:
    assert _words(Path("tests/core/test_more_utils.py")) & DRAWERS == {"utils"}
    assert [path for path in FILES if _words(path.relative_to(ROOT)) & DRAWERS] == []


def test_sides_are_winner_and_loser() -> None:
    sides = []
    for path in SOURCES:
        names = _names(path.read_text(encoding="utf-8"))
        sides += [f"{path.relative_to(ROOT)}: {name}" for name in names if SIDES.search(name)]
    assert sides == []


@pytest.mark.parametrize("name", ["rejected", "chosen_latents", "x_rejected", "preferred"])
def test_the_rule_sees(name: str) -> None:
    assert [n for n in _names(f"def f({name}):\n    pass") if SIDES.search(n)] == [name]
