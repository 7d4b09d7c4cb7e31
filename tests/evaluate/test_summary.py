"""The summary says what the rows say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from contrapose.errors import UserError
from contrapose.evaluate.rows import EvidenceRow
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.summary import Metric, Summary, SummarySettings, read_summary, summarize, write_summary


def model(name: str, shift: float, seed: int = 0, metrics=("correct", "artefact_rate")) -> list[EvidenceRow]:
    rng = np.random.default_rng(seed)
    return [
        EvidenceRow(name, f"p{number}", "a" if number < 12 else "b", image, metric, float(rng.normal()) + shift)
        for metric in metrics
        for number in range(18)
        for image in range(2)
    ]


ROWS = model("base", 0) + model("same", 0) + model("better", 1) + model("floor", -9, 1) + model("ceiling", 9, 1)
SETTINGS = SummarySettings(base="base", higher_is_better={"artefact_rate": False}, replicates=400)


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarize(ROWS, SETTINGS)


def test_scores(summary):
    scores = summary.models["base"]
    assert scores.num_prompts == 18 and scores.num_images == 36 and scores.tags == {"a": 12, "b": 6}
    values = {
        tag: [r.value for r in ROWS if r.model == "base" and r.metric == "correct" and r.tag == tag] for tag in "ab"
    }
    overall = scores.metrics["correct"].overall
    assert overall.value == pytest.approx((np.mean(values["a"]) + np.mean(values["b"])) / 2)
    assert overall.low < overall.value < overall.high
    assert scores.metrics["correct"].tags["b"].value == pytest.approx(np.mean(values["b"]))


def test_bounds_have_scores_but_no_comparisons(summary):
    assert set(summary.models) == {"base", "same", "better", "floor", "ceiling"}
    assert set(summary.comparisons) == {"same", "better"}


def test_comparisons(summary):
    same, better = summary.comparisons["same"]["correct"], summary.comparisons["better"]["correct"]
    assert same.difference == Interval(0, 0, 0) and same.p == 1 and same.win_rate.value == 0.5
    assert better.difference.value == pytest.approx(1) and better.win_rate.value == 1
    assert better.tags["a"].low == pytest.approx(1)  # the same noise on both sides: paired, it cancels
    assert better.p < 0.01 and better.p_holm == pytest.approx(2 * better.p)


def test_a_win_is_the_better_image_but_a_difference_keeps_its_sign(summary):
    worse = summary.comparisons["better"]["artefact_rate"]
    assert worse.difference.value == pytest.approx(1) and worse.win_rate.value == 0
    assert summary.metrics == {"correct": Metric(True), "artefact_rate": Metric(False)}


def test_it_is_json_and_whole(summary, tmp_path):
    write_summary(summary, tmp_path / "summary.json")
    assert read_summary(tmp_path / "summary.json") == summary
    written = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert list(written) == ["base", "level", "replicates", "seed", "metrics", "models", "comparisons"]
    compared = written["comparisons"]["better"]["correct"]
    assert list(compared) == ["difference", "tags", "p", "win_rate", "p_holm"]
    assert list(compared["difference"]) == ["value", "low", "high"]
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_without_a_base_nothing_is_compared():
    assert summarize(model("a", 0), SummarySettings(replicates=50)).comparisons == {}


def test_what_cannot_be_summed_up_is_refused():
    with pytest.raises(UserError, match="no rows"):
        summarize([])
    with pytest.raises(UserError, match="base 'x'"):
        summarize(model("a", 0), SummarySettings(base="x"))
    with pytest.raises(UserError, match="missing from"):
        summarize(model("a", 0) + model("b", 0)[1:], SummarySettings(base="a", replicates=50))
