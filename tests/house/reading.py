"""How the code reads, in numbers: density, comments, names. `python tests/house/reading.py [FOLDER ...]` prints them.

The rules that the house's tests hold are functions here; each gives lines such as `core/links.py:12 two
comprehensions`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SRC = Path(__file__).parents[2] / "src" / "contrapose"
DENSE = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
VAGUE = {
    "found", "told", "some", "one", "own", "there", "made", "given", "known", "whole", "others", "theirs", "ours",
    "thing", "things", "stuff", "tmp", "res", "ret",
}  # fmt: skip
SHORTEST = 4  # lines of a private function that one place alone calls
COMPOUND = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass
class Source:
    """A parsed file."""

    path: Path
    text: str = field(repr=False)
    tree: ast.Module = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.path.relative_to(SRC) if self.path.is_relative_to(SRC) else self.path)


def sources(folders: Sequence[Path] = (SRC,)) -> list[Source]:
    """The Python files below these folders, or the files themselves."""
    paths = [p for folder in folders for p in (sorted(folder.rglob("*.py")) if folder.is_dir() else [folder])]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [Source(path, text, ast.parse(text)) for path, text in zip(paths, texts, strict=True)]


def statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, list[ast.AST]]]:
    """Every statement with the expressions that stand in it, without those of the statements inside it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            yield node, list(_expressions(node))


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    waiting = [child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.stmt)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]


def dense(source: Source) -> Iterator[str]:
    """Statements with more than one comprehension, ternary or lambda in them."""
    for statement, expressions in statements(source.tree):
        count = sum(isinstance(node, DENSE) for node in expressions)
        if count > 1:
            yield f"{source.name}:{statement.lineno} {count} comprehensions, ternaries or lambdas in one statement"


def unrelated(source: Source) -> Iterator[str]:
    """Assignments of several values to as many names at once; two names that trade values are one thought."""
    for statement, _ in statements(source.tree):
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Tuple):
            target = statement.targets[0]
            if isinstance(target, ast.Tuple) and not _trades(target, statement.value):
                yield f"{source.name}:{statement.lineno} assigns several values at once"


def _trades(target: ast.Tuple, value: ast.Tuple) -> bool:
    return {ast.unparse(node) for node in target.elts} == {ast.unparse(node) for node in value.elts}


def vague(source: Source) -> Iterator[str]:
    """Names that say nothing of what they hold."""
    for node in ast.walk(source.tree):
        name = None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        if name in VAGUE:
            yield f"{source.name}:{node.lineno} a name that says nothing: {name}"  # type: ignore[attr-defined]


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _helpers(source: Source) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    functions = [n for n in ast.walk(source.tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [f for f in functions if f.name.startswith("_") and not f.name.startswith("__")]


def used_once(source: Source) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Private functions that one place of their file alone names; one with a decorator is called by other means."""
    names = Counter(re.findall(r"\b_\w+", source.text))
    return [f for f in _helpers(source) if names[f.name] == 2 and not f.decorator_list]


def short_helpers(source: Source) -> Iterator[str]:
    """Private functions of a line or three that one place alone calls: they belong there.

    One that is handed on as a value, such as a part of a family, has no place to be put.
    """
    for function in used_once(source):
        is_called = len(re.findall(rf"\b{function.name}\(", source.text)) == 2  # its definition, and a call
        if is_called and _length(function) < SHORTEST:
            where = f"{source.name}:{function.lineno}"
            yield f"{where} {function.name} is called once, and short: put it where it is called"


def twice(files: Sequence[Source]) -> list[str]:
    """Public classes whose name another file has too."""
    places: dict[str, list[str]] = {}
    for source in files:
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(source.name)
    return [f"{name}: {', '.join(files)}" for name, files in sorted(places.items()) if len(files) > 1]


@dataclass
class Counts:
    """What is counted of a set of files."""

    lines: int = 0
    code: int = 0
    width: int = 0
    comments: int = 0
    inline: int = 0
    comprehensions: int = 0
    tuples: int = 0
    functions: int = 0
    once: int = 0
    dense: int = 0
    statements: int = 0

    def add(self, source: Source) -> None:
        """Count a file too."""
        rows = source.text.splitlines()
        bare, comments = _comment_lines(source.text)
        prose = bare | _docstring_lines(source.tree)
        code = [row for number, row in enumerate(rows, 1) if row.strip() and number not in prose]
        nodes = list(ast.walk(source.tree))
        self.lines += len(rows)
        self.code += len(code)
        self.width += sum(len(row) for row in code)
        self.comments += len(bare)
        self.inline += comments - len(bare)
        self.comprehensions += sum(isinstance(node, COMPREHENSIONS) for node in nodes)
        self.tuples += sum(1 for _ in unrelated(source))
        self.functions += sum(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in nodes)
        self.once += len(used_once(source))
        self.dense += sum(1 for _ in dense(source))
        self.statements += sum(isinstance(node, ast.stmt) for node in nodes)

    def row(self) -> str:
        """The figures as in the reading of the anchors."""
        per = 100 / max(self.code, 1)
        return (
            f"{self.lines:7} {self.code:7} {self.width / max(self.code, 1):6.1f} {self.comments * per:9.1f} "
            f"{self.inline * per:7.1f} {self.comprehensions * per:7.1f} {self.tuples * per:7.1f} "
            f"{self.functions * per:6.1f} {100 * self.once / max(self.functions, 1):6.0f} % {self.dense:6}"
        )


HEAD = "  lines    code  width comments  inline  compr.  tuples  funct.   once    dense"


def _comment_lines(text: str) -> tuple[set[int], int]:
    """Numbers of the lines that are a comment alone, and how many comments there are; tools' marks are none."""
    bare: set[int] = set()
    count = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(noqa|type:|fmt:)", token.string):
            count += 1
            if not token.line[: token.start[1]].strip():
                bare.add(token.start[0])
    return bare, count


def _docstring_lines(tree: ast.Module) -> set[int]:
    """Lines of strings that stand alone: docstrings, and what is said of a field below it."""
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    strings = [n for n in nodes if isinstance(n.value.value, str)]  # type: ignore[attr-defined]
    return {line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


RULES = (dense, unrelated, vague, short_helpers)


def main() -> None:
    folders = [Path(argument).resolve() for argument in sys.argv[1:]] or [SRC]
    files = sources(folders)
    for rule in RULES:
        for source in files:
            print(*rule(source), sep="\n", end="" if not list(rule(source)) else "\n")
    print(*twice(sources()), sep="\n")
    rooms: dict[str, Counts] = {}
    for source in files:
        parts = source.path.relative_to(SRC).parts if source.path.is_relative_to(SRC) else source.path.parts[-1:]
        room = parts[0] if len(parts) > 1 else "(ground)"
        rooms.setdefault(room, Counts()).add(source)
        rooms.setdefault("all", Counts()).add(source)
    print(f"{'room':12}{HEAD}")
    for room, counts in sorted(rooms.items(), key=lambda item: item[0] == "all"):
        print(f"{room:12}{counts.row()}")


if __name__ == "__main__":
    main()
