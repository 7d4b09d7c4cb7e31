"""Files stay within 400 lines and functions within 60, nothing excluded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [p for folder in ("src", "tests", "benchmarks", "recipes") for p in sorted((ROOT / folder).rglob("*.py"))]
MAX_FILE, MAX_FUNCTION = 400, 60
MAX_COMMAND = 80  # lines of a module of the command line, which parses, calls and prints


def _functions(source: str) -> Iterator[tuple[str, int]]:
    """Name and number of lines, decorators aside."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


def test_files_are_found() -> None:
    assert len(FILES) > 60


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_size(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_FILE
    assert [name for name, length in _functions(source) if length > MAX_FUNCTION] == []


@pytest.mark.parametrize("path", sorted((ROOT / "src/contrapose/cli").glob("*.py")), ids=lambda p: p.name)
def test_commands_are_thin(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_COMMAND


def test_the_rule_sees_long_functions() -> None:
    source = "class A:\n    async def f(self):\n" + "        pass\n" * MAX_FUNCTION
    assert list(_functions(source)) == [("f", MAX_FUNCTION + 1)]
