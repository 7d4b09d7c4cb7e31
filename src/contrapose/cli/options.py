"""Options from dataclasses: every setting a flag, its docstring the help, a union chosen by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from inspect import cleandoc
from typing import Any, TypeVar

from contrapose.cli.boxes import peek
from contrapose.cli.choices import Choice, ModelChoice, Unions
from contrapose.cli.leaf import REQUIRED, Key, Leaf, apart
from contrapose.cli.leaves import Blueprint
from contrapose.cli.mistakes import refuse_lists_in_pieces, refuse_old_names
from contrapose.cli.reading import whole
from contrapose.cli.shortcut import read

__all__ = ["REQUIRED", "Choice", "ModelChoice", "Unions", "flags_of", "parse"]
T = TypeVar("T")


def parse(
    cls: type[T],
    arguments: list[str],
    prog: str,
    default: T | None = None,
    unions: Unions | None = None,
    without: Collection[str] = (),
) -> T:
    """The dataclass that the arguments describe.

    `unions` are the settings whose kind a flag chooses; those in `without` have no flag here.

    Raises `UserError` for flags that are unknown, missing, renamed or without a value that fits, and for lists given
    twice.
    """
    # Twice through the arguments: what is chosen decides which flags there are to be read.
    settings, flags = flags_of(cls, arguments, prog, default, unions)
    flags = [leaf for leaf in flags if leaf.name not in without]
    refuse_old_names(arguments, flags)
    refuse_lists_in_pieces(arguments, flags)
    values = read(flags, arguments, prog, cleandoc(cls.__doc__ or ""))
    return whole(settings.made({leaf.key: values[leaf.key] for leaf in flags if not leaf.chooses}))


def flags_of(
    cls: type, arguments: list[str], prog: str, default: Any = None, unions: Unions | None = None
) -> tuple[Blueprint, list[Leaf]]:
    """What is to be made, and its flags; those of unions among the arguments decide which others there are."""
    chosen: dict[Key, Any] = {}
    settings = Blueprint(cls, default, chosen)
    flags = list(apart(settings.leaves(unions or {})))
    decided: set[Key] = set()
    while choosing := [leaf for leaf in flags if leaf.chooses and leaf.key not in decided]:
        # Again where what is chosen holds a union of its own
        chosen.update(_chosen(choosing, unions or {}, arguments, prog))
        decided.update(leaf.key for leaf in choosing)
        flags = list(apart(settings.leaves(unions or {})))
    return settings, flags


def _chosen(choosing: Sequence[Leaf], unions: Unions, arguments: list[str], prog: str) -> Iterator[tuple[Key, Any]]:
    """What the arguments put in place of unions."""
    usual = {name: union.unless for name, union in unions.items() if union.unless is not None}
    several = {leaf.name: not isinstance(leaf.default, str) for leaf in choosing}
    triggers = {flag: False for flag, _ in usual.values()}
    names = peek(several | triggers, arguments, prog)
    for leaf in choosing:
        kind = names[leaf.name]
        if kind is None and leaf.name in usual and names[usual[leaf.name][0]] is not None:
            kind = usual[leaf.name][1]
        if kind is not None:
            yield leaf.key, unions[leaf.name].made(leaf.flag, kind, leaf.before)
