"""The rooms of src/contrapose and the arrows between them, drawn into docs/architecture.md.

    python tests/house/rooms.py        # after rooms or imports have changed; a test tells when that is due

An arrow says that a room imports another. Arrows that follow from others (a imports b, b imports c, and a imports c)
are left out of the drawing, and so is the ground floor, which every room may use.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "contrapose"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->\n", "<!-- /rooms -->\n"

Arrows = dict[str, set[str]]


def rooms() -> list[str]:
    """Folders of the package that hold code."""
    return sorted(folder.name for folder in PACKAGE.iterdir() if folder.is_dir() and any(folder.rglob("*.py")))


def arrows() -> Arrows:
    """For every room the rooms that its files import."""
    every = rooms()
    drawn: Arrows = {room: set() for room in every}
    for room in every:
        for path in (PACKAGE / room).rglob("*.py"):
            names = {name.split(".")[1] for name in _imports(ast.parse(path.read_text(encoding="utf-8")))}
            drawn[room] |= names & set(every) - {room}
    return drawn


def _imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names of this package's modules that a file imports anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("contrapose"):
            yield from ([node.module] if "." in node.module else [f"{node.module}.{a.name}" for a in node.names])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("contrapose."))


def reached(room: str, drawn: Mapping[str, set[str]]) -> set[str]:
    """All rooms that a room comes to by one arrow or more."""
    seen: set[str] = set()
    waiting = list(drawn[room])
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += drawn[other]
    return seen


def circles(drawn: Mapping[str, set[str]]) -> list[str]:
    """Rooms that come back to themselves."""
    return [room for room in drawn if room in reached(room, drawn)]


def reduced(drawn: Mapping[str, set[str]]) -> Arrows:
    """The arrows without those that follow from others."""
    least: Arrows = {}
    for room, targets in drawn.items():
        by_way = {far for target in targets for far in reached(target, drawn)}
        least[room] = targets - by_way
    return least


def drawing() -> str:
    """The drawing and the table of rooms, as Markdown."""
    drawn = arrows()
    least = reduced(drawn)
    lines = ["```mermaid", "flowchart TD"]
    lines += [f"    {room} --> {target}" for room in sorted(least) for target in sorted(least[room])]
    lines += ["```", "", "| room | what it is | imports |", "|---|---|---|"]
    for room in sorted(drawn, key=lambda room: (-len(reached(room, drawn)), room)):
        sentence = (ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or "").partition("\n")[0]
        lines.append(f"| `{room}/` | {sentence} | {', '.join(sorted(drawn[room])) or 'the ground floor alone'} |")
    return "\n".join(lines) + "\n"


def redrawn(page: str) -> str:
    """The page with the drawing as it should be."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + drawing() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
