"""Workers that fill a folder of groups together leave the bytes of one alone, whoever of them is killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from contrapose.errors import UserError
from contrapose.runfile import converter
from contrapose.store.groups import GroupStore
from contrapose.store.records import GroupRecord
from contrapose.store.shards import begin, fill
from contrapose.workers import ALONE, Worker

RECORDS = [GroupRecord.pair(f"id-{number}", f"prompt {number}", "", number) for number in range(20)]
SHARDS = [(None, RECORDS[first : first + 4]) for first in range(0, 20, 4)]


def latents(_: None, batch: list[GroupRecord]) -> torch.Tensor:
    """By the records' seeds alone."""
    return torch.stack([torch.full((2, 4, 2, 2), float(record.seed)) for record in batch])


def filled(out: Path, worker: Worker = ALONE) -> Iterator[int]:
    with worker.writing(out):
        begin(out, {}, converter(), "f", RECORDS, [])
        yield from fill(out, SHARDS, 2, latents, worker=worker)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


KILLED = """
import sys, time
from pathlib import Path
from tests_sharing import filled
from contrapose.workers import Worker
for done in filled(Path(sys.argv[1]), Worker.of("1/1")):
    print(done, flush=True)
    if done == 6:  # in the middle of the second file
        time.sleep(600)
"""


def test_a_killed_workers_file_is_made_by_another(tmp_path: Path) -> None:
    list(filled(tmp_path / "alone"))
    (tmp_path / "tests_sharing.py").write_text(Path(__file__).read_text())
    command = [sys.executable, "-c", KILLED, str(tmp_path / "shared")]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert killed.stdout and "6\n" in iter(killed.stdout.readline, "")
        left = filled(tmp_path / "shared", Worker.of("1/1"))
        assert [next(left) for _ in range(10)][-1] == 16, "all but what is claimed"
    finally:
        killed.kill()
        killed.wait()
    assert list(left) == [18, 20, 20]
    assert content(tmp_path / "shared") == content(tmp_path / "alone")


def test_parts_come_to_the_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    list(filled(tmp_path / "alone"))
    with caplog.at_level("INFO"):
        assert list(filled(tmp_path / "parts", Worker.of("1/2")))[-1] == 20
    assert "2 of 5 files are left to other parts" in caplog.text
    with pytest.raises(UserError, match="holds 12 of 20 groups"):
        GroupStore(tmp_path / "parts")
    list(filled(tmp_path / "parts", Worker.of("2/2")))
    assert content(tmp_path / "parts") == content(tmp_path / "alone")
