"""Listings tell which pairs there are: missing ones are left out with a reason, wrong lines are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contrapose.containers.stored import InFile
from contrapose.errors import UserError
from contrapose.exchange.listings import Listing, Reading, folder_pairs, source_pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three winners with captions and their losers; no image is opened, so that the files may be empty."""
    folder = tmp_path / "pairs"
    for number in range(3):
        for side, suffix in (("good", ".png"), ("bad", ".JPG")):
            (folder / side).mkdir(parents=True, exist_ok=True)
            (folder / side / f"p{number}{suffix}").touch()
        (folder / "good" / f"p{number}.txt").write_text(f"\ufeffa red circle\n no. {number}\n", encoding="utf-8")
    return folder


def _reasons(listing: Listing) -> dict[str, str]:
    return {entry.name: entry.reason for entry in listing.left_out}


# Two folders


def test_folders(folder: Path) -> None:
    for noise in (".p1.png", "notes.md", "p1.json"):
        (folder / "good" / noise).touch()
    listing = folder_pairs(folder / "good", folder / "bad")
    assert listing.left_out == []
    assert [(pair.name, pair.prompt, pair.preference) for pair in listing.pairs] == [
        (f"p{number}", f"a red circle no. {number}", 1.0) for number in range(3)
    ]
    images = InFile(folder / "good" / "p1.png"), InFile(folder / "bad" / "p1.JPG")
    assert (listing.pairs[1].winner, listing.pairs[1].loser) == images


def _link_out(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder.parent / "secret").write_text("a secret")
    (folder / name).symlink_to(folder.parent / "secret")


TRAPS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no loser": (lambda folder: (folder / "bad" / "p1.JPG").unlink(), "no image of this name in bad"),
    "no winner": (lambda folder: (folder / "good" / "p1.png").unlink(), "no image of this name in good"),
    "two winners": (lambda folder: (folder / "good" / "p1.bmp").touch(), "p1.bmp, p1.png"),
    "a folder": (lambda folder: (folder / "bad" / "p1.png").mkdir(), "p1.JPG, p1.png"),
    "no caption": (lambda folder: (folder / "good" / "p1.txt").unlink(), "no caption p1.txt"),
    "empty caption": (lambda folder: (folder / "good" / "p1.txt").write_text(" \n"), "p1.txt: holds no caption"),
    "bad caption": (lambda folder: (folder / "good" / "p1.txt").write_bytes(b"caf\xe9"), "is not readable as UTF-8"),
    "image leads out": (lambda folder: _link_out(folder, "bad/p1.JPG"), "p1.JPG: is a link that leads out"),
    "caption leads out": (lambda folder: _link_out(folder, "good/p1.txt"), "p1.txt: is a link that leads out"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_in_folders(folder: Path, trap: str) -> None:
    spoil, reason = TRAPS[trap]
    spoil(folder)
    listing = folder_pairs(folder / "good", folder / "bad")
    assert [pair.name for pair in listing.pairs] == ["p0", "p2"]
    assert list(_reasons(listing)) == ["p1"]
    assert reason in _reasons(listing)["p1"]


def test_folders_that_hold_nothing(folder: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        folder_pairs(folder / "good", folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no images"):
        folder_pairs(folder / "empty", folder / "bad")


# metadata.jsonl


@pytest.fixture
def listed(folder: Path) -> Callable[..., Listing]:
    def read(*rows: dict[str, Any] | str, ties: Any = "drop") -> Listing:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return source_pairs(folder, Reading(ties=ties))

    return read


def _row(number: int, first: Any = 1, second: Any = 0, **changes: Any) -> dict[str, Any]:
    row = {"image_0": f"good/p{number}.png", "image_1": f"bad/p{number}.JPG", "prompt": "a blue square"}
    return row | {"prefer_0": first, "prefer_1": second} | changes


def test_labels(listed: Callable[..., Listing]) -> None:
    listing = listed(_row(0), _row(1, 0, 1), "", _row(2, 0.3, 0.7), _row(2, 3, 1), _row(2, 0.5, 0.5))
    assert [pair.winner.path.parent.name for pair in listing.pairs] == ["good", "bad", "bad", "good"]
    assert [pair.loser.path.parent.name for pair in listing.pairs] == ["bad", "good", "good", "bad"]
    assert [pair.preference for pair in listing.pairs] == [1.0, 1.0, 0.7, 0.75]
    assert [pair.name for pair in listing.pairs] == ["line 1", "line 2", "line 4", "line 5"]
    assert _reasons(listing) == {"line 6": "a tie; it is kept with --ties half"}


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_ties_may_be_kept(listed: Callable[..., Listing], share: float) -> None:
    listing = listed(_row(0, share, share), ties="half")
    assert [pair.preference for pair in listing.pairs] == [0.5]
    assert listing.pairs[0].winner.path.parent.name == "good"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("good/p99.png", "no such file"),
        ("good", "no such file"),
        ("../x.png", "leaves the folder"),
        ("/etc/hosts", "leaves the folder"),
        ("link/x.png", "is a link that leads out of the folder"),
        ("loop.png", "no such file"),
        ("a\0b.png", "no such file"),
        ("x" * 5000, "no such file"),
    ],
)
def test_paths(listed: Callable[..., Listing], folder: Path, name: str, reason: str) -> None:
    (folder.parent / "x.png").touch()
    (folder / "link").symlink_to(folder.parent)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    reasons = _reasons(listed(_row(0), _row(1, image_1=name)))
    assert list(reasons) == ["line 2"]
    assert reasons["line 2"].endswith(reason)


def test_a_path_may_wander_inside(listed: Callable[..., Listing]) -> None:
    assert len(listed(_row(1, image_1="good/../bad/p1.JPG")).pairs) == 1


@pytest.mark.parametrize(
    ("row", "naming"),
    [
        (_row(1, "1", "0"), "line 3: `prefer_0` is '1'; write a number"),
        (_row(1, True, False), "line 3: `prefer_0` is True; write a number"),
        (_row(1, 1, None), "line 3: `prefer_1` is None; write a number"),
        (_row(1, -1, 0), "line 3: `prefer_0` is -1"),
        (_row(1, float("nan"), 0), "line 3: `prefer_0` is nan"),
        (_row(1, 10**400, 0), "line 3: `prefer_0` is 1000"),
        (_row(1, image_0=3), "line 3: `image_0` is 3; write the name of a file"),
        ({"prompt": "a cat", "image_0": "a.png"}, "line 3: has no `image_1` field (fields found: prompt, image_0)"),
        ({"image_0": "a.png", "image_1": "b.png"}, "line 3: has no `prompt` field"),
        ('{"prompt": ', "line 3: not readable as JSON"),
    ],
)
def test_a_listing_that_is_wrong_is_the_users_to_mend(
    listed: Callable[..., Listing], row: dict[str, Any] | str, naming: str
) -> None:
    with pytest.raises(UserError) as error:
        listed(_row(0), "", row)
    assert f"metadata.jsonl: {naming}" in str(error.value)
