"""The flags of a command: the plain settings that its dataclass, and those that it holds, come down to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from contrapose.cli.choices import Unions
from contrapose.cli.docstrings import field_docs
from contrapose.cli.leaf import REQUIRED, Key, Leaf
from contrapose.ranges import field_types


class Blueprint(NamedTuple):
    """A dataclass to be made, with what stands in place of its defaults."""

    cls: type
    template: Any
    chosen: Mapping[Key, Any]
    """What the flags of unions have chosen."""

    def fields(self, key: Key) -> Iterator[tuple[str, Any, Any]]:
        """Name, type and value before any flag of each field."""
        hints = field_types(self.cls)
        for field in dataclasses.fields(self.cls):
            at = (*key, field.name)
            value = self.chosen[at] if at in self.chosen else self._default(field)
            yield field.name, hints[field.name], value

    def _default(self, field: dataclasses.Field[Any]) -> Any:
        if self.template is not None:
            return getattr(self.template, field.name)
        if field.default is not dataclasses.MISSING:
            return field.default
        return REQUIRED if field.default_factory is dataclasses.MISSING else field.default_factory()

    def parts(self, value: Any, hint: Any) -> list[tuple[Key, Blueprint]] | None:
        """The settings that a value holds, each with the step to it; None for a plain value."""
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return [((), Blueprint(type(value), value, self.chosen))]
        if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
            return [((number,), Blueprint(type(each), each, self.chosen)) for number, each in enumerate(value)]
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        # A section that no default fills: its own settings are asked for, each by its flag.
        if value is REQUIRED and isinstance(plain, type) and dataclasses.is_dataclass(plain):
            return [((), Blueprint(plain, None, self.chosen))]
        return None

    def leaves(self, unions: Unions, key: Key = (), prefix: str = "") -> Iterator[Leaf]:
        """Every plain setting, and for each union the flag that chooses."""
        docs = field_docs(self.cls)
        for name, hint, value in self.fields(key):
            at = (*key, name)
            flag = f"{prefix}{name.replace('_', '-')}"
            union = unions.get(name)
            inner = self.parts(value, hint)
            if union is not None:
                names = union.names_of(value)
                yield Leaf(self.cls, at, union.hint(value), names, flag, docs.get(name, ""), True, value)
            elif inner is None:
                yield Leaf(self.cls, at, hint, value, flag, docs.get(name, ""))
            # Below a prefixed union every flag carries the way to it, as in --filters.0.min-side.
            named = prefix or (union is not None and union.prefixed)
            for step, settings in inner or ():
                steps = ".".join([flag, *map(str, step)])
                yield from settings.leaves(unions, (*at, *step), f"{steps}." if named else "")

    def made(self, values: Mapping[Key, Any], key: Key = ()) -> Any:
        """The dataclass with these values of its leaves; each that it holds checks its own as it is made."""
        arguments = {}
        for name, hint, value in self.fields(key):
            at = (*key, name)
            inner = self.parts(value, hint)
            if inner is None:
                arguments[name] = values.get(at, value)
                continue
            parts = [settings.made(values, (*at, *step)) for step, settings in inner]
            arguments[name] = tuple(parts) if isinstance(value, tuple) else parts[0]
        return self.cls(**arguments)
