"""What is no place for a result is told of before any work, and the same command again after success is fine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from contrapose.cli.main import main
from contrapose.files import one_writer

TOY = ["toy", "--seeds", "0", "--reference-steps", "3", "--train-steps", "2", "--pairs-per-class", "1", "2"]
SMALL = [*TOY, "--samples-per-class", "4", "--batch-size", "4"]
OF_FILES = {
    "prompts": ["shapes", "prompts", "{out}", "--per-tag", "2"],
    "show": ["pairs", "show", "nowhere", "--out", "{out}"],
    "report": ["report", "--run", "nowhere", "--out", "{out}"],
    "tables": ["tables", "--evidence", "nowhere", "--format", "md", "--out", "{out}"],
}
OF_FOLDERS = {
    "toy": [*SMALL, "--out", "{out}"],
    "photos": ["shapes", "photos", "--num-photos", "3", "--out", "{out}"],
    "pretrain": ["shapes", "pretrain", "--out", "{out}"],
    "quickstart": ["quickstart", "--out", "{out}"],
    "evaluate": ["evaluate", "--images", "base=nowhere", "--out", "{out}"],
    "sweep": ["sweep", "--model", "m", "--prompts", "nowhere.txt", "--positive", "r", "--out", "{out}"],
    "compare": ["sweep", "--compare", "a", "b", "--out", "{out}"],
}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def link(path: Path) -> None:
    path.symlink_to("elsewhere")


KINDS: dict[str, Callable[[Path], None]] = {"fifo": fifo, "socket": listening, "link": link, "folder": Path.mkdir}


def run(line: list[str], out: Path) -> int:
    return main([word.format(out=out) for word in line])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", OF_FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_place_for_a_file(command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    KINDS[kind](out)
    before = out.lstat().st_ino
    if command == "report":
        (tmp_path / "nowhere").mkdir()
    assert run(OF_FILES[command], out) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "out.jsonl" in lines[0]
    assert out.lstat().st_ino == before
    assert {path.name for path in tmp_path.iterdir()} <= {"out.jsonl", "nowhere"}


@pytest.mark.parametrize("command", OF_FOLDERS)
@pytest.mark.parametrize("kind", ["fifo", "socket", "file"])
def test_no_place_for_a_folder(command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    KINDS.get(kind, Path.touch)(out)
    assert run(OF_FOLDERS[command], out) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "out: is there and is not a folder" in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("line", [OF_FILES["prompts"], OF_FOLDERS["toy"], OF_FOLDERS["photos"]], ids=str)
def test_again_changes_nothing(line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    assert run(line, out) == 0
    told = capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert run(line, out) == 0
    again = capsys.readouterr()
    assert again.out.startswith(told.rstrip("\n"))
    assert "already" in again.out + again.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", ["toy", "photos", "pretrain", "quickstart"])
def test_a_folder_has_one_writer(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with one_writer(tmp_path / "out"):
        assert run(OF_FOLDERS[command], tmp_path / "out") == 2
    assert "is writing here" in capsys.readouterr().err
