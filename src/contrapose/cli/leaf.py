"""One flag of a command: a plain setting, somewhere among the settings of its dataclass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, get_args

import tyro

REQUIRED: Any = tyro.MISSING
Key = tuple[str | int, ...]
"""The way to a setting through those that hold it, as a file of them has it."""


class Leaf(NamedTuple):
    """One setting that a flag gives."""

    owner: type
    key: Key
    hint: Any
    default: Any
    flag: str
    """As it is typed, without the dashes in front."""
    help: str
    chooses: bool = False
    """Whether it names a kind, whose own settings are leaves too."""
    before: Any = None
    """What the kind that is chosen stands in place of."""

    @property
    def name(self) -> str:
        """The setting's own name."""
        return str(self.key[-1])

    @property
    def is_list(self) -> bool:
        """Whether the flag takes any number of values."""
        options = (self.hint, *get_args(self.hint))  # where it is one type of several too
        return any(... in get_args(option) for option in options)

    @property
    def is_positional(self) -> bool:
        """Whether it is typed without a flag."""
        return tyro.conf.Positional in get_args(self.hint)


def apart(leaves: Iterable[Leaf]) -> Iterator[Leaf]:
    """The leaves; one whose flag an earlier one has takes the way to it for its flag, as --spoil.steps."""
    taken: set[str] = set()
    for leaf in leaves:
        way = ".".join(map(str, leaf.key)).replace("_", "-")
        yield leaf._replace(flag=way) if leaf.flag in taken else leaf
        taken.add(leaf.flag)
