"""Options from dataclasses: every field a flag, its docstring the help, a union chosen by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import tyro

from contrapose.errors import UserError

T = TypeVar("T")
REQUIRED: Any = tyro.MISSING


def parse(cls: type[T], arguments: list[str], prog: str, default: T | None = None, *, short: bool = False) -> T:
    """The dataclass that the arguments describe; `short` drops the prefixes of nested settings from the flags."""
    config = [tyro.conf.AvoidSubcommands, tyro.conf.CascadeSubcommandArgs]
    if short:
        config.append(tyro.conf.OmitArgPrefixes)
    return tyro.cli(cls, args=arguments, prog=prog, default=default, config=config)


def choice(arguments: list[str], flag: str, table: Mapping[str, T], default: str) -> tuple[T, list[str]]:
    """Take `flag NAME` out of the arguments: the table's entry of that name, and the arguments that are left."""
    rest, name = [], default
    pending = iter(arguments)
    for argument in pending:
        key, given, value = argument.partition("=")
        if key == flag:
            name = value if given else next(pending, "")
        else:
            rest.append(argument)
    if name not in table:
        raise UserError(f"{flag} {name}: not known (choose from {', '.join(table)})")
    return table[name], rest
