"""The summary says what the rows say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from contrapose.errors import UserError
from contrapose.evaluate.lines import summary_lines
from contrapose.evaluate.rows import EvidenceRow
from contrapose.evaluate.statistics import Interval, holm
from contrapose.evaluate.summary import Metric, Summary, is_current, read_summary, write_summary
from contrapose.evaluate.summing import SummarySettings, summarize
from contrapose.evaluate.training_seeds import SeedMeans, over_seeds, smallest_difference


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


def test_a_metric_without_a_better_direction_costs_the_others_nothing():
    """Holm's p of quality metrics is as without drift beside them, whose own p is not adjusted."""
    metrics = ("correct", "drift", "artefact_rate")
    rows = model("base", 0, metrics=metrics) + model("moved", 0.9, seed=1, metrics=metrics)
    directions = {"artefact_rate": False, "drift": None}
    compared = summarize(rows, SummarySettings("base", directions, replicates=400)).comparisons["moved"]
    quality = [row for row in rows if row.metric != "drift"]
    alone = summarize(quality, SummarySettings("base", directions, replicates=400)).comparisons["moved"]
    assert {metric: compared[metric] for metric in alone} == alone
    assert compared["drift"].p_holm == compared["drift"].p
    assert compared["drift"].win_rate.value > 0.5
    assert [each.p_holm for each in alone.values()] == holm([each.p for each in alone.values()])


def test_it_is_json_and_whole(summary, tmp_path):
    write_summary(summary, tmp_path / "summary.json")
    assert read_summary(tmp_path / "summary.json") == summary
    written = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert list(written) == [
        "format", "base", "level", "replicates", "seed", "metrics", "models", "comparisons",
        "methods", "pairs", "notes", "alarms", "sets",
    ]  # fmt: skip
    compared = written["comparisons"]["better"]["correct"]
    assert list(compared) == ["difference", "tags", "p", "win_rate", "p_holm", "smallest_difference"]
    assert list(compared["difference"]) == ["value", "low", "high"]
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_summary_of_another_format_says_what_it_needs(summary, tmp_path):
    path = tmp_path / "summary.json"
    write_summary(summary, path)
    assert is_current(path)
    written = json.loads(path.read_text(encoding="utf-8"))
    for version in (1, 2, 4, "2", None):
        path.write_text(json.dumps(written | {"format": version}), encoding="utf-8")
        assert not is_current(path)
        with pytest.raises(
            UserError, match=r"summary.json: is not of format 3, .*; run the command that made it again"
        ):
            read_summary(path)
    assert not is_current(tmp_path / "none.json")


SEEDED = model("base", 0) + model("plain", 0.2, 7) + [
    row for seed in range(3) for row in model(f"ddspo/{seed}", 0.5 + 0.1 * seed, seed + 1)
]  # fmt: skip


@pytest.fixture(scope="module")
def seeded() -> Summary:
    return summarize(SEEDED, SETTINGS)


def values_of(name: str, metric: str) -> np.ndarray:
    """Each prompt's mean, in the order of the rows."""
    return np.array([row.value for row in SEEDED if (row.model, row.metric) == (name, metric)]).reshape(18, 2).mean(1)


def test_runs_of_a_method_are_combined_and_keep_their_own_numbers(seeded):
    assert set(seeded.comparisons) == {"plain", "ddspo/0", "ddspo/1", "ddspo/2"}
    assert set(seeded.methods) == {"ddspo"}
    method = seeded.methods["ddspo"]
    assert method.runs == ("ddspo/0", "ddspo/1", "ddspo/2")
    for metric in ("correct", "artefact_rate"):
        compared = method.comparisons[metric]
        alone = [seeded.comparisons[run][metric] for run in method.runs]
        assert compared.difference.value == pytest.approx(np.mean([run.difference.value for run in alone]))
        assert compared.win_rate.value == pytest.approx(np.mean([run.win_rate.value for run in alone]))
        assert 0 <= compared.win_rate.low < compared.win_rate.high <= 1
        assert set(compared.tags) == {"a", "b"}
        scores = [seeded.models[run].metrics[metric].overall.value for run in method.runs]
        assert method.metrics[metric].overall.value == pytest.approx(np.mean(scores))
        assert (compared.p < 0.05) == (compared.difference.low > 0)


