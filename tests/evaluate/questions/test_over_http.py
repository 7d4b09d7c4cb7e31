"""The suite of questions over HTTP: by the chances that a server tells, else by the word, from the command line."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import tiny_vision
import yaml
from serving import serving, with_chances

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.evaluate.questions.suite import Questions
from contrapose.evaluate.rows import read_rows
from contrapose.store.prompts import Prompt

PROMPT = Prompt("three cats", {"questions": ["Is there a cat?", {"question": "How many?", "answer": "three"}]})


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("CONTRAPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("contrapose.endpoints.time.sleep", lambda seconds: None)


def by_chances(asked, n):
    if "many" in asked:
        return 200, with_chances("3", **{"3": 0.5, "Three": 0.25, "two": 0.25})
    return 200, with_chances("Yes", **{"Yes": 0.75, " yes": 0.125, "No": 0.125})


def by_word(asked, n):
    return 200, "Three." if "many" in asked else "No"


def test_soft_tifa_by_the_chances_that_are_told():
    with serving(by_chances) as stub:
        judge = Questions("tiny", judge=stub.url).load("cpu")
        marks = judge([tiny_vision.noise_image(1)], [PROMPT])
        assert marks["questions_mean"].values.tolist() == pytest.approx([(0.875 + 0.75) / 2])
        assert marks["questions_all"].values.tolist() == [1]
        assert all(asked.endswith("Answer in one word.") for asked in stub.asked if "grey" not in asked)


def test_a_word_counts_1_or_0_under_another_version():
    with serving(by_word) as stub:
        judge = Questions("tiny", judge=stub.url).load("cpu")
        marks = judge([tiny_vision.noise_image(1)], [PROMPT])
        assert marks["questions_mean"].values.tolist() == [0.5]
        assert marks["questions"].reason(0) == "Is there a cat?"
        assert judge.version != Questions("tiny", judge=stub.url, reading="chance").load("cpu").version
        stub.reply = lambda asked, n: (200, " ")
        with pytest.raises(UserError, match="is no word"):
            judge([tiny_vision.noise_image(2)], [PROMPT])


def images(folder: Path, seed: int) -> Path:
    for number in range(2):
        samples = folder / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        line = {"prompt": f"{number} cats", **PROMPT.fields}
        (samples.parent / "metadata.jsonl").write_text(json.dumps(line))
        tiny_vision.noise_image(seed + number).save(samples / "0000.png")
    return folder


def test_the_line_of_the_command_asks_nothing_twice(tmp_path, capsys):
    base, other = images(tmp_path / "a", 1), images(tmp_path / "b", 7)
    out = tmp_path / "evidence"
    line = ["evaluate", "--suite", "questions", "--images", f"base={base}", f"ddspo={other}"]
    line += ["--replicates", "20", "--out", str(out)]
    with serving(by_chances, {"/v1/models": {"data": [{"id": "qwen"}]}}) as stub:

        def broken(asked, n):
            return (500, b"") if len(stub.requests) > 4 else by_chances(asked, n)

        stub.reply = broken
        ask = [*line, "--judge", f"{stub.url}/v1", "--at-once", "1"]
        assert main([*ask, "--patience", "0.01"]) == 2
        (told,) = capsys.readouterr().err.strip().splitlines()
        assert "still HTTP 500 after 0.01 seconds" in told and not out.exists()
        stub.reply = by_chances
        num_before = len(stub.requests)
        assert main(ask) == 0
        # the first time whether chances are told and three answers, now the five others
        assert len(stub.requests) - num_before == 8 - 3
    values = [row.value for row in read_rows(out / "rows.parquet") if row.metric == "questions_mean"]
    assert values == pytest.approx([(0.875 + 0.75) / 2] * 4)


def test_a_server_that_has_moved_is_the_same_server(tmp_path, capsys):
    base, other = images(tmp_path / "a", 1), images(tmp_path / "b", 7)
    out = tmp_path / "evidence"
    line = ["evaluate", "--images", f"base={base}", f"ddspo={other}", "--replicates", "20", "--out", str(out)]
    line += ["--suite", "questions"]
    # again only whether it tells chances, which is no image of ours
    for most_asked, model, code in ((9, "qwen", 0), (1, "qwen", 0), (1, "other", 2)):
        with serving(by_chances, {"/v1/models": {"data": [{"id": model}]}}) as stub:
            address = f"{stub.url}/v1"
            assert main([*line, "--judge", address, "--cache", str(tmp_path / model), "--patience", "0"]) == code
            assert len(stub.requests) <= most_asked
        if code == 0:
            assert yaml.safe_load((out / "evidence.yaml").read_text())["suite"]["judge"] == address
    assert "another content of judge.questions" in capsys.readouterr().err


def test_a_scorer_that_has_moved_is_the_same_scorer(tmp_path, capsys):
    line = ["evaluate", "--suite", "scores", "--judges", "http", "--images", f"base={images(tmp_path / 'a', 1)}"]
    line += ["--replicates", "20", "--out", str(tmp_path / "evidence")]
    told = {"version": "1", "higher_is_better": {"mine": True}}

    def scores(asked, n):
        return 200, {"scores": [{"mine": 1}] * len(asked["images"])}

    for number in range(2):
        with serving(scores, {"/": told}) as stub:
            moved = ["--judges.0.address", stub.url, "--judges.0.asking.cache", str(tmp_path / str(number))]
            assert main([*line, *moved]) == 0
            assert bool(stub.requests) == (number == 0)
    assert "judged already" in capsys.readouterr().out


def test_a_server_that_is_silent_or_down_leaves_nothing(tmp_path, capsys):
    let_go = threading.Event()

    def silent(asked, n):
        let_go.wait(10)
        return by_chances(asked, n)

    base = images(tmp_path / "a", 1)
    line = ["evaluate", "--suite", "questions", "--images", f"base={base}", "--out", str(tmp_path / "out")]
    line += ["--answerer", "tiny", "--timeout", "0.05", "--patience", "0.1"]
    with serving(silent) as stub:
        assert main([*line, "--judge", stub.url]) == 2
        let_go.set()
    assert "timed out" in capsys.readouterr().err
    assert main([*line, "--judge", stub.url]) == 2
    assert "is the server running" in capsys.readouterr().err and not (tmp_path / "out").exists()
