"""Digests of shards are noted beside them, and believed for as long as nobody has touched the shard."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from contrapose import contents
from contrapose.runfile import converter
from contrapose.store import noted_digests
from contrapose.store.check import check_pairs
from contrapose.store.groups import GroupStore
from contrapose.store.manifest import DIGESTS
from contrapose.store.records import GroupRecord
from contrapose.store.shard_files import shard_path
from contrapose.store.shards import begin, fill
from contrapose.studies.ledger import Ledger
from contrapose.studies.stages import CommandLine

RECORDS = [GroupRecord.pair(f"id-{i}", f"a red circle {i}", f"circle {i}", i) for i in range(6)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three shards, as a command writes them that takes any folder for a large one."""
    monkeypatch.setattr(noted_digests, "LARGE", 1)
    return _made(tmp_path / "p")


def _made(folder: Path) -> Path:
    begin(folder, {}, converter(), "f00", RECORDS, [])
    shards = [(None, RECORDS[first : first + 2]) for first in range(0, 6, 2)]
    for _ in fill(folder, shards, 2, lambda _, batch: torch.full((2, 2, 4, 2, 2), 1.0) * batch[0].seed):
        pass
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards whose bytes are read, as they are."""
    names: list[str] = []

    def noting(path: Path) -> str:
        names.append(path.name)
        return contents.file_digest(path)

    monkeypatch.setattr(noted_digests, "file_digest", noting)
    return names


def _plain(folder: Path) -> str:
    """The digest of a folder by its shards alone."""
    paths = sorted(folder.glob("shard-*"))
    return contents.digest_of_parts(f"{path.name} {contents.file_digest(path)}" for path in paths)


def test_what_was_written_is_known_without_reading_it(folder: Path, read: list[str]) -> None:
    assert GroupStore(folder).digest == _plain(folder) and not read
    (folder / DIGESTS).unlink()
    assert GroupStore(folder).digest == _plain(folder) and len(read) == 3, "noted at the first reading"
    assert GroupStore(folder).digest == _plain(folder) and len(read) == 3


def _exchanged(folder: Path) -> Path:
    """Another latent in a shard, with length and times of the file as they were."""
    path = shard_path(folder, 1)
    times = path.stat()
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\x80\x3f")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return path


@pytest.mark.parametrize(
    "spoil",
    [
        _exchanged,
        lambda folder: (folder / DIGESTS).write_text("[]"),
        lambda folder: (folder / DIGESTS).write_text((folder / DIGESTS).read_text().replace("shard-00001", "shard-1")),
        lambda folder: shard_path(folder, 1).write_bytes(shard_path(folder, 2).read_bytes()),
    ],
    ids=["exchanged in place", "no notes", "notes that a disk changed", "another shard"],
)
def test_what_is_not_as_it_was_is_read(folder: Path, read: list[str], spoil: Callable[[Path], Any]) -> None:
    spoil(folder)
    assert GroupStore(folder, complete=False).digest == _plain(folder)
    assert shard_path(folder, 1).name in read


def test_a_copy_is_read_and_a_moved_folder_is_not(folder: Path, read: list[str]) -> None:
    digest = GroupStore(folder).digest
    assert GroupStore(folder.rename(folder.with_name("moved"))).digest == digest and not read
    copied = shutil.copytree(folder.with_name("moved"), folder)
    assert GroupStore(copied).digest == digest and len(read) == 3


def test_checking_reads_all_bytes_and_names_what_changed_unseen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing = noted_digests._Standing.of
    true = {path.name: standing(path) for path in GroupStore(folder).shards}
    monkeypatch.setattr(noted_digests._Standing, "of", lambda path: true[path.name])  # as of a disk that decays
    _exchanged(folder)
    noted = GroupStore(folder).digest
    lines = check_pairs(GroupStore(folder)).problem_lines()
    assert "problem: files whose bytes changed and whose times did not: 1 (shard-00001.safetensors)" in lines
    assert GroupStore(folder).digest == _plain(folder) != noted, "from now on it is known as what it is"


def test_a_small_folder_has_none(tmp_path: Path, read: list[str]) -> None:
    folder = _made(tmp_path / "p")
    assert GroupStore(folder).digest == _plain(folder) and not (folder / DIGESTS).exists()


def test_where_the_folder_cannot_be_written_the_cache_has_them(
    folder: Path, read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRAPOSE_CACHE", str(tmp_path / "cache"))
    (folder / DIGESTS).write_text("[]")
    replacing = noted_digests.replacing

    def of_cache_alone(path: Path) -> Any:
        if path.parent == folder:
            raise OSError(errno.EROFS, "Read-only file system")
        return replacing(path)

    monkeypatch.setattr(noted_digests, "replacing", of_cache_alone)
    digests = [GroupStore(folder).digest for _ in range(2)]
    assert digests == [_plain(folder)] * 2 and len(read) == 3
    assert len(list((tmp_path / "cache" / "stores").iterdir())) == 1


def test_two_writers_keep_what_both_wrote(folder: Path, read: list[str]) -> None:
    (folder / DIGESTS).unlink()
    paths = [shard_path(folder, number) for number in range(3)]
    writers = [noted_digests.NotedDigests(folder) for _ in range(2)]
    writers[0].read(paths[:2])
    writers[1].read(paths[2:])
    for writer in writers:
        writer.keep()
    read.clear()
    assert GroupStore(folder).digest == _plain(folder) and not read


def test_a_study_does_not_read_them_either(folder: Path, read: list[str], tmp_path: Path) -> None:
    line = CommandLine(("pairs", "draw"), folder)
    ledger = Ledger(tmp_path, "of the study")
    ledger.note(line)
    assert ledger.has(line) and not read
    (folder / DIGESTS).unlink()
    assert ledger.has(line), "notes say nothing of what a line wrote"
    _exchanged(folder)
    assert not ledger.has(line)
