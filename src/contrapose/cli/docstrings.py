"""What stands in the source beneath the fields of settings, for the help."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring beneath each field of a class, or of the nearest class that it is built on, in one line."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    # Python keeps no such text, so that it is read from the source: a constant that follows an annotated name.
    docs = {}
    for statement, following in zip(node.body, node.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = _text(following)
            if text is not None:
                docs[statement.target.id] = text
    inherited: dict[str, str] = {}
    for base in reversed(cls.__mro__[1:-1]):  # the nearest one last, whose word counts
        if "__annotations__" in vars(base):
            inherited |= field_docs(base)
    return inherited | docs


def _text(statement: ast.stmt) -> str | None:
    """A statement that is nothing but a text."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        value = statement.value.value
        return " ".join(value.split()) if isinstance(value, str) else None
    return None


def first_sentence(cls: type) -> str:
    """What a class is, as its docstring begins."""
    text = " ".join((cls.__doc__ or "").split())
    return text.partition(". ")[0].rstrip(".")
