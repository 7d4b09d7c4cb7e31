"""GenEval's files out: a model's results.jsonl and the summary of it, from rows whose judge said what it saw."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contrapose.evaluate.evidence import Record, evaluate, read_evidence
from contrapose.evaluate.geneval.results import Tally, write_results
from contrapose.evaluate.geneval.suite import TITLE
from contrapose.evaluate.rows import EvidenceRow, read_rows, read_seen, write_rows
from contrapose.evaluate.suites import Scores
from contrapose.evaluate.verdict import Detection, as_marks, verdict
from contrapose.judges.colours import Colours
from contrapose.report.evidence import Judged

CAT = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}]}
DOGS = {"tag": "counting", "include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}]}


class Bright:
    """A judge that sees one cat in bright images, and three dogs in all; what is bright is red."""

    name = "bright"
    version = "1"
    higher_is_better = {"correct": True}  # noqa: RUF012

    def __call__(self, images, prompts):
        verdicts = []
        for image, prompt in zip(images, prompts, strict=True):
            pixels = np.asarray(image)
            mask = np.ones(pixels.shape[:2], dtype=bool)
            objects = {"dog": [Detection((n, 0, n + 1, 2), mask, 0.95) for n in range(3)], "cup": []}
            if pixels.mean() > 100:
                objects["cat"] = [Detection((0, 0, 4, 3), mask, 0.5), Detection((1, 1, 2, 2), mask, 0.25)]
            metadata = {"prompt": prompt.text, **prompt.fields}
            verdicts.append(verdict(pixels, metadata, objects, lambda *_: "red"))
        return {"correct": as_marks(verdicts)}


@dataclass(frozen=True)
class Suite:
    """Of the judge above."""

    bounds = None
    counted = ""
    title = TITLE

    def load(self, device):
        return Bright()

    def check(self, prompts):
        pass

    def inputs(self):
        return {}


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Of each model two images of two prompts, of which one of the base's and three of the other's are bright."""
    folders = {}
    for name, bright in (("base", 1), ("ddspo/0", 3), ("ddspo/1", 4)):
        folder = folders[name] = tmp_path / name
        for number, line in enumerate([{"prompt": "a red cat", **CAT}, {"prompt": "two dogs", **DOGS}]):
            (folder / f"{number:05d}" / "samples").mkdir(parents=True)
            (folder / f"{number:05d}" / "metadata.jsonl").write_text(json.dumps(line), encoding="utf-8")
            for seed in range(2):
                colour = "white" if 2 * number + seed < bright else "black"
                Image.new("RGB", (4, 3), colour).save(folder / f"{number:05d}" / "samples" / f"{seed:04d}.png")
    return folders


def judged(images: dict[str, Path], out: Path) -> bool:
    record = Record("t", {"name": "geneval"}, images, "base", 20)
    return evaluate(record, Suite(), out)[1]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_results_are_genevals(images, tmp_path):
    assert judged(images, tmp_path / "out")
    first, second, third, _ = lines(tmp_path / "out/results/base.jsonl")
    assert first == {
        "filename": str(images["base"] / "00000/samples/0000.png"),
        "tag": "colors",
        "prompt": "a red cat",
        "correct": True,
        "reason": "",
        "metadata": json.dumps({"prompt": "a red cat", **CAT}),
        "details": json.dumps({"dog": [[n, 0, n + 1, 2, 0.95] for n in range(3)], "cat": [[0, 0, 4, 3, 0.5]]}),
        "colors": json.dumps({"cat": ["red"]}),
    }
    assert not second["correct"] and second["reason"] == "expected cat >= 1, found 0"
    assert json.loads(third["details"]).keys() == {"dog"} and json.loads(third["colors"]) == {}
    assert [line["correct"] for line in lines(tmp_path / "out/results/ddspo%2F0.jsonl")] == [True, True, False, False]


def test_the_summary_is_genevals(images, tmp_path):
    judged(images, tmp_path / "out")
    assert (tmp_path / "out/results/base.txt").read_text().splitlines() == [
        f"{TITLE}: base",
        "",
        "Summary",
        "=======",
        "Total images: 4",
        "Total prompts: 2",
        "% correct images: 25.00%",
        "% correct prompts: 50.00%",
        "",
        "Task breakdown",
        "==============",
        "colors           = 50.00% (1 / 2)",
        "counting         = 0.00% (0 / 2)",
        "",
        "Overall score (avg. over tasks): 0.25000",
    ]


def test_the_overall_score_weighs_categories_alike_and_prompts_are_told_apart_by_their_lines():
    tally = Tally("t", "m")
    for tag, metadata, correct in (("a", "1", True), ("b", "2", False), ("b", "2", True), ("b", "3", False)):
        tally.count({"tag": tag, "metadata": metadata, "correct": correct})
    assert "Overall score (avg. over tasks): 0.66667" in tally.text()  # (1 + 1/3) / 2
    assert "% correct images: 50.00%" in tally.text()
    assert "% correct prompts: 66.67%" in tally.text()


def test_what_was_deleted_is_written_again_without_judging(images, tmp_path):
    judged(images, tmp_path / "out")
    path = tmp_path / "out/results/base.jsonl"
    before = path.read_bytes()
    path.unlink()
    assert not judged(images, tmp_path / "out")
    assert path.read_bytes() == before


def test_what_was_seen_stays_on_the_disk_and_old_rows_have_none(tmp_path):
    rows = [EvidenceRow("a", "p", "t", n, "m", 1.0, None, '{"details": {}}' if n else None) for n in range(3)]
    path = tmp_path / "rows.parquet"
    write_rows(rows, path)
    assert list(read_seen(path)) == rows[1:]
    assert [row.seen for row in read_rows(path)] == [None] * 3
    pq.write_table(pq.read_table(path).drop_columns(["seen"]), path)
    assert list(read_seen(path)) == []
    assert len(read_rows(path)) == 3
    write_results(path, {"a": tmp_path}, TITLE, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_suite_that_does_not_say_what_it_saw_writes_none(images, tmp_path):
    record = Record("t", {"name": "scores"}, images, "base", 20)
    evaluate(record, Scores((Colours(),)), tmp_path / "scores")
    assert (tmp_path / "scores/rows.parquet").exists()
    assert not (tmp_path / "scores/results").exists()


def test_geneval_is_named_in_tables(images, tmp_path):
    judged(images, tmp_path / "out")
    table = Judged(read_evidence(tmp_path / "out")).table("correct")
    assert table.metric == "GenEval (HF detector): correct"
