"""The page of sets of images: a table of numbers with their extractor, and how the command is typed again."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
from PIL import Image

from contrapose.cli.main import main
from contrapose.evaluate.evidence import read_evidence
from contrapose.evaluate.sets.numbers import MethodNumbers, SetNumber, SetNumbers
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.summary import read_summary, write_summary
from contrapose.report.numbers import Cell
from contrapose.report.page import Report, render
from contrapose.report.sets import set_headlines, set_section

LEVEL = 0.95


def number(value: float, width: float) -> SetNumber:
    return SetNumber(value, Interval(value, value - width, value + width))


def numbers() -> SetNumbers:
    runs = {f"ddspo/{seed}": {"fid": number(14 + seed, 0.4), "kid": number(0.002, 0.0001)} for seed in range(2)}
    gains = {name: {"fid": number(2, 0.3), "kid": number(0.001, 0.0001)} for name in runs}
    method = MethodNumbers(tuple(runs), {"fid": number(14.5, 4), "kid": number(0.002, 0.001)}, gains["ddspo/0"])
    return SetNumbers(
        "inception-clean abc", 2000, 5000, 20, {"fid": False, "kid": False},
        {"base": {"fid": number(12, 0.4), "kid": number(0.001, 0.0001)}, **runs}, gains, {"ddspo": method},
    )  # fmt: skip


def test_the_table() -> None:
    section = set_section(numbers(), LEVEL)
    assert section is not None
    assert section.about == "By inception-clean abc: 2,000 images of each model against 5,000 of the reference."
    assert "95 %" in section.intervals and "20 groups" in section.intervals
    fid, kid = section.tables
    assert [row.model for row in fid.rows] == ["base", "ddspo/0", "ddspo/1", "ddspo"]
    assert fid.rows[0].value == Cell("12.00", "[11.60, 12.40]") and fid.rows[0].difference is None
    assert fid.rows[1].difference == Cell("+2.00", "[+1.70, +2.30]")
    assert fid.rows[3].role == "2 training seeds"
    # KID in thousandths, as papers write it
    assert kid.direction == "lower is better, in thousandths" and kid.rows[0].value == Cell("1.00", "[0.90, 1.10]")


def test_headlines_say_which_side_and_not_which_is_better() -> None:
    """Methods stand in the place of their runs."""
    claims = set_headlines(numbers(), "base")
    assert [line.claim for line in claims] == ["fid of ddspo is above that of base"]
    text = "14.50 against 12.00, a difference of +2.00 [+1.70, +2.30], by inception-clean abc."
    assert claims[0].numbers == text
    lower = replace(
        numbers(),
        methods={},
        differences={name: {"fid": number(-2, 0.3), "kid": number(0.0, 0.1)} for name in ("ddspo/0", "ddspo/1")},
    )
    assert "fid of ddspo/0 is below that of base" in [line.claim for line in set_headlines(lower, "base")]
    assert set_headlines(None, "base") == []
    assert set_headlines(SetNumbers("lab-pixels-8 1", 12, 0, 6), "base") == []


def test_no_table_without_metrics() -> None:
    assert set_section(None, LEVEL) is None
    assert set_section(SetNumbers("lab-pixels-8 1", 12, 0, 6), LEVEL) is None


def test_numbers_without_intervals_stand_alone() -> None:
    few = SetNumbers("lab-pixels-8 1", 2, 9, 0, {"fid": False}, {"base": {"fid": SetNumber(0.25, None)}})
    section = set_section(few, LEVEL)
    assert section is not None and section.intervals == "" and not section.compared
    assert section.tables[0].rows[0].value == Cell("0.250", "")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets of two models by pixels."""
    folder = tmp_path_factory.mktemp("sets")
    for model, shade in (("base", 0), ("moved", 30)):
        for prompt in range(4):
            samples = folder / model / f"{prompt:05d}" / "samples"
            samples.mkdir(parents=True)
            line = {"prompt": f"a photograph {prompt}"}
            (samples.parent / "metadata.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
            for seed in range(2):
                noise = np.asarray(tiny_vision.noise_image(10 * prompt + seed)) // 2
                Image.fromarray(noise + np.uint8(shade)).save(samples / f"{seed:04d}.png")
    (folder / "photos").mkdir()
    for photo in range(5):
        tiny_vision.noise_image(100 + photo).save(folder / "photos" / f"{photo}.png")
    images = [f"{model}={folder / model}" for model in ("base", "moved")]
    words = ["--suite", "set", "--metrics", "fid", "kid", "--reference", str(folder / "photos"), "--features", "pixels"]
    assert main(["evaluate", *words, "--images", *images, "--replicates", "50", "--out", str(folder / "out")]) == 0
    return folder / "out"


def page_of(evidence: Path) -> str:
    return render(Report("Sets", evidence=(read_evidence(evidence),)))


def test_the_page_shows_sets_and_says_by_what_drift_is_told(evidence: Path) -> None:
    page = page_of(evidence)
    assert "By lab-pixels-8 1: 8 images of each model against 5 of the reference." in page
    assert "how it draws, not how well; by lab-pixels-8 1" in page
    value = read_summary(evidence / "summary.json").sets
    assert value is not None and f"{value.models['moved']['fid'].value:.3f}" in page


def test_the_page_says_how_it_was_typed(evidence: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command on the page, typed again elsewhere, gives the same summary."""
    page = page_of(evidence)
    line = next(line for line in page.splitlines() if "contrapose evaluate" in line)
    words = shlex.split(line[line.index("contrapose evaluate") :])[1:]
    words[words.index("--out") + 1] = str(tmp_path / "again")
    assert main(words) == 0
    assert (tmp_path / "again/summary.json").read_bytes() == (evidence / "summary.json").read_bytes()


def test_names_are_escaped(evidence: Path, tmp_path: Path) -> None:
    summary = read_summary(evidence / "summary.json")
    assert summary.sets is not None
    broken = replace(summary, sets=replace(summary.sets, extractor="<script>alert(1)</script>"))
    folder = tmp_path / "evidence"
    folder.mkdir()
    for name in ("evidence.yaml", "inputs.yaml", "rows.parquet"):
        (folder / name).write_bytes((evidence / name).read_bytes())
    write_summary(broken, folder / "summary.json")
    assert "<script>alert" not in page_of(folder)
