"""Pairs of photographs by several processes on one folder, one of them killed, are those of one process."""

from __future__ import annotations

import os
import signal
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny_vision
import torch
from photo_table import NAME, contents

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.containers.left_out import LeftOut
from contrapose.containers.stored import InFile
from contrapose.errors import UserError
from contrapose.judges.clip_score import CLIPScore
from contrapose.photographs import real
from contrapose.photographs.candidates import Candidate
from contrapose.photographs.filters import CaptionLength, ScorerGap, TopK
from contrapose.photographs.real import Real, StageProgress, make_pairs
from contrapose.photographs.spoil.redraw import Redraw
from contrapose.photographs.table import TABLE, PhotoRow, PhotoTable
from contrapose.pixels import Size
from contrapose.processes import Launched
from contrapose.store.fitting import Fitting
from contrapose.workers import Worker

SIZES = [(40, 40), (60, 40), (40, 60), (64, 64), (44, 40), (33, 48), (80, 60), (36, 36)]


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    return load_backbone(tiny_model)


@pytest.fixture(scope="module")
def settings(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Real:
    """With every kind of stage that processes share, and two whose decision is over all photographs."""
    photos = tmp_path_factory.mktemp("photos")
    for number, size in enumerate(SIZES):
        tiny_vision.noise_image(number, size).save(photos / f"p{number}.png")
        (photos / f"p{number}.txt").write_text(f"a red circle number {number}" if number else "a")
    clip = CLIPScore(str(tiny_vision.save_clip(tmp_path_factory.mktemp("clip"))))
    filters = (CaptionLength(), ScorerGap(clip, threshold=-1000.0), TopK(5, clip))
    fitting = Fitting(resolution=32)
    return Real(
        str(tiny_model), photos, None, Redraw(0.6), filters, steps=2, shard_size=2, batch_size=2, fitting=fitting
    )


class Made(NamedTuple):
    """What a run left, and how it told its progress."""

    files: dict[str, bytes]
    states: list[StageProgress]

    def of(self, stage: str) -> list[StageProgress]:
        return [state for state in self.states if state.stage == stage]


@pytest.fixture(scope="module")
def expected(settings: Real, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("alone") / "out"
    states = list(make_pairs(settings, backbone, out))
    return Made(contents(out), states)


def started(settings: Real, backbone: Backbone, out: Path, number: int, killed_at: int | None) -> int:
    """The number of a process that works in the folder as one of two, killed at its so-manieth change of the table."""
    process = os.fork()
    if process:
        return process
    code = 70
    num_updates = 0
    connect = sqlite3.connect

    def counted(statement: str) -> None:
        nonlocal num_updates
        num_updates += statement.strip().startswith("UPDATE")
        if num_updates == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def connected(*given: object, **options: object) -> sqlite3.Connection:
        connection = connect(*given, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(counted)
        return connection

    sqlite3.connect = connected  # type: ignore[assignment]
    try:
        torch.set_num_threads(1)
        list(make_pairs(settings, backbone, out, Worker.of(None, Launched(number, 2, number))))
        code = 0
    finally:
        os._exit(code)


@pytest.mark.parametrize("killed_at", [None, 1, 12, 20])
def test_two_processes_of_which_one_is_killed_are_one(
    settings: Real,
    backbone: Backbone,
    expected: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int | None,
) -> None:
    monkeypatch.setattr(real, "_BATCHES", 1)
    processes = [started(settings, backbone, tmp_path / "out", number, (killed_at, None)[number]) for number in (0, 1)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    # the first may find less than it was to be killed at
    assert codes[1] == 0 and codes[0] in ((0,) if killed_at is None else (0, -signal.SIGKILL))
    assert contents(tmp_path / "out") == expected.files
    assert [path.name for path in (tmp_path / "out").glob(f"{NAME}*")] == [NAME]


def test_portions_of_photographs_are_those_of_one_process(
    settings: Real, backbone: Backbone, expected: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "_BATCHES", 1)
    states = list(make_pairs(settings, backbone, tmp_path / "out", Worker.of("1/1")))
    # portions of a batch each, so that the networks see the batches of one process
    for stage in ("scorer-gap", "losers", "encoding"):
        assert [state for state in states if state.stage == stage] == expected.of(stage), stage
    assert contents(tmp_path / "out") == expected.files
    with pytest.raises(UserError, match="--part 1/1"):
        list(make_pairs(settings, backbone, tmp_path / "other", Worker.of("1/2")))
    assert not (tmp_path / "other").exists()


def test_a_worker_that_is_behind_takes_nothing_back(tmp_path: Path) -> None:
    square = Size(32, 32)
    table = PhotoTable(tmp_path / TABLE, [square], sorted_from=3)
    candidates = []
    for number in range(2):
        image = InFile(Path(f"{number}.png"))
        candidates.append(Candidate(number, f"{number:016x}", image.name, image, square, 0, square, 0, "a fox"))
    table.reaching(0).add([PhotoRow(each.number, each) for each in candidates])
    # one is left out by a filter, the other one goes through it and the next one
    table.reaching(1).write([PhotoRow(0, LeftOut("0.png", "top-k", "is not of the best")), PhotoRow(1, candidates[1])])
    table.reaching(2).write([PhotoRow(1, replace(candidates[1], scores={"loser clip": 2.0}))])
    before = [list(table.reaching(stage)) for stage in range(4)]
    late = [replace(each, scores={"winner clip": 1.0}) for each in candidates]
    table.reaching(1).note(late)
    table.reaching(1).write([PhotoRow(1, LeftOut("1.png", "top-k", "is not of the best"))])
    assert [list(table.reaching(stage)) for stage in range(4)] == before and len(before[3]) == 1
    table.close()
