"""A digest tells what lies at a path, not where it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from contrapose.contents import digest_of
from contrapose.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "in").mkdir(parents=True)
    (made / "a.txt").write_text("a")
    (made / "in" / "b.txt").write_text("b")
    return made


def test_a_copy_elsewhere_is_the_same(folder: Path, monkeypatch) -> None:
    copy = shutil.copytree(folder, folder.parent / "copy")
    monkeypatch.chdir(folder.parent)
    assert digest_of(folder) == digest_of(copy) == digest_of(Path("copy")) == digest_of(Path("made/../copy"))
    assert digest_of(folder / "a.txt") == digest_of(copy / "a.txt")


def changed(folder: Path, how: str) -> None:
    if how == "bytes":
        (folder / "in" / "b.txt").write_text("c")
    elif how == "name":
        (folder / "a.txt").rename(folder / "c.txt")
    elif how == "place":
        (folder / "in" / "b.txt").rename(folder / "b.txt")
    elif how == "added":
        (folder / "d.txt").write_text("")
    elif how == "taken away":
        (folder / "a.txt").unlink()
    elif how == "exchanged":
        (folder / "a.txt").write_text("b")
        (folder / "in" / "b.txt").write_text("a")


@pytest.mark.parametrize("how", ["bytes", "name", "place", "added", "taken away", "exchanged"])
def test_any_change_is_seen(folder: Path, how: str) -> None:
    before = digest_of(folder)
    changed(folder, how)
    assert digest_of(folder) != before


def test_hidden_files_and_what_is_left_out_do_not_count(folder: Path) -> None:
    before = digest_of(folder)
    (folder / ".lock").write_text("x")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x").write_text("x")
    assert digest_of(folder) == before
    (folder / "out").mkdir()
    (folder / "out" / "x").write_text("x")
    assert digest_of(folder, skip=folder / "out") == before != digest_of(folder)


def test_the_end_of_a_large_file_counts(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 25)
    before = digest_of(large)
    with large.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert digest_of(large) != before


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        digest_of(tmp_path / "none")
