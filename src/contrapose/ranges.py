"""Ranges of numbers, declared where a setting is declared and checked when the settings are made.

    @dataclass(frozen=True)
    @checked
    class Optimisation:
        steps: Count = 200
        weight_decay: AtLeast0 = 1e-2

A number outside its range, one that is not finite, and a yes or no in a number's place are refused in one wording,
whether they come from the command line, a file or Python.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Hashable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from contrapose.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, either end left out where it is said to be open."""

    low: float
    high: float
    low_open: bool = False
    high_open: bool = False
    integer: bool = False
    even: bool = False

    def __contains__(self, value: float) -> bool:
        if self.even and value % 2:
            return False
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below  # not so for one that is no number, and both ends are finite

    def __str__(self) -> str:
        kind = "a whole number" if self.integer else "a number"
        if self.even:
            kind = "an even number"
        start = f"above {_written(self.low)}" if self.low_open else f"from {_written(self.low)}"
        end = f"to below {_written(self.high)}" if self.high_open else f"up to {_written(self.high)}"
        return f"{kind} {start} {end}"


@dataclass(frozen=True)
class Rising:
    """Two numbers, the lower one first."""


def _written(bound: float) -> str:
    return str(int(bound)) if float(bound).is_integer() and abs(bound) < 1e15 else f"{bound:g}"


_LARGE = 1e12  # no length, scale or strength of this field comes near it
_MANY = 10**9  # steps, and what is done every so many of them

Count = Annotated[int, Range(1, _MANY, integer=True)]
"""How many of something there are: one at least."""
CountOrNone = Annotated[int, Range(0, _MANY, integer=True)]
"""How many of something there are, none being possible; of what is done every so many steps, 0 is never."""
Batch = Annotated[int, Range(1, 2**20, integer=True)]
"""How many of something are in memory together."""
Few = Annotated[int, Range(1, 1000, integer=True)]
"""How many of something that is done anew for every prompt or photograph: one at least."""
Tokens = Annotated[int, Range(1, 2**17, integer=True)]
"""Tokens of a text that a network reads or writes."""
Steps = Annotated[int, Range(1, 1000, integer=True)]
"""Steps of a sampler: models are trained at no more noise levels."""
Rank = Annotated[int, Range(1, 2**13, integer=True)]
"""The rank of low-rank adapters: beyond any layer's width they are no longer of low rank."""
Pixels = Annotated[int, Range(1, 2**15, integer=True)]
"""One side of an image."""
Seed = Annotated[int, Range(0, 2**63 - 1, integer=True)]
"""What random numbers start from."""
Positive = Annotated[float, Range(0, _LARGE, low_open=True)]
"""A number above 0."""
AtLeast0 = Annotated[float, Range(0, _LARGE)]
"""A number of 0 or more."""
AtLeast1 = Annotated[float, Range(1, _LARGE)]
"""A number of 1 or more."""
Number = Annotated[float, Range(-_LARGE, _LARGE)]
"""Any number that is finite."""
Share = Annotated[float, Range(0, 1)]
"""A share, none and all included."""
ShareAbove0 = Annotated[float, Range(0, 1, low_open=True)]
"""A share that is never none."""
Interval = Annotated[tuple[Share, Share], Rising()]
"""From one share to a higher one."""
ShareBelow1 = Annotated[float, Range(0, 1, high_open=True)]
"""A share that is never all."""


def checked(cls: type[T]) -> type[T]:
    """Make a dataclass check its declared ranges when it is made, before what its own `__post_init__` does.

    To be written beneath `@dataclass`. Making one raises `UserError` naming the setting, its value and its range.
    """
    post_init: Callable[[Any], None] | None = getattr(cls, "__post_init__", None)

    def check_both(self: Any) -> None:
        check_ranges(self)
        if post_init is not None:
            post_init(self)

    cls.__post_init__ = check_both  # type: ignore[attr-defined]
    return cls


def check_unused(settings: Any, names: Collection[str], why: str) -> None:
    """Raise `UserError` for the first of a dataclass's settings of these names that is not what it is when left out.

    `why` says, behind its name, why it is of no use beside the others.
    """
    for setting in fields(settings):
        usual = setting.default if setting.default_factory is MISSING else setting.default_factory()
        if setting.name in names and getattr(settings, setting.name) != usual:
            raise UserError(f"{setting.name}: {why}; leave it out")


def check_ranges(settings: object) -> None:
    """Raise `UserError` for the first number of these settings that is not in its declared range."""
    cls = cast(Hashable, type(settings))  # mypy takes a class's __hash__ for that of its instances
    for name, hint in field_types(cls).items():
        check(name, getattr(settings, name), hint)


@cache
def field_types(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name, with what they are annotated with."""
    hints = get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in cls.__dataclass_fields__}  # type: ignore[attr-defined]


def check(name: str, value: Any, hint: Any) -> None:
    """Raise `UserError` for a number, or one in a tuple, that is not in the range that its type declares."""
    origin = get_origin(hint)
    if origin is Annotated:
        for declared in hint.__metadata__:
            if isinstance(declared, Range):
                _check_number(name, value, declared)
        check(name, value, get_args(hint)[0])
        # after the range of each number, so that a number outside it is named alone
        if Rising() in hint.__metadata__ and isinstance(value, (tuple, list)):
            low, high = value
            if not low < high:
                raise UserError(f"{name} {low:g} to {high:g}: two numbers are wanted, the lower one first")
    elif origin in (Union, types.UnionType):
        for option in get_args(hint):
            if _could_be(value, option):
                check(name, value, option)
    elif origin is tuple and isinstance(value, (tuple, list)):
        options = get_args(hint)
        each = options[:1] * len(value) if options[1:] == (...,) else options
        for part, of in zip(value, each, strict=False):
            check(name, part, of)


def _could_be(value: Any, option: Any) -> bool:
    """Whether a value is meant as this member of a union, as far as numbers and tuples go."""
    plain = get_args(option)[0] if get_origin(option) is Annotated else option
    if plain in (int, float):
        return isinstance(value, Real)
    return get_origin(plain) is tuple and isinstance(value, (tuple, list))


def _check_number(name: str, value: Any, declared: Range) -> None:
    if not isinstance(value, Real):  # which numpy's numbers are too
        return  # another member of a union, or a setting that is still to come
    inside = cast(float, value) in declared  # numbers.Real does not say that its numbers compare
    if isinstance(value, bool) or not inside or (declared.integer and not isinstance(value, Integral)):
        raise UserError(f"{name} {value}: {declared} is wanted")
