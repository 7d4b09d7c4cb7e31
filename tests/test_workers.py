"""Workers of one folder make each of its files once, and none that was killed keeps one from the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contrapose.cli.device import OnDevice
from contrapose.cli.sharing import OF_ONE, Sharing
from contrapose.errors import UserError
from contrapose.files import CLAIM, LOCK, claimed, one_writer, write_text
from contrapose.processes import Launched, launched, may_meet_in_vain
from contrapose.workers import ALONE, Worker

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")


def files(out: Path, number: int = 10) -> list[tuple[Path, int]]:
    return [(out / f"{index}.txt", index) for index in range(number)]


def tasks(worker: Worker, out: Path) -> dict[str, list[int]]:
    """What a worker does with which of ten files, in its order; it makes those that it is to make."""
    done: dict[str, list[int]] = {"make": [], "look": [], "leave": []}
    with worker.writing(out):
        for path, number, task in worker.turns(files(out)):
            done[task].append(number)
            if task == "make":
                write_text(path, str(number))
    return done


def test_a_part_is_made_and_the_others_are_left(tmp_path: Path) -> None:
    parts = [tasks(Worker.of(f"{number}/3"), tmp_path)["make"] for number in (1, 2, 3)]
    assert parts == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert tasks(ALONE, tmp_path)["look"] == list(range(10))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path, _ in files(tmp_path))


def test_a_launched_worker_begins_with_its_own_and_ends_with_the_others(tmp_path: Path) -> None:
    first, second = (Worker.of(None, Launched(number, 2, number)) for number in (0, 1))
    assert tasks(second, tmp_path / "a")["make"] == [1, 3, 5, 7, 9, 8, 6, 4, 2, 0]
    assert tasks(first, tmp_path / "a") == {"make": [], "look": [0, 2, 4, 6, 8, 9, 7, 5, 3, 1], "leave": []}
    of_part = Worker.of("2/2", Launched(1, 2, 1))
    assert tasks(of_part, tmp_path / "b") == {"make": [3, 7, 9, 5, 1], "look": [], "leave": [0, 2, 4, 6, 8]}


def test_what_another_has_claimed_is_waited_for_at_the_end(tmp_path: Path) -> None:
    """Two in one process take turns: each file is made by one of them."""
    whole = Worker.of("1/1")
    mine, theirs = whole.turns(files(tmp_path, 3)), whole.turns(files(tmp_path, 3))
    assert next(mine)[1:] == (0, "make")
    assert next(theirs)[1:] == (1, "make"), "the first is claimed"
    write_text(tmp_path / "0.txt", "0")
    assert next(mine)[1:] == (2, "make")
    mine.close()  # as by an error: what was claimed is free again
    write_text(tmp_path / "1.txt", "1")
    assert [turn[1:] for turn in theirs] == [(2, "make"), (0, "look")]
    assert not list(tmp_path.glob(f".*{CLAIM}"))


@pytest.mark.parametrize("part", ["0/8", "9/8", "3", "a/b", "1/0", "-1/8", "1/8/2", ""])
def test_what_is_no_part_is_told(part: str) -> None:
    with pytest.raises(UserError, match="from 1/8 to 8/8"):
        Worker.of(part)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, Launched(9, 16, 1)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, Launched(3, 8, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # the script of a batch
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}, Launched(1, 2, 1)),
    ],
)
def test_what_launchers_say(
    environment: dict[str, str], expected: Launched | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched() == expected


def test_old_addresses_are_warned_of_where_processes_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for num_restarts, warns in (("0", False), ("3", True)):
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", num_restarts)
        assert may_meet_in_vain() == warns
    # as torchrun says it with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert not may_meet_in_vain()


@pytest.mark.parametrize(
    ("device", "expected"), [(None, "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
)
def test_each_process_of_a_machine_has_a_gpu_in_turn(
    device: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("contrapose.backbones.loading.check_device", lambda _: None)
    for name, value in {"RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    assert OnDevice(device=device).name == expected


@pytest.mark.parametrize(("part", "is_noted"), [(None, False), ("1/1", True)])
def test_what_fails_in_one_of_several_is_known_for_it(
    part: str | None, is_noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError) as raised, Sharing(part=part).working():
        raise ValueError
    assert (OF_ONE in getattr(raised.value, "__notes__", ())) == is_noted


HOLD = """
import sys, time
from pathlib import Path
from contrapose.files import claimed, one_writer
with one_writer(Path(sys.argv[1]), several=True), claimed(Path(sys.argv[1]) / "0.txt") as is_mine:
    print(is_mine, flush=True)
    time.sleep(60)
"""


def test_a_killed_worker_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "True\n"
        with (
            pytest.raises(UserError, match=rf"process {holder.pid} on .* is writing here; .*--part 1/1 to share"),
            ALONE.writing(out),
        ):
            pass
        with one_writer(out, several=True), claimed(out / "0.txt") as is_mine:
            assert not is_mine
    finally:
        holder.kill()
        holder.wait()
    with one_writer(out, several=True):
        assert not list(out.glob(f".*{CLAIM}")), "what it had claimed is cleared away"
        with claimed(out / "0.txt", wait=True) as is_mine:
            assert is_mine
        write_text(out / "0.txt", "0")
    assert [path.name for path in out.iterdir()] == ["0.txt"]


def test_one_that_wants_the_folder_alone_is_told_to_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrapose.files._PATIENCE", 0.0)
    with one_writer(tmp_path), pytest.raises(UserError, match="is writing here"), one_writer(tmp_path, several=True):
        pass
    with one_writer(tmp_path, several=True), one_writer(tmp_path, several=True):
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir()), "the last one takes the lock away"


def test_a_disk_without_locks_claims_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("contrapose.files.fcntl.flock", refuse)
    made = [tasks(Worker.of("1/1"), tmp_path)["make"] for _ in range(2)]
    assert made == [list(range(10)), []]
    assert not list(tmp_path.glob(f".*{CLAIM}"))
