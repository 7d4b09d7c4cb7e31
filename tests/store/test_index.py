"""The index of a large folder: the same as its shards say, whatever happened to either since it was written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from contrapose.errors import UserError
from contrapose.store import index
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import INDEX, MANIFEST
from contrapose.store.records import GroupRecord, count_and_digest
from contrapose.store.shard_files import shard_path, write_shard

RECORDS = [GroupRecord.pair(f"id-{i}", f"a red circle {i}", f"circle {i}", i) for i in range(6)]


@pytest.fixture
def folder(tmp_path: Path, write_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(index, "LARGE", 1)
    folder = write_store(tmp_path / "p", RECORDS, torch.randn(6, 2, 4, 2, 2), shard_size=2)
    manifest = {"format": 3, "fingerprint": "f00", "num_groups": 6, "groups_digest": count_and_digest(RECORDS)[1]}
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest))
    return folder


def _fail(*_: Any) -> Any:
    raise AssertionError("no shard is parsed where there is an index")


def test_a_folder_with_an_index_is_read_by_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = GroupStore(folder)
    assert first.records == RECORDS and (folder / INDEX).is_file()
    before = (folder / INDEX).read_bytes()
    monkeypatch.setattr(index, "read_shard", _fail)
    again = GroupStore(folder)
    assert again.records == RECORDS and again.shapes == [(4, 2, 2)] and again.digest == first.digest
    assert torch.equal(again.latent("loser", 5), first.latent("loser", 5))
    copied = shutil.copytree(folder, folder.parent / "copied")
    assert GroupStore(copied).records == RECORDS, "wherever it lies"
    monkeypatch.undo()
    (folder / INDEX).unlink()
    monkeypatch.setattr(index, "LARGE", 1)
    GroupStore(folder)
    assert (folder / INDEX).read_bytes() == before, "the same bytes whenever it is made"


def _exchanged_in_place(folder: Path) -> None:
    """A letter of a prompt, with length and times of the file kept."""
    path = shard_path(folder, 1)
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"a red circle 3", b"a rad circle 3"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(path.read_bytes().replace(b"a red circle 3", b"a rad circle 3")),
        lambda path: path.write_bytes(b"x" * 32),
        lambda path: path.unlink(),
    ],
    ids=["empty", "cut", "longer", "a letter", "no table", "gone"],
)
def test_an_index_that_is_not_what_was_written_is_made_again(folder: Path, spoil: Callable[[Path], Any]) -> None:
    GroupStore(folder)
    whole = (folder / INDEX).read_bytes()
    spoil(folder / INDEX)
    assert GroupStore(folder).records == RECORDS
    assert (folder / INDEX).read_bytes() == whole


def test_one_of_another_version_is_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_VERSION", "0")
    GroupStore(folder)
    old = (folder / INDEX).read_bytes()
    monkeypatch.setattr(index, "_VERSION", "1")
    assert GroupStore(folder).records == RECORDS and (folder / INDEX).read_bytes() != old


def test_a_stale_index_is_never_believed(folder: Path) -> None:
    GroupStore(folder)
    _exchanged_in_place(folder)
    with pytest.raises(UserError, match=r"p: holds other groups than pairs\.yaml tells of"):
        GroupStore(folder)
    store = GroupStore(folder, complete=False)
    assert store.records[3].prompt == "a rad circle 3" and store.flaw


def test_where_the_folder_cannot_be_written_the_cache_has_the_index(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRAPOSE_CACHE", str(tmp_path / "cache"))
    replacing = index.replacing

    def of_cache_alone(path: Path) -> Any:
        if path.parent == folder:
            raise OSError(errno.EROFS, "Read-only file system")
        return replacing(path)

    monkeypatch.setattr(index, "replacing", of_cache_alone)
    assert GroupStore(folder).records == RECORDS
    (kept,) = (tmp_path / "cache" / "stores").iterdir()
    monkeypatch.setattr(index, "read_shard", _fail)
    assert GroupStore(folder).records == RECORDS and kept.is_file() and not (folder / INDEX).exists()


def test_a_full_disk_stops_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(index._Hashed, "write", full)
    assert GroupStore(folder).records == RECORDS and not (folder / INDEX).exists()


def test_a_small_folder_has_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LARGE", 7)
    assert GroupStore(folder).records == RECORDS and not (folder / INDEX).exists()


def test_a_shard_that_is_added_is_seen(folder: Path) -> None:
    GroupStore(folder)
    write_shard(folder, 3, RECORDS[:2], torch.zeros(2, 2, 4, 2, 2))
    with pytest.raises(UserError, match="holds 8 groups"):
        GroupStore(folder)
    assert len(GroupStore(folder, complete=False).records) == 8
