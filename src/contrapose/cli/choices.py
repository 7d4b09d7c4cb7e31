"""Settings that are one of several kinds, chosen by name: `--guidance npo`, `--filters size top-k`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from contrapose.errors import UserError


@dataclass(frozen=True)
class Choice:
    """A setting whose kind is chosen by a flag of its name; where it holds several, the flag takes several names."""

    kinds: Mapping[str, type]
    prefixed: bool = False
    """Whether the flags of what is chosen begin with the setting's name, as in --degrade.low."""
    unless: tuple[str, str] | None = None
    """Another flag, and the kind that is usual where that flag is given."""

    def hint(self, value: Any) -> Any:
        """The type of the flag that chooses what stands in place of a value."""
        names = Literal[tuple(self.kinds)]  # type: ignore[valid-type]
        return tuple[names, ...] if isinstance(value, tuple) else names  # type: ignore[valid-type]

    def names_of(self, value: Any) -> str | tuple[str, ...]:
        """The names of the kinds that a value is of."""
        by_kind = {kind: name for name, kind in self.kinds.items()}
        if isinstance(value, tuple):
            return tuple(by_kind[type(part)] for part in value)
        return by_kind[type(value)]

    def made(self, flag: str, names: str | tuple[str, ...], value: Any) -> Any:
        """What the names stand for, with its usual settings; the value itself where it is of these kinds.

        Raises `UserError` for a name that is none of them.
        """
        several = (names,) if isinstance(names, str) else names
        for name in several:
            if name not in self.kinds:
                raise UserError(f"--{flag} {name}: not known (choose from {', '.join(self.kinds)})")
        if names == self.names_of(value):
            return value
        kinds = tuple(self.kinds[name]() for name in several)
        return kinds[0] if isinstance(names, str) else kinds


@dataclass(frozen=True)
class ModelChoice:
    """A setting that is there when its flag names a model: `--captioner MODEL`, or the usual model without a name."""

    kind: type
    prefixed: bool = True
    unless: None = None

    def hint(self, value: Any) -> Any:
        """The type of the flag, which takes the words of the model's name or none."""
        return tuple[str, ...] | None

    def names_of(self, value: Any) -> None:
        """Nothing: what is there already is kept without a flag."""

    def made(self, flag: str, names: tuple[str, ...], value: Any) -> Any:
        """The settings with this model."""
        return self.kind(" ".join(names)) if names else self.kind()


Unions = Mapping[str, Choice | ModelChoice]
"""The settings, by name, whose kind a flag chooses."""
