"""A gain on what was trained for that held-out judges do not share is flagged, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from contrapose.errors import UserError
from contrapose.evaluate.alarm import Alarm, held_out_of, of_trained_judges
from contrapose.evaluate.lines import summary_lines
from contrapose.evaluate.rows import EvidenceRow
from contrapose.evaluate.summary import Summary, read_summary, write_summary
from contrapose.evaluate.summing import SummarySettings, summarize
from contrapose.judges.judge import Jury

DIRECTIONS = {"reward": True, "other": True, "artefacts": False, "drift": None}


def judged(name: str, gains: dict[str, float], seed: int = 1) -> list[EvidenceRow]:
    """40 prompts of normal values with these means."""
    rng = np.random.default_rng(seed)
    return [
        EvidenceRow(name, f"p{number}", "all", 0, metric, float(0.3 * rng.normal()) + gain)
        for metric, gain in gains.items()
        for number in range(40)
    ]


def summed(gains: dict[str, float], trained_for: tuple[str, ...] = ("reward",), **settings: object) -> Summary:
    rows = judged("base", dict.fromkeys(gains, 0.0)) + judged("a", gains, seed=2)
    values = {"base": "base", "higher_is_better": DIRECTIONS, "replicates": 400, "trained_for": trained_for}
    return summarize(rows, SummarySettings(**(values | settings)))


@pytest.mark.parametrize(
    ("gains", "held_out"),
    [
        ({"reward": 1, "other": 0}, ("other",)),
        ({"reward": 1, "other": 0, "artefacts": 0}, ("other", "artefacts")),
        ({"reward": 1, "other": -1}, ("other",)),
        ({"reward": 1, "other": 1, "artefacts": 1}, ("artefacts",)),  # of which fewer are better
        ({"reward": 1, "artefacts": 0, "drift": 5}, ("artefacts",)),
    ],
    ids=str,
)
def test_a_gain_that_is_not_shared_is_flagged(gains: dict[str, float], held_out: tuple[str, ...]) -> None:
    (alarm,) = summed(gains).alarms
    assert (alarm.name, alarm.trained_for, alarm.held_out) == ("a", "reward", held_out)


@pytest.mark.parametrize(
    ("gains", "trained_for"),
    [
        ({"reward": 1, "other": 1}, ("reward",)),
        ({"reward": 1, "artefacts": -1}, ("reward",)),
        ({"reward": 1, "other": 1, "artefacts": 0}, ("reward",)),
        ({"reward": 0, "other": 0}, ("reward",)),
        ({"reward": -1, "other": 0}, ("reward",)),
        ({"reward": 1, "other": 0}, ()),
        ({"reward": 1, "other": 1, "artefacts": -1}, ("reward", "other")),
    ],
    ids=str,
)
def test_shared_gains_and_no_gains_are_not_flagged(gains: dict[str, float], trained_for: tuple[str, ...]) -> None:
    summary = summed(gains, trained_for)
    assert summary.alarms == ()
    assert not any("Trained for" in note for note in summary.notes)


@pytest.mark.parametrize(
    ("gains", "trained_for"),
    [
        ({"reward": 1}, ("reward",)),
        ({"reward": 1, "drift": 5}, ("reward",)),  # no judge, since neither way is the better one
        ({"reward": 1, "other": 0}, ("reward", "other")),
    ],
    ids=str,
)
def test_without_a_held_out_judge_there_is_a_note_and_no_alarm(
    gains: dict[str, float], trained_for: tuple[str, ...]
) -> None:
    summary = summed(gains, trained_for)
    assert summary.alarms == ()
    assert f"Trained for {', '.join(trained_for)}, and judged by nothing that was held out" in summary.notes[-1]


def test_two_rewards_are_two_alarms() -> None:
    summary = summed({"reward": 1, "other": 1, "artefacts": 1}, ("reward", "other"))
    assert [alarm.trained_for for alarm in summary.alarms] == ["reward", "other"]


def test_a_lower_reward_is_a_gain_where_lower_is_better() -> None:
    (alarm,) = summed({"artefacts": -1, "other": 0}, ("artefacts",)).alarms
    assert "artefacts, which it was trained for, a is clearly better than base (-1." in alarm.text
    assert ", where lower is better, win rate 100 %)" in alarm.text


def test_runs_of_a_method_raise_one_alarm() -> None:
    gains = {"reward": 1.0, "other": 0.0}
    rows = judged("base", dict.fromkeys(gains, 0.0))
    for seed in range(3):
        rows += judged(f"m/{seed}", gains, seed=seed + 5)
    summary = summarize(rows, SummarySettings("base", DIRECTIONS, 400, trained_for=("reward",)))
    assert [alarm.name for alarm in summary.alarms] == ["m"]


def test_the_words_have_the_numbers_and_reach_the_terminal_and_the_file(tmp_path) -> None:
    summary = summed({"reward": 1, "other": -1})
    (alarm,) = summary.alarms
    for metric in ("reward", "other"):
        compared = summary.comparisons["a"][metric]
        difference = compared.difference
        numbers = f"{difference.value:+#.3g} [{difference.low:+#.3g}, {difference.high:+#.3g}]"
        assert f"{numbers}, win rate {100 * compared.win_rate.value:.0f} %" in alarm.text
    assert "but clearly worse by other (" in alarm.text
    assert alarm.text in list(summary_lines(summary))
    write_summary(summary, tmp_path / "summary.json")
    assert read_summary(tmp_path / "summary.json") == summary
    (unclear,) = summed({"reward": 1, "other": 0}).alarms
    assert "but not clearly better by any judge held out of training: other (" in unclear.text


def test_other_readings_of_the_same_judge_are_not_held_out() -> None:
    def judge(name: str, *metrics: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, version="1", higher_is_better=dict.fromkeys(metrics, True))

    questions = judge("questions", "questions", "questions_mean", "questions_all")
    jury = Jury([questions, judge("pick", "pick")])
    assert of_trained_judges(questions, ["questions"]) == ("questions_mean", "questions_all")
    assert of_trained_judges(jury, ["questions_mean"]) == ("questions", "questions_all")
    assert of_trained_judges(jury, ["pick"]) == ()
    assert of_trained_judges(judge("shapes", "correct", "artefact_rate"), ["correct"]) == ()
    summary = summed({"reward": 1, "other": 0}, not_held_out=("other",))
    assert summary.alarms == () and held_out_of(summary, ["reward"]) == ["other"]


def test_what_was_not_judged_cannot_have_been_trained_for() -> None:
    with pytest.raises(UserError, match="--trained-for zz: is not judged here; choose from reward, other"):
        summed({"reward": 1, "other": 0}, ("zz",))
    with pytest.raises(UserError, match="--trained-for drift"):
        summed({"reward": 1, "drift": 0}, ("drift",))


def test_an_alarm_of_nobody_is_refused() -> None:
    summary = summed({"reward": 1, "other": 0})
    for wrong in (Alarm("zz", "reward", ("other",), ""), Alarm("a", "reward", ("zz",), "")):
        with pytest.raises(UserError, match="does not fit the models"):
            replace(summary, alarms=(wrong,))
