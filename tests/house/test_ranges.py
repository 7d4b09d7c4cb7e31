"""Every number of every command declares its range, is checked when it is set, and is right when it is left alone."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from declared import command_classes, numbers_in, reached_from

from contrapose.errors import UserError
from contrapose.ranges import Count, check, checked

REACHED = sorted(set().union(*map(reached_from, command_classes())), key=lambda cls: (cls.__module__, cls.__name__))
WITH_NUMBERS = [cls for cls in REACHED if any(numbers_in(hint) for hint in get_type_hints(cls).values())]


def undeclared(cls: type) -> list[str]:
    """The numbers of a dataclass that have no range, or one of another kind."""
    hints = get_type_hints(cls, include_extras=True)
    numbers = [(name, kind, declared) for name, hint in hints.items() for kind, declared in numbers_in(hint)]
    return [name for name, kind, declared in numbers if declared is None or declared.integer != (kind is int)]


def unchecked(cls: type) -> list[str]:
    """The numbers that are not looked at when one is made."""
    hints = get_type_hints(cls, include_extras=True)
    return [name for name, hint in hints.items() if numbers_in(hint) and not _is_refused(cls, name, hint)]


def _is_refused(cls: type, name: str, hint: Any) -> bool:
    """Whether minus infinity, which is in no range, is refused; every other field is as if it were still to come."""
    made = object.__new__(cls)
    for field in dataclasses.fields(cls):
        object.__setattr__(made, field.name, None)
    value = float("-inf")
    object.__setattr__(made, name, (value,) * len(numbers_in(hint)) if "tuple" in str(hint) else value)
    try:
        getattr(made, "__post_init__", lambda: None)()
    except UserError as error:
        return str(error).startswith(f"{name} -inf")
    except Exception:  # of what comes after
        return False
    return False


def test_settings_are_found() -> None:
    assert {"Optimisation", "Draw", "Sigmoid", "CHATS", "PhotoSize", "Inpaint", "Toy", "Words"} <= {
        c.__name__ for c in REACHED
    }
    assert len(WITH_NUMBERS) >= 40


def _in(cls: type, names: list[str]) -> list[str]:
    return [f"{cls.__module__}.{cls.__name__}.{name}" for name in names]


def test_every_number_declares_its_range() -> None:
    assert [line for cls in WITH_NUMBERS for line in _in(cls, undeclared(cls))] == []
    assert [line for cls in WITH_NUMBERS for line in _in(cls, unchecked(cls))] == []


def out_of_range(cls: type) -> list[str]:
    """The fields whose defaults are refused."""
    hints = get_type_hints(cls, include_extras=True)
    wrong = []
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            try:
                check(field.name, field.default, hints[field.name])
            except UserError:
                wrong.append(field.name)
    return wrong


def test_every_default_is_in_its_range() -> None:
    assert [line for cls in WITH_NUMBERS for line in _in(cls, out_of_range(cls))] == []


def test_the_rule_sees() -> None:
    @dataclasses.dataclass(frozen=True)
    class Bare:
        steps: int = 1
        spans: tuple[float, ...] | None = None
        full: bool = False
        many: Count = 1
        none: Count = -1

    assert undeclared(Bare) == ["steps", "spans"]
    assert unchecked(Bare) == ["steps", "spans", "many", "none"]
    assert unchecked(checked(Bare)) == ["steps", "spans"]
    assert out_of_range(Bare) == ["none"]