def test_the_interval_of_a_method_is_that_over_seeds_and_prompts(seeded):
    gains = [values_of(f"ddspo/{seed}", "correct") - values_of("base", "correct") for seed in range(3)]
    means = SeedMeans(np.array(gains), ("a",) * 12 + ("b",) * 6)
    compared = seeded.methods["ddspo"].comparisons["correct"]
    interval = over_seeds(means)
    assert (compared.difference.low, compared.difference.high) == (
        pytest.approx(interval.low), pytest.approx(interval.high),
    )  # fmt: skip
    assert compared.smallest_difference == pytest.approx(smallest_difference(means))
    p_values = [seeded.methods["ddspo"].comparisons[metric].p for metric in ("correct", "artefact_rate")]
    assert [seeded.methods["ddspo"].comparisons[m].p_holm for m in ("correct", "artefact_rate")] == holm(p_values)


def test_one_run_tells_what_its_prompts_can_show_and_that_it_is_one_run(seeded):
    gains = values_of("plain", "correct") - values_of("base", "correct")
    means = SeedMeans(gains[None], ("a",) * 12 + ("b",) * 6)
    assert seeded.comparisons["plain"]["correct"].smallest_difference == pytest.approx(smallest_difference(means))
    (note,) = seeded.notes
    assert note.startswith("One training seed each: plain. ") and "no evidence of a method" in note
    assert summarize([row for row in SEEDED if row.model != "plain"], SETTINGS).notes == ()


def test_prompts_with_several_folders_are_told_of():
    """Each folder counts as a prompt, however alike their images are."""
    rows = [row._replace(prompt_id=f"{row.prompt_id}-{int(row.prompt_id[1:]) // 2}") for row in model("a", 0)]
    (note,) = summarize(rows, SummarySettings(replicates=50)).notes
    assert note.startswith("9 of 9 prompts have several folders each, 18 in all, which count as prompts of their own.")
    one_each = [row._replace(prompt_id=f"00001-{row.prompt_id[1:]}") for row in model("a", 0)]
    assert summarize(one_each, SummarySettings(replicates=50)).notes == ()


def test_rounding_is_no_difference_that_could_be_seen():
    rows = [row._replace(value=0.1 * (row.model == "b") + 0.2) for row in model("a", 0) + model("b", 0)]
    noisy = [row._replace(value=row.value + 1e-17 * number) for number, row in enumerate(rows)]
    compared = summarize(noisy, SummarySettings(base="a", replicates=50)).comparisons["b"]["correct"]
    assert compared.difference.value == pytest.approx(0.1) and compared.smallest_difference == 0


def test_a_name_with_a_seed_alone_is_a_model(seeded):
    rows = [row for row in SEEDED if row.model in ("base", "ddspo/1")]
    summary = summarize(rows, SETTINGS)
    assert summary.methods == {} and set(summary.comparisons) == {"ddspo/1"} and summary.notes
    # the base is no run of the method that it is compared with
    rows = [row for row in SEEDED if row.model.startswith("ddspo")]
    summary = summarize(rows, SummarySettings(base="ddspo/0", replicates=50))
    assert summary.methods["ddspo"].runs == ("ddspo/1", "ddspo/2")


def test_without_a_base_methods_have_scores_alone(seeded):
    summary = summarize(SEEDED, SummarySettings(replicates=50))
    assert summary.methods["ddspo"].comparisons == {}
    assert summary.methods["ddspo"].metrics == seeded.methods["ddspo"].metrics


def test_runs_on_other_images_are_refused():
    with pytest.raises(UserError, match="missing from"):
        summarize(SEEDED[:-1], SummarySettings(replicates=50))


