"""Files are whole or absent, and a folder has one writer."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from contrapose import files
from contrapose.errors import UserError
from contrapose.files import LOCK, discard, one_writer, replacing


def write(path: Path, text: str = "new") -> None:
    with replacing(path) as aside:
        aside.write_text(text)


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.txt"
    write(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as aside:
        aside.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_what_is_renamed_was_synced_before(tmp_path: Path, monkeypatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("sync") or sync(handle))
    monkeypatch.setattr(Path, "replace", lambda self, to: calls.append("rename") or replace(self, to))
    write(tmp_path / "a.txt")
    assert calls[:2] == ["sync", "rename"]
    calls.clear()
    with replacing(tmp_path / "folder") as aside:
        (aside / "in").mkdir(parents=True)
        (aside / "in" / "x").write_text("x")
    assert calls[:2] == ["sync", "rename"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_are_the_umask_s(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "a") as aside:
            os.close(os.open(aside, os.O_CREAT | os.O_WRONLY, 0o600))  # as some libraries do
        with replacing(tmp_path / "folder") as aside:
            aside.mkdir()
            os.close(os.open(aside / "x", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    for path in (tmp_path / "a", tmp_path / "folder" / "x"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("kind", ["fifo", "socket", "link to a file", "link to a folder", "broken link", "device"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(os.path.relpath(path))  # a socket's address is short
        bound.close()
    elif kind == "device":
        path = Path("/dev/null")
    else:
        target = tmp_path / "target"
        if kind == "link to a file":
            target.write_text("kept")
        elif kind == "link to a folder":
            target.mkdir()
        path.symlink_to(target)
    before = path.lstat()
    with pytest.raises(UserError, match=str(path)):
        write(path)
    assert os.path.samestat(path.lstat(), before)


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there: is a folder, where a file is to be written"):
        write(tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_partial_files_of_two_processes_have_two_names(tmp_path: Path, monkeypatch) -> None:
    with replacing(tmp_path / "a") as aside:
        aside.write_text("ours")
        assert str(os.getpid()) in aside.name
        monkeypatch.setattr(os, "getpid", lambda: 1)
        write(tmp_path / "a", "theirs")
    assert (tmp_path / "a").read_text() == "ours"


@pytest.mark.parametrize("how", [files.appending, replacing])
def test_a_full_disk_is_told_with_the_file(tmp_path: Path, how) -> None:
    with pytest.raises(UserError, match=r"a\.txt: the disk is full"), how(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")  # as writing does, without a name


HOLD = """
import sys, time
from pathlib import Path
from contrapose.files import one_writer
with one_writer(Path(sys.argv[1]), beside=sys.argv[2] == "beside"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path, where: str) -> None:
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out), where], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"out: process {holder.pid} on .* is writing here"), second(out, where):
            pass
    finally:
        holder.kill()
        holder.wait()
    with second(out, where):  # a killed one holds nothing
        pass
    assert list(tmp_path.rglob("*")) == ([out] if where == "inside" else [])  # made by the one that was killed


def second(out: Path, where: str):
    return one_writer(out, beside=where == "beside")


def test_a_refused_command_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError), one_writer(tmp_path / "a" / "b"):
        raise UserError("a setting is wrong")
    assert list(tmp_path.iterdir()) == []
    with one_writer(tmp_path / "a" / "b"):
        write(tmp_path / "a" / "b" / "x")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["x"]


def test_what_killed_processes_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine, theirs = files._HOST, "elsewhere"
    stay = [f".a.{mine}-{os.getppid()}.partial", f".a.{theirs}-{gone.pid}.partial", ".partial", "a.partial", ".hidden"]
    go = [f".a.txt.{mine}-{gone.pid}.partial", f"in/.b.{mine}-{gone.pid}.partial"]
    (tmp_path / "in").mkdir()
    for name in [*stay, *go]:
        (tmp_path / name).write_text("x")
    with one_writer(tmp_path):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in", *stay])
    assert list((tmp_path / "in").iterdir()) == []


def test_a_finished_folder_on_a_disk_that_cannot_be_written_stays_readable(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system", str(tmp_path / LOCK))

    monkeypatch.setattr(files, "_locked", refuse)
    with one_writer(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(UserError, match="is not a folder"), one_writer(tmp_path / "a"):
        pass


def test_a_full_disk_does_not_keep_the_lock_from_being_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with one_writer(tmp_path / "out"):
        assert (tmp_path / "out" / LOCK).exists()
    assert not (tmp_path / "out").exists()


def test_errors_name_the_file_and_not_what_is_aside(tmp_path: Path) -> None:
    with pytest.raises(OSError) as told, replacing(tmp_path / "page.html") as aside:
        raise OSError(errno.EROFS, "Read-only file system", str(aside))
    assert told.value.filename == str(tmp_path / "page.html")


def test_discarding(tmp_path: Path) -> None:
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    discard(tmp_path / "folder")
    discard(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_what_was_being_discarded_is_gone_or_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")

    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("contrapose.files.shutil.rmtree", stop)
    with pytest.raises(KeyboardInterrupt):
        discard(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    [left] = tmp_path.iterdir()
    assert left.name.endswith(".partial"), "which the next one to write here clears away"
