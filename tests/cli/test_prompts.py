"""`contrapose prompts`: dev and test are written whole or not at all, and lists that share prompts are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrapose.cli.main import main
from contrapose.store.prompts import read_prompts

LINES = [f"a picture of {number} cats" for number in range(100)]


@pytest.fixture(autouse=True)
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("\n".join([*LINES, LINES[3].upper(), LINES[4]]), encoding="utf-8")


def texts(path: str) -> list[str]:
    return [prompt.text for prompt in read_prompts(Path(path))]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert main(["prompts", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
    return line


def test_split(capsys):
    assert main(["prompts", "split", "p.txt", "--out-dev", "dev.jsonl", "--out-test", "out/test.jsonl"]) == 0
    assert "p.txt: 102 prompts, 2 left out as repeated" in capsys.readouterr().out
    dev, test = texts("dev.jsonl"), texts("out/test.jsonl")
    assert sorted([*dev, *test]) == sorted(LINES)
    assert 5 < len(dev) < 40
    assert main(["prompts", "check", "dev.jsonl", "--against", "out/test.jsonl"]) == 0
    assert "has 0 of them" in capsys.readouterr().out


def test_a_few_of_many(capsys):
    assert main(["prompts", "split", "p.txt", "--num-prompts", "10", "--out-test", "few.jsonl"]) == 0
    assert len(texts("few.jsonl")) == 10
    assert "few.jsonl: 10 prompts" in capsys.readouterr().out


def test_split_refuses(capsys):
    assert "name it .jsonl" in refused(capsys, "split", "p.txt", "--out-test", "test.txt")
    both = ("--out-dev", "a.jsonl", "--out-test", "a.jsonl")
    assert "--out-test too" in refused(capsys, "split", "p.txt", *both)
    apart = ("--out-dev", "a.jsonl", "--out-test", "b.jsonl")
    assert "b.jsonl: would hold no prompts" in refused(capsys, "split", "p.txt", *apart, "--dev-share", "1")
    assert "dev_share 1.5" in refused(capsys, "split", "p.txt", *apart, "--dev-share", "1.5")
    Path("own.jsonl").write_text('{"prompt": "a cat"}')
    assert "among what is read" in refused(capsys, "split", "own.jsonl", "--out-test", "own.jsonl")
    assert "no such file" in refused(capsys, "split", "none.txt", *apart)
    Path("bad.jsonl").write_text('{"prompt": "a cat"}\n{"prompt": ')
    assert "bad.jsonl: line 2" in refused(capsys, "split", "bad.jsonl", *apart)


def test_what_is_written_is_not_read_the_next_time(capsys):
    Path("lists").mkdir()
    Path("lists/a.txt").write_text("a cat\na dog")
    assert main(["prompts", "split", "lists", "--out-test", "lists/test.jsonl"]) == 2
    assert "among what is read" in capsys.readouterr().err


def test_check_tells_what_stands_in_both(capsys):
    Path("train.txt").write_text("A picture of  7 CATS\nanother", encoding="utf-8")
    assert main(["prompts", "check", "p.txt"]) == 0
    assert capsys.readouterr().out.startswith("102 prompts, 100 of them different\n")
    assert main(["prompts", "check", "p.txt", "--against", "train.txt"]) == 2
    printed = capsys.readouterr()
    assert "train.txt: has 1 of them, the first 'a picture of 7 cats'" in printed.out
    assert "1 prompts stand in other lists too" in printed.err
