"""docs/architecture.md shows the rooms and arrows that are there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("rooms", Path(__file__).with_name("rooms.py"))
assert _spec and _spec.loader
rooms = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rooms)


def test_the_drawing_is_true() -> None:
    page = rooms.PAGE.read_text(encoding="utf-8")
    assert page == rooms.redrawn(page), "run: python tests/house/rooms.py"


def test_no_room_comes_back_to_itself() -> None:
    assert rooms.circles(rooms.arrows()) == []


def test_every_room_says_what_it_is() -> None:
    drawing = rooms.drawing()
    assert [room for room in rooms.rooms() if f"| `{room}/` |  |" in drawing] == []


def test_what_follows_from_other_arrows_is_left_out() -> None:
    drawn = {"cli": {"train", "core"}, "train": {"core"}, "core": set()}
    assert rooms.reduced(drawn) == {"cli": {"train"}, "train": {"core"}, "core": set()}
    assert rooms.circles(drawn) == []
    assert rooms.circles({"a": {"b"}, "b": {"a"}}) == ["a", "b"]
