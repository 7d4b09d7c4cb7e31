"""RealAlign's and Diffusion-KTO's CSV tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contrapose.errors import UserError
from contrapose.exchange.listings import Listing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in ("real", "fake"):
        (tmp_path / kind).mkdir()
        for number in range(5):
            (tmp_path / kind / f"{number}.png").touch()
    return tmp_path


@pytest.fixture
def read(folder: Path, listed: Callable[..., Listing]) -> Callable[..., Listing]:
    def read(*lines: str, **settings: Any) -> Listing:
        (folder / "pairs.csv").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig", newline="")
        return listed(folder / "pairs.csv", **settings)

    return read


# RealAlign: uid, prompt, real_image_path, fake_image_path

REAL = "uid,prompt,real_image_path,fake_image_path"


def test_the_real_image_won(read: Callable[..., Listing]) -> None:
    listing = read(REAL, 'a,"a cat, ""sitting"",\nasleep",real/0.png,fake/0.png', "b,a dog,real/1.png,fake/1.png")
    assert (listing.format, listing.left_out) == ("real-fake", [])
    assert [(pair.name, pair.prompt) for pair in listing.pairs] == [
        ("line 3", 'a cat, "sitting",\nasleep'), ("line 4", "a dog"),
    ]  # fmt: skip
    assert [(p.winner.path.parent.name, p.loser.path.parent.name) for p in listing.pairs] == [("real", "fake")] * 2


def test_rows_of_real_and_fake_that_cannot_be_used(read: Callable[..., Listing], folder: Path, reasons: Any) -> None:
    (folder.parent / "x.png").touch()
    listing = read(
        REAL, "a,a cat,real/0.png,fake/9.png", "b,a cat,../x.png,fake/0.png", "c,,real/0.png,fake/0.png",
        f"d,a cat,{folder / 'real' / '0.png'},fake/0.png", "e,a cat,/etc/hosts,fake/0.png",
    )  # fmt: skip
    assert [pair.name for pair in listing.pairs] == ["line 5"], "a whole path may be written, if it leads inside"
    assert reasons(listing) == {
        "line 2": "fake/9.png: no such file", "line 3": "../x.png: leaves the folder", "line 4": "has no caption",
        "line 6": "/etc/hosts: leaves the folder",
    }  # fmt: skip


def test_images_of_a_table_may_be_elsewhere(read: Callable[..., Listing], folder: Path, tmp_path: Path) -> None:
    (folder / "tables").mkdir()
    (folder / "tables" / "pairs.csv").write_text(f"{REAL}\na,a cat,0.png,1.png\n")
    assert len(read(REAL, "a,a cat,0.png,1.png", image_folder=folder / "real").pairs) == 1


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ((REAL, "a,a cat, asleep,real/0.png,fake/0.png"), "line 2: has 5 fields, but there are 4 columns; put texts"),
        ((REAL, "a,a cat,real/0.png,fake/0.png", "b,a dog,real/1.p"), "line 3: has 3 fields"),
        ((REAL, 'a,"a cat,real/0.png,fake/0.png'), "line 2: is cut short or no CSV"),
        (("uid,prompt,real_image_path", "a,a cat,real/0.png"), "has no column fake_image_path (columns found: uid"),
        ((REAL, "a,a cat,,fake/0.png"), "line 2: `real_image_path` is ''; write the name of a file"),
    ],
)
def test_tables_that_are_wrong(read: Callable[..., Listing], lines: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError) as error:
        read(*lines)
    assert f"pairs.csv: {told}" in str(error.value)


def test_tables_that_are_no_text(folder: Path, listed: Callable[..., Listing]) -> None:
    (folder / "pairs.csv").write_bytes(REAL.encode() + b"\na,caf\xe9,real/0.png,fake/0.png\n")
    with pytest.raises(UserError, match="is not UTF-8"):
        listed(folder / "pairs.csv")


# Diffusion-KTO: file_path, caption, label

KTO = "file_path,caption,label"


def test_liked_and_disliked_of_one_caption(read: Callable[..., Listing], reasons: Any) -> None:
    listing = read(
        KTO, "real/0.png,a cat,1", "fake/0.png,a cat,0", "fake/1.png,a dog,0", "real/2.png,a cat,1.0",
        "real/3.png,a cat,1", "real/1.png,a dog,1", "fake/2.png,a cat,0", "fake/4.png,a bird,0",
    )  # fmt: skip
    assert listing.format == "kto"
    found = [(p.name, p.prompt, p.winner.path.name, p.loser.path.name) for p in listing.pairs]
    assert found == [
        ("line 2 and line 3", "a cat", "0.png", "0.png"), ("line 7 and line 4", "a dog", "1.png", "1.png"),
        ("line 5 and line 8", "a cat", "2.png", "2.png"),
    ]  # fmt: skip
    assert all((p.winner.path.parent.name, p.loser.path.parent.name) == ("real", "fake") for p in listing.pairs)
    assert reasons(listing) == {
        "line 6": "liked, but no disliked image of its caption is left; --likes single takes it",
        "line 9": "disliked, but no liked image of its caption is left; --likes single takes it",
    }


def test_a_missing_image_leaves_its_partner_to_another(read: Callable[..., Listing], reasons: Any) -> None:
    listing = read(KTO, "real/0.png,a cat,1", "fake/9.png,a cat,0", "fake/1.png,a cat,0", "../x.png,a cat,1")
    assert [pair.name for pair in listing.pairs] == ["line 2 and line 4"]
    assert reasons(listing) == {"line 3": "fake/9.png: no such file", "line 5": "../x.png: leaves the folder"}


def test_likes_and_dislikes_one_by_one(read: Callable[..., Listing], reasons: Any) -> None:
    """Each image is a group of its own, whatever the others of its caption are."""
    rows = ("real/0.png,a cat,1", "fake/0.png,a cat,0", "fake/9.png,a cat,0", "real/2.png,a dog,1", "real/3.png,,1")
    listing = read(KTO, *rows, likes="single")
    found = [(g.name, g.prompt, [image.path.name for image in g.images], g.labels) for g in listing.pairs]
    assert found == [
        ("line 2", "a cat", ["0.png"], (1.0,)), ("line 3", "a cat", ["0.png"], (0.0,)),
        ("line 5", "a dog", ["2.png"], (1.0,)),
    ]  # fmt: skip
    assert reasons(listing) == {"line 4": "fake/9.png: no such file", "line 6": "has no caption"}


@pytest.mark.parametrize("header", ["file_name,caption,label", "completion,prompt,label", "image,prompt,label"])
@pytest.mark.parametrize(("liked", "disliked"), [("1", "0"), ("True", "False"), ("true", "false")])
def test_other_names_and_spellings(read: Callable[..., Listing], header: str, liked: str, disliked: str) -> None:
    listing = read(header, f"real/0.png,a cat,{liked}", f"fake/0.png,a cat,{disliked}", likes="single")
    assert (listing.format, [group.labels for group in listing.pairs]) == ("kto", [(1.0,), (0.0,)])


@pytest.mark.parametrize("label", ["yes", "liked", "", '"""1"""', "0.5", "-1", "2", "nan"])
def test_labels_that_are_neither(read: Callable[..., Listing], label: str) -> None:
    with pytest.raises(UserError, match=r"line 3: `label` is .*; write 1 or true for a liked image, 0 or false for a"):
        read(KTO, "real/0.png,a cat,1", f"fake/0.png,a cat,{label}")


def test_pairs_have_no_use_for_likes(read: Callable[..., Listing]) -> None:
    with pytest.raises(UserError, match="likes: pairs from real-fake have no use for it"):
        read(REAL, "a,a cat,real/0.png,fake/0.png", likes="single")
