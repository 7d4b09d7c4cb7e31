"""Which scale and checkpoint a rule takes, on scores made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.evaluate.rows import EvidenceRow
from contrapose.evaluate.summary import write_summary
from contrapose.evaluate.summing import SummarySettings, summarize
from contrapose.report.page import render
from contrapose.studies.choosing import DevChoices, DevScore, Picked, pick
from contrapose.studies.deciding import Deciding
from contrapose.studies.report import write_study_report
from contrapose.studies.settings import CONVERTER, Study
from contrapose.studies.tables import beside_published, dev_scores

Row = tuple[float, int | None, tuple[float, ...]]


def candidates(*rows: Row) -> list[DevScore]:
    return [DevScore("m", step, scale, scores) for scale, step, scores in rows]


@pytest.mark.parametrize(
    ("rows", "rule", "higher", "expected"),
    [
        # the best mean, which one seed alone would not have chosen
        ([(1, None, (0.9, 0.1)), (3, None, (0.6, 0.6))], "mean", True, Picked(3, None)),
        # the lowest of each: .5 against .4
        ([(1, None, (0.9, 0.4)), (3, None, (0.5, 0.5))], "lowest", True, Picked(3, None)),
        ([(1, None, (0.9, 0.4)), (3, None, (0.5, 0.5))], "mean", True, Picked(1, None)),
        # smaller is better: the lowest mean, and the smallest of the worst
        ([(1, None, (0.9, 0.1)), (3, None, (0.6, 0.6))], "mean", False, Picked(1, None)),
        ([(1, None, (0.9, 0.1)), (3, None, (0.6, 0.6))], "lowest", False, Picked(3, None)),
        # ties: the smaller scale first, whatever the order, then fewer steps
        ([(3, None, (0.5,)), (2, None, (0.5,)), (4, None, (0.5,))], "mean", True, Picked(2, None)),
        ([(2, 90, (0.5,)), (2, 60, (0.5,)), (3, 30, (0.5,))], "mean", True, Picked(2, 60)),
        ([(2, 90, (0.6,)), (2, 60, (0.5,)), (3, 30, (0.5,))], "mean", True, Picked(2, 90)),
    ],
)
def test_the_rule(rows: list[Row], rule: str, higher: bool, expected: Picked) -> None:
    assert pick(candidates(*rows), rule, higher) == expected
    assert pick(candidates(*reversed(rows)), rule, higher) == expected


def test_what_is_chosen_is_typed_as_a_user_would() -> None:
    assert Picked(7.5, 60).typed == ("7.5", "60")
    assert Picked(3.0, None).typed == ("3", "")


SETTINGS: dict[str, Any] = {
    "model": "m",
    "out": "o",
    "prompts": {"dev": {"file": "dev.txt"}, "test": {"file": "test.txt"}},
    "pairs": {"mine": {"folder": "p"}},
    "methods": {"dpo": {"align": "diffusion-dpo"}},
    "sampled": {"longer": {"options": {"steps": 50}}},
    "evaluations": {"shapes": {"suite": "shapes"}},
    "scales": [1],
    "choosing": {"scales": [1], "checkpoints": [5]},
}


def test_models_without_a_run_have_no_checkpoint_in_the_table() -> None:
    """The base, and what is sampled in another way, beside methods whose kept step is chosen."""
    measured = DevChoices(CONVERTER.structure(SETTINGS, Study))
    scores = [DevScore(group, None, 1.0, (0.5,)) for group in ("base", "longer")]
    # in place of what evaluations say
    vars(measured)["scores"] = [*scores, DevScore("dpo", 5, 1.0, (0.75,))]
    vars(measured)["by"] = Deciding(("correct",), {"correct": 1.0}, higher_is_better=True)
    rows = [[cell.text for cell in row] for row in dev_scores(measured).rows]
    assert [row[:2] for row in rows] == [["base", "–"], ["longer", "–"], ["dpo", "5"]]


def test_images_that_nobody_judges_have_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But stand on the page: the whole report ended with an error, after all runs."""
    images = tmp_path / "base/00000/samples"
    images.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(images / "0000.png")
    (images.parent / "metadata.jsonl").write_text('{"prompt": "a"}\n')
    change = {"evaluations": {"looks": {"suite": "none"}}, "choosing": None, "sampled": {}, "out": str(tmp_path)}
    study = CONVERTER.structure({**SETTINGS, **change, "prompts": {"test": {"file": "test.txt"}}}, Study)
    line = ["evaluate", "--suite", "none", "--images", f"base={tmp_path / 'base'}"]
    assert main([*line, "--out", str(tmp_path / "evidence/scale-1")]) == 0
    monkeypatch.setattr(
        "contrapose.studies.report.write_report", lambda report, _: render(replace(report, runs=(), pairs=None))
    )
    assert tmp_path / "tables.md" in write_study_report(study)
    assert (tmp_path / "tables.md").read_text() == ""
    assert main(["tables", "--evidence", str(tmp_path / "evidence/scale-1"), "--out", str(tmp_path / "t.md")]) == 2


def test_a_column_of_what_was_not_measured_is_refused(tmp_path: Path) -> None:
    rows = [EvidenceRow(model, f"p{n}", "a", 0, "correct", n / 4) for model in ("base", "dpo") for n in range(4)]
    evidence = tmp_path / "evidence/scale-1"
    evidence.mkdir(parents=True)
    write_summary(summarize(rows, SummarySettings("base", replicates=20)), evidence / "summary.json")

    def figures(**column: str) -> list[list[str]]:
        published = {"source": "nobody", "rows": {"base": {"GE": 0.5}}}
        change: dict[str, Any] = {
            "columns": {"GE": {"evaluation": "shapes", **column}},
            "published": published,
            "out": str(tmp_path),
        }
        change |= {"prompts": {"test": {"file": "test.txt"}}, "choosing": None, "sampled": {}}
        study = CONVERTER.structure({**SETTINGS, **change}, Study)
        assert study.published is not None
        (sheet,) = beside_published(DevChoices(study), study.published)
        return [[cell.text for cell in row] for row in sheet.rows]

    assert figures() == figures(metric="correct") == [["base", "0.38", "0.5"], ["dpo", "0.38", "–"]]
    assert figures(metric="correct", of="win-rate") == [["base", "–", "0.5"], ["dpo", "0.500", "–"]]
    for of in ("score", "win-rate"):
        with pytest.raises(UserError, match=rf"columns GE: corect has no {of} \(known: correct\)"):
            figures(metric="corect", of=of)
