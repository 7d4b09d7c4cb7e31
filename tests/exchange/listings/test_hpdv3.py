"""HPDv3's JSON, written here as its authors write it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contrapose.errors import UserError
from contrapose.exchange.listings import Listing

MODELS = ("real_images", "flux", "sdxl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for model in MODELS:
        (tmp_path / "images" / model).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "images" / model / f"{number}.jpg").touch()
    return tmp_path


def _entry(number: int, winner: str = "real_images", loser: str = "flux", **changes: Any) -> dict[str, Any]:
    paths = {"path1": f"images/{winner}/{number}.jpg", "path2": f"images/{loser}/{number}.jpg"}
    others = {"confidence": 0.9, "choice_dist": [12, 7], "model1": winner, "model2": loser}
    return {"prompt": f"a tree {number}", **others, **paths} | changes


@pytest.fixture
def read(folder: Path, listed: Callable[..., Listing]) -> Callable[..., Listing]:
    def read(*entries: dict[str, Any], **settings: Any) -> Listing:
        (folder / "train.json").write_text(json.dumps(entries), encoding="utf-8")
        return listed(folder / "train.json", **settings)

    return read


def test_the_first_path_won(read: Callable[..., Listing]) -> None:
    listing = read(_entry(0), _entry(1, "flux", "sdxl"))
    assert (listing.format, listing.left_out) == ("hpdv3", [])
    assert [(pair.name, pair.prompt, pair.preference) for pair in listing.pairs] == [
        ("entry 1", "a tree 0", 1.0), ("entry 2", "a tree 1", 1.0),
    ]  # fmt: skip
    assert [pair.winner.path.parent.name for pair in listing.pairs] == ["real_images", "flux"]
    assert [pair.loser.path.parent.name for pair in listing.pairs] == ["flux", "sdxl"]


def test_only_some_models(read: Callable[..., Listing], reasons: Any) -> None:
    entries = _entry(0), _entry(1, "flux", "sdxl"), _entry(2, "sdxl", "real_images")
    listing = read(*entries, only_models=("real_images", "flux"))
    assert [pair.prompt for pair in listing.pairs] == ["a tree 0"]
    assert reasons(listing) == {
        "entry 2": "model2 is sdxl, which is not among --only-models",
        "entry 3": "model1 is sdxl, which is not among --only-models",
    }


def test_images_may_be_elsewhere(read: Callable[..., Listing], folder: Path, reasons: Any) -> None:
    entry = _entry(0, path1="real_images/0.jpg", path2="flux/0.jpg")
    assert list(reasons(read(entry)).values()) == ["real_images/0.jpg: no such file"]
    (pair,) = read(entry, image_folder=folder / "images").pairs
    assert pair.winner.path == folder / "images" / "real_images" / "0.jpg"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"path2": "images/flux/99.jpg"}, "images/flux/99.jpg: no such file"),
        ({"path2": "../x.jpg"}, "../x.jpg: leaves the folder"),
        ({"path1": "/etc/hosts"}, "/etc/hosts: leaves the folder"),
        ({"prompt": ""}, "has no caption"),
        ({"prompt": None}, "has no caption"),
        ({"prompt": "a\0b"}, "its caption holds a NUL or half a character"),
    ],
)
def test_entries_that_cannot_be_used(
    read: Callable[..., Listing], folder: Path, reasons: Any, changes: dict[str, Any], reason: str
) -> None:
    (folder.parent / "x.jpg").touch()
    listing = read(_entry(0), _entry(1, **changes), _entry(2))
    assert [pair.name for pair in listing.pairs] == ["entry 1", "entry 3"]
    assert reasons(listing) == {"entry 2": reason}


def test_entries_that_are_wrong(read: Callable[..., Listing]) -> None:
    with pytest.raises(UserError, match="entry 2: has no `path2`"):
        read(_entry(0), {"prompt": "a tree", "path1": "images/flux/0.jpg"})
    with pytest.raises(UserError, match="entry 2: `path1` is 3; write the name of a file"):
        read(_entry(0), _entry(1, path1=3))
    without = {name: value for name, value in _entry(0).items() if name != "model2"}
    with pytest.raises(UserError, match="entry 1: has no `model2`"):
        read(without, only_models=("flux",))


def test_a_truncated_file(read: Callable[..., Listing], folder: Path, listed: Callable[..., Listing]) -> None:
    read(*(_entry(number) for number in range(3)))
    data = (folder / "train.json").read_bytes()
    (folder / "train.json").write_bytes(data[: int(len(data) * 0.9)])
    with pytest.raises(UserError, match="entry 3: is cut short"):
        listed(folder / "train.json")
