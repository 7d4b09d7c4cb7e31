"""An evaluation that was killed, or is shared by several processes, comes to the bytes of one that was not."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_vision
from judging import Measure, OfJudge, PerImage

from contrapose import files
from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.evaluate import evidence, kept, run
from contrapose.evaluate.rows import EvidenceRow
from contrapose.evaluate.run import ImagePart
from contrapose.evaluate.sweep import JudgedBy
from contrapose.judges.colours import Colours
from contrapose.judges.judge import Marks
from contrapose.store.prompts import Prompt

Evaluate = Callable[..., int]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Judge six images each of two models with these flags more; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    for model in ("base", "better"):
        for number in range(6):
            samples = tmp_path / model / f"{number:05d}" / "samples"
            samples.mkdir(parents=True)
            (samples.parent / "metadata.jsonl").write_text(json.dumps({"prompt": f"prompt {number}"}) + "\n")
            tiny_vision.noise_image(len(model) + number, (8, 8)).save(samples / "0000.png")

    def run_command(*more: str, models: tuple[str, ...] = ("base", "better")) -> int:
        given = ["--images", *(f"{name}={name}" for name in models)]
        return main(["evaluate", *given, "--replicates", "20", "--out", "out", *more])

    return run_command


COLOURS = ["--suite", "scores", "--judges", "colourfulness", "--features", "pixels", "--title", "colours"]
Judged = list[tuple[str, int]]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    """The model and the number of images of each file of rows that is made, of four images at most."""
    parts: Judged = []

    def noting(part: ImagePart, *rest: Any) -> Iterator[EvidenceRow]:
        parts.append((part.model, len(part.samples)))
        return run.judged(part, *rest)

    monkeypatch.setattr(kept, "judged", noting)
    monkeypatch.setattr(kept, "_PART", 4)
    return parts


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_evaluation_carries_on(
    evaluate: Evaluate, tmp_path: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(*COLOURS, "--out", "whole") == 0
    assert judged == [("base", 4), ("base", 2), ("better", 4), ("better", 2)]
    scores = Colours.__call__

    def killed(judge: Colours, *given: Any) -> dict[str, Marks]:
        if len(judged) == 7:
            raise KeyboardInterrupt
        return scores(judge, *given)

    monkeypatch.setattr(Colours, "__call__", killed)
    assert evaluate(*COLOURS) == 130
    assert not (tmp_path / "out/evidence.yaml").exists()
    monkeypatch.setattr(Colours, "__call__", scores)
    assert evaluate(*COLOURS) == 0
    assert judged[7:] == [("better", 4), ("better", 2)], "what was judged before the kill is not judged again"
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_disk_that_fills_up_leaves_whole_files_and_carries_on(
    evaluate: Evaluate,
    tmp_path: Path,
    judged: Judged,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each try has room for one file more, until all are there: features, rows by image, settings and summary."""
    assert evaluate(*COLOURS, "--out", "whole") == 0
    whole = content(tmp_path / "whole")
    settle = files._settle
    with_room: list[str] = []

    def settling(aside: Path, mode: int) -> None:
        if with_room:
            raise OSError(errno.ENOSPC, "No space left on device")
        settle(aside, mode)
        with_room.append(aside.name)

    monkeypatch.setattr(files, "_settle", settling)
    for number in range(1, len(whole)):
        with_room.clear()
        assert evaluate(*COLOURS) == 2
        assert "the disk is full; free some space and run the same command again" in capsys.readouterr().err
        there = content(tmp_path / "out")
        assert len(there) == number and there.items() <= whole.items(), "no file is cut, and none is written twice"
    with_room.clear()
    assert evaluate(*COLOURS) == 0
    assert content(tmp_path / "out") == whole


def test_parts_come_to_the_evaluation_of_one_process(
    evaluate: Evaluate, tmp_path: Path, judged: Judged, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(*COLOURS, "--out", "whole") == 0
    summary = capsys.readouterr().out
    del judged[:]
    assert evaluate(*COLOURS, "--part", "1/2") == 0
    assert judged == [("base", 4), ("better", 4)]
    assert "3 files of judged images are left to other parts" in capsys.readouterr().err
    assert main(["report", "--evidence", "out", "--out", "page.html"]) == 2
    assert "this is not finished evidence" in capsys.readouterr().err
    assert evaluate(*COLOURS, "--part", "2/2") == 0
    assert judged[2:] == [("base", 2), ("better", 2)]
    assert capsys.readouterr().out == summary
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_only_the_images_of_added_models_are_judged(evaluate: Evaluate, tmp_path: Path, judged: Judged) -> None:
    assert evaluate(*COLOURS, models=("base",)) == 0
    assert evaluate(*COLOURS) == 0
    assert [model for model, _ in judged] == ["base", "base", "better", "better"]
    assert len(list((tmp_path / "out/judged").iterdir())) == 4


def test_models_that_are_named_no_more_are_told_of(
    evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who names the new model alone, to add it, would lose the others without a word."""
    told = "out: holds better too, whose numbers go; name what is to stay in it"
    assert evaluate(*COLOURS) == 0
    assert told not in capsys.readouterr().err
    assert evaluate(*COLOURS, models=("base",)) == 0
    assert capsys.readouterr().err.count(told) == 1


@pytest.mark.usefixtures("evaluate")
def test_a_judge_s_number_is_not_called_what_another_is(tmp_path: Path) -> None:
    """It was shown as one that has no better direction, and with --features as judged twice."""
    record = evidence.Record("A title", {"name": "scores"}, {"base": tmp_path / "base"}, base="base")
    judge = PerImage(lambda image, _: [Measure("drift", float(image.mean()))], {"drift": True})
    with pytest.raises(UserError, match="judges: drift is what a number by --features is called"):
        evidence.evaluate(record, OfJudge(judge), tmp_path / "out")
    with pytest.raises(UserError, match="judges: drift is what"):
        JudgedBy(OfJudge(judge), {}).check([0.0], "cpu")


def test_one_that_was_killed_between_its_rows_and_its_summary_carries_on(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(*COLOURS, "--out", "whole") == 0
    assert evaluate(*COLOURS, models=("base",)) == 0

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(evidence, "write_summary", killed)
        assert evaluate(*COLOURS) == 130
    assert evaluate(*COLOURS) == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_rows_are_kept_under_all_that_decides_them(evaluate: Evaluate, tmp_path: Path) -> None:
    def names(images: str = "a", settings: str = "b", prompts: dict[str, list[Prompt]] | None = None) -> list[str]:
        models = {"base": tmp_path / "base"}
        kept_rows = kept.KeptRows.of(tmp_path, Colours(), models, prompts or {}, {"base": images}, settings)
        return [path.name for path, _ in kept_rows.parts]

    others = {"base": [Prompt(f"another prompt {number}") for number in range(6)]}
    every = [names(), names(images="c"), names(settings="c"), names(prompts=others)]
    assert names() == every[0] and len(set(map(tuple, every))) == 4
