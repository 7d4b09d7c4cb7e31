"""Flags in boxes: what the help shows together, and what tyro reads them into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Annotated, Any

import tyro

from contrapose.cli.complaints import in_one_line
from contrapose.cli.groups import ALONE, GROUPS, group_of
from contrapose.cli.leaf import Key, Leaf
from contrapose.cli.metavars import metavar_of

CONFIG = (tyro.conf.AvoidSubcommands, tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitArgPrefixes)


def box(flags: Iterable[Leaf]) -> type:
    """A dataclass with a field for each flag, the settings' keys as its fields' metadata."""
    # Two flags of one command may have settings of one name, so that the fields go by number.
    fields = []
    for number, leaf in enumerate(flags):
        # what has no flag is called by its name, where its type would tell nothing
        metavar = leaf.flag.upper() if leaf.is_positional else metavar_of(leaf.hint)
        hint = "(default: none)" if leaf.default == () else None
        named = tyro.conf.arg(name=leaf.flag, help=leaf.help, metavar=metavar, help_behavior_hint=hint)
        fields.append((f"flag{number}", Annotated[leaf.hint, named], field(default=leaf.default)))
    return make_dataclass("Box", fields, frozen=True)


def read(flags: Sequence[Leaf], arguments: list[str], prog: str, about: str) -> dict[Key, Any]:
    """The value of each flag, in groups where there are many; `about` is what the command does."""
    grouped: dict[str, list[Leaf]] = {}
    for leaf in flags:
        grouped.setdefault(group_of(leaf.key) if len(flags) > ALONE else "", []).append(leaf)
    groups = [grouped[name] for name in ("", *GROUPS) if name in grouped]
    titles = [name for name in ("", *GROUPS) if name in grouped]
    boxes = [box(group)() for group in groups]
    view = [
        (f"box{number}", Annotated[type(each), tyro.conf.arg(name=title, help="")], field(default=each))
        for number, (title, each) in enumerate(zip(titles, boxes, strict=True))
    ]
    with in_one_line(arguments, prog):
        values: Any = tyro.cli(
            make_dataclass("View", view), args=arguments, prog=prog, description=about, config=CONFIG
        )
    filled = [getattr(values, f"box{number}") for number in range(len(boxes))]
    return {
        leaf.key: getattr(each, f"flag{number}")
        for each, group in zip(filled, groups, strict=True)
        for number, leaf in enumerate(group)
    }


def peek(flags: Mapping[str, bool], arguments: list[str], prog: str) -> dict[str, Any]:
    """The words of a few flags before the others are known, several where so said; None for one that is not there."""
    leaves = []
    for name, several in flags.items():
        hint: Any = tuple[str, ...] if several else str
        leaves.append(Leaf(object, (name,), hint | None, None, name.replace("_", "-"), ""))
    with in_one_line(arguments, prog):
        # The flags that are not known yet are no complaint, and -h is for the whole command.
        parsed: tuple[Any, list[str]] = tyro.cli(
            box(leaves), args=arguments, prog=prog, config=CONFIG, return_unknown_args=True, add_help=False
        )
    return {name: getattr(parsed[0], f"flag{number}") for number, name in enumerate(flags)}
