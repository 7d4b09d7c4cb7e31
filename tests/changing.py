"""Settings with some of them changed, wherever among the settings that they hold they stand."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


def changed(settings: T, **values: Any) -> T:
    """The same settings with these values; `KeyError` for a name that is nowhere among them."""
    assert is_dataclass(settings) and not isinstance(settings, type)
    names = {field.name for field in fields(settings)}
    changes = {name: values.pop(name) for name in names & values.keys()}
    for name in names - changes.keys():
        part = getattr(settings, name)
        inner = {field.name for field in fields(part)} & values.keys() if is_dataclass(part) else set()
        if inner:
            changes[name] = replace(part, **{field: values.pop(field) for field in inner})
    if values:
        raise KeyError(*values)
    return replace(settings, **changes)
