"""Numbers are checked where they are declared, in one wording."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest

from contrapose.errors import UserError
from contrapose.ranges import AtLeast0, Count, Interval, Positive, Range, Seed, Share, ShareBelow1, checked


@dataclass(frozen=True)
@checked
class Base:
    steps: Count = 2
    rate: Positive = 0.1
    decay: AtLeast0 = 0.0
    maybe: Count | None = None
    span: tuple[Share, Share] = (0.0, 1.0)
    many: tuple[Count, ...] = ()
    either: Count | str = "all"
    drop: ShareBelow1 = 0.0
    levels: Interval = (0.0, 1.0)
    seed: Seed = 0
    twos: Annotated[int, Range(2, 10, integer=True, even=True)] = 2
    plain: float = math.nan  # nothing is declared


@dataclass(frozen=True)
@checked
class Derived(Base):
    other: Positive = 1.0

    def __post_init__(self) -> None:
        assert self.steps > 0, "ranges are checked first"


GOOD = [
    {"steps": 1}, {"rate": 1e-300}, {"decay": 0}, {"maybe": 5}, {"span": (0, 1)}, {"many": (1, 2)}, {"either": "x"},
    {"either": 3}, {"drop": 0.999}, {"seed": 2**63 - 1}, {"rate": 3}, {"steps": np.int64(3)},
    {"span": [0, 1]}, {"twos": 4}, {"levels": (0.2, 0.8)}, {"levels": [0, 1]},
]  # fmt: skip
BAD = [
    ("steps", 0), ("steps", -1), ("steps", 2**64), ("steps", 10**12), ("steps", True), ("steps", 2.0),
    ("steps", math.nan), ("rate", 0.0), ("rate", math.nan), ("rate", 10**400),
    ("rate", math.inf), ("rate", -math.inf), ("rate", 2**64), ("decay", -1e-9), ("maybe", 0), ("span", (-0.1, 1.0)),
    ("span", (0.0, math.nan)), ("span", [0.0, 2.0]), ("steps", np.int64(0)), ("rate", np.float32("nan")),
    ("many", (1, 0)), ("either", 0), ("drop", 1.0), ("seed", -1), ("seed", 2**63), ("levels", (-0.1, 1.0)),
    ("levels", (0.8, math.nan)), ("levels", (1.5, 0.5)), ("twos", 3), ("twos", 12),
]  # fmt: skip


@pytest.mark.parametrize("cls", [Base, Derived])
@pytest.mark.parametrize("settings", GOOD, ids=str)
def test_a_number_in_its_range_is_taken(cls, settings) -> None:
    assert vars(cls(**settings)).items() >= settings.items()


@pytest.mark.parametrize("cls", [Base, Derived])
@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_a_number_outside_its_range_is_named(cls, name: str, value) -> None:
    with pytest.raises(UserError, match=rf"^{name} .*: an? (whole |even )?number (from|above) .* is wanted$"):
        cls(**{name: value})


@pytest.mark.parametrize("levels", [(0.8, 0.2), (0.5, 0.5), [1, 0]], ids=str)
def test_an_interval_rises(levels) -> None:
    with pytest.raises(UserError, match=r"^levels \S+ to \S+: two numbers are wanted, the lower one first$"):
        Base(levels=levels)


def test_the_range_is_said() -> None:
    with pytest.raises(UserError, match=r"^drop 1\.5: a number from 0 to below 1 is wanted$"):
        Base(drop=1.5)
    with pytest.raises(UserError, match=r"^rate 0: a number above 0 up to 1000000000000 is wanted$"):
        Base(rate=0)
