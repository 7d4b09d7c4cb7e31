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


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_drawers(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    words = {word for part in parts for word in part.removeprefix("test_").split("_")}
    assert words.isdisjoint(DRAWERS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sides_are_winner_and_loser(path: Path) -> None:
    assert [name for name in _names(path.read_text(encoding="utf-8")) if SIDES.search(name)] == []


@pytest.mark.parametrize("name", ["rejected", "chosen_latents", "x_rejected", "preferred"])
def test_the_rule_sees(name: str) -> None:
    assert [n for n in _names(f"def f({name}):\n    pass") if SIDES.search(n)] == [name]