@pytest.fixture(scope="module")
def pairs():
    """The base, and three methods of two, three and two seeds."""
    rows = model("base", 0)
    for method, gain, seeds in (("a", 0.9, 2), ("b", 0.5, 3), ("c", 0.5, 2)):
        for seed in range(seeds):
            rows += model(f"{method}/{seed}", gain + 0.01 * seed, seed=7 * len(rows))
    return rows, summarize(rows, SummarySettings("base", {"artefact_rate": False}, replicates=50))


def test_every_two_methods_are_compared_with_each_other(pairs):
    _, summary = pairs
    assert [str(pair) for pair in summary.pairs] == ["a against b", "a against c", "b against c"]
    means = {name: scores.metrics["correct"].overall.value for name, scores in summary.methods.items()}
    for pair in summary.pairs:
        difference = pair.comparisons["correct"].difference
        assert difference.value == pytest.approx(means[pair.first] - means[pair.second])
    p_values = [pair.comparisons[metric].p for pair in summary.pairs for metric in summary.metrics]
    adjusted = [pair.comparisons[metric].p_holm for pair in summary.pairs for metric in summary.metrics]
    assert adjusted == holm(p_values)
    lines_of_pairs = [line for line in summary_lines(summary) if " against b:" in line or " against c:" in line]
    assert len(lines_of_pairs) == 3


def test_wins_of_two_methods_are_counted_run_by_run(pairs):
    rows, summary = pairs
    of_correct = [row for row in rows if row.metric == "correct"]
    by_image = {(row.model, row.prompt_id, row.seed): row.value for row in of_correct}
    images = sorted({(row.prompt_id, row.seed, row.tag) for row in of_correct})
    by_tag = {}
    for prompt, seed, tag in images:
        for first in ("a/0", "a/1"):
            for second in ("b/0", "b/1", "b/2"):
                difference = by_image[first, prompt, seed] - by_image[second, prompt, seed]
                by_tag.setdefault(tag, []).append(0.5 + 0.5 * np.sign(difference))
    expected = np.mean([np.mean(wins) for wins in by_tag.values()])
    assert summary.pairs[0].comparisons["correct"].win_rate.value == pytest.approx(expected)
    lower_is_better = summary.pairs[0].comparisons["artefact_rate"].win_rate.value
    assert lower_is_better < 0.5 < summary.pairs[0].comparisons["correct"].win_rate.value


def test_a_pair_that_does_not_fit_the_methods_is_refused(pairs):
    _, summary = pairs
    first = summary.pairs[0]
    for wrong in (replace(first, second="zz"), replace(first, comparisons={})):
        with pytest.raises(UserError, match="does not fit the methods"):
            replace(summary, pairs=(wrong,))


def test_methods_that_do_not_fit_the_models_are_refused(seeded):
    method = seeded.methods["ddspo"]
    for wrong in (
        replace(method, runs=("ddspo/0", "zz")),
        replace(method, runs=("ddspo/0",)),
        replace(method, metrics={"correct": method.metrics["correct"]}),
        replace(method, comparisons={}),
    ):
        with pytest.raises(UserError, match="does not fit the models"):
            replace(seeded, methods={"ddspo": wrong})


def test_the_lines_of_a_terminal_combine_runs(seeded):
    text = list(summary_lines(seeded))
    combined = next(line for line in text if line.startswith("ddspo "))
    difference = seeded.methods["ddspo"].comparisons["correct"].difference
    assert f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] against base" in combined
    assert "(3 training seeds)" in combined
    assert [line.split()[0] for line in text] == ["base", "plain", "ddspo", "ddspo/0", "ddspo/1", "ddspo/2", "One"]


def test_without_a_base_nothing_is_compared():
    assert summarize(model("a", 0), SummarySettings(replicates=50)).comparisons == {}


def test_what_cannot_be_summed_up_is_refused():
    with pytest.raises(UserError, match="no rows"):
        summarize([])
    with pytest.raises(UserError, match="base 'x'"):
        summarize(model("a", 0), SummarySettings(base="x"))
    with pytest.raises(UserError, match="missing from"):
        summarize(model("a", 0) + model("b", 0)[1:], SummarySettings(base="a", replicates=50))
