"""What is listed by the million lies on the disk, and comes back as it was."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest

from contrapose.containers.places import place_of
from contrapose.containers.spool import Spool
from contrapose.containers.stored import InFile, InParquet, InTar
from contrapose.errors import UserError
from contrapose.exchange.imports import Mask, Planned
from contrapose.exchange.latents import Ready
from contrapose.exchange.listings import Listed
from contrapose.pixels import Size
from contrapose.store.buckets import Fit
from contrapose.store.records import GroupRecord

THERE = place_of(Path("hf://datasets/someone/pairs"))
FILE = InFile(Path("/a folder/é\udce9.png"))  # of a name that is no UTF-8
MEMBER = InTar(Path("a.tar"), "0.png", 512, 9)
CELL = InParquet(THERE / "a.parquet", "jpg_0", 3, 7)
PAIR = GroupRecord.pair("id", "a \ud83d cat", "", 2**63 - 1, 0.7)
FIT = Fit(Size(40, 30), (0, 0, 32, 24), True)
ITEMS = [
    Listed("a", "a cat\u2028", (FILE, MEMBER), (1, 0.0), "cat", CELL),
    Listed("b", "", (CELL,), (0.25,)),
    Planned(PAIR, (FILE, MEMBER), Size(32, 24), (FIT, FIT), Mask(CELL, Size(4, 3), FIT)),
    Planned(GroupRecord("id", "", "", 0, (1,), {"taste": (0.5,)}), (CELL,), Size(1, 2), (FIT,)),
    Ready(PAIR, (FILE, MEMBER), (4, 8, 8)),
]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: type(item).__name__)
def test_all_of_an_item_comes_back(item: Any) -> None:
    kind = type(item)
    spool = Spool([item, ITEMS[0] if kind is Listed else item], kind.to_json, kind.from_json)
    assert spool[0] == item and repr(spool[0]) == repr(item), "1 is not 1.0"


def test_it_is_as_a_list() -> None:
    numbers = [*range(100)]
    spool = Spool(iter(numbers), lambda number: number, lambda said: said)
    assert [*spool] == numbers and len(spool) == 100 and spool[-1] == 99 and spool[3:50:7] == numbers[3:50:7]
    with pytest.raises(IndexError):
        spool[100]
    assert not Spool([], lambda number: number, lambda said: said)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(UserError, match="the disk is full"):
        Spool([1], lambda number: number, lambda said: said)
