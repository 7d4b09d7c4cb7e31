"""Files stay within 400 lines and functions within 60, nothing excluded."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

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


def _too_long(paths: Iterable[Path], most: int) -> list[str]:
    """The files of more lines than `most`, and how many they have."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    return [f"{path.relative_to(ROOT)}: {length} lines" for path, length in lengths.items() if length > most]


def test_files_are_short() -> None:
    assert _too_long(FILES, MAX_FILE) == []


def test_functions_are_short() -> None:
    long = []
    for path in FILES:
        functions = _functions(path.read_text(encoding="utf-8"))
        long += [f"{path.relative_to(ROOT)}: {name}" for name, length in functions if length > MAX_FUNCTION]
    assert long == []


def test_commands_are_thin() -> None:
    commands = sorted((ROOT / "src/contrapose/cli").glob("*.py"))
    assert commands and _too_long(commands, MAX_COMMAND) == []


def test_the_rule_sees_long_files() -> None:
    length = len(Path(__file__).read_text(encoding="utf-8").splitlines())
    assert _too_long([Path(__file__)], length) == []
    assert _too_long([Path(__file__)], length - 1) == [f"tests/house/test_sizes.py: {length} lines"]


def test_the_rule_sees_long_functions() -> None:
    source = "class A:\n    async def f(self):\n" + "        pass\n" * MAX_FUNCTION
    assert list(_functions(source)) == [("f", MAX_FUNCTION + 1)]
