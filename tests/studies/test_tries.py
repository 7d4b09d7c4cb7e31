"""Settings that are tried: which runs come of them, by scores of dev prompts that are written by hand."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.evaluate.evidence import SUMMARY
from contrapose.evaluate.statistics import Interval, TagIntervals
from contrapose.evaluate.summary import Metric, ModelScores, Summary, write_summary
from contrapose.studies.choosing import CHOICES, DevChoices, Placeholders, write_choices
from contrapose.studies.deciding import Choosing, deciding
from contrapose.studies.settings import CONVERTER, Study
from contrapose.studies.shell import plan_study
from contrapose.studies.stages import CommandLine, fix_of, stages
from contrapose.studies.tables import dev_tries

STUDY: dict[str, Any] = {
    "model": "m",
    "out": "o",
    "prompts": {"train": {"file": "train.txt"}, "dev": {"file": "dev.txt"}, "test": {"file": "test.txt"}},
    "pairs": {"drawn": {"options": {"steps": 1}}},
    "methods": {"a": {"align": "ddspo"}},
    "training": {"learning-rate": 1.0, "full": True},
    "seeds": [5, 6],
    "evaluations": {"scores": {"suite": "scores", "options": {"judges": ["pickscore"]}}},
    "scales": [1, 7.5],
    "choosing": {"scales": [1], "tries": {"learning-rate": [3.0e-5, 1.0e-4, 3.0e-4]}, "by": ["good:1", "bad:-0.5"]},
}
RATES = {"3e-05": 0.1, "0.0001": 0.9, "0.0003": 0.5}
Change = Mapping[str, Any]


def study_of(change: Change, out: Path = Path("o")) -> Study:
    """The study with some of its settings, and some of its way to choose, in place of others."""
    values = {**STUDY, **change, "out": str(out)}
    values["choosing"] = {**STUDY["choosing"], **change.get("choosing", {})}
    return CONVERTER.structure(values, Study)


def judged(line: CommandLine, good: Callable[[str], float]) -> None:
    """Write what an evaluation would, `good` being each model's score by its name; all are equally bad."""
    words = line.words
    names = [word.split("=")[0] for word in words[words.index("--images") + 1 : words.index("--out")]]
    models = {}
    for name in names:
        scores = {"good": good(name), "bad": 0.25}
        metrics = {metric: TagIntervals(Interval(score, score, score), {}) for metric, score in scores.items()}
        models[name] = ModelScores(1, 1, {}, metrics)
    metrics = {"good": Metric(True), "bad": Metric(False)}
    assert line.out is not None
    summary = Summary(None, 0.95, 1, 0, metrics, models, {}, {}, (), ())
    line.out.mkdir(parents=True, exist_ok=True)
    write_summary(summary, line.out / SUMMARY)


def carried_out(study: Study, good: Callable[[str], float]) -> list[str]:
    """The command lines of a study whose images score so, as they would be typed; the out folder is called o."""
    lines: list[str] = []
    for stage in stages(study, DevChoices(study)):
        for line in stage.lines:
            lines.append(shlex.join(line.words).replace(str(study.out), "o"))
            if line.words[0] == "evaluate":
                judged(line, good)
    return lines


def by_rate(name: str) -> float:
    """A try's score by its learning rate; .2 for all else."""
    return next((score for rate, score in RATES.items() if f"learning-rate-{rate}" in name), 0.2)


def runs_of(lines: list[str]) -> list[str]:
    """What is trained: each run's name, and the one that it starts from."""
    runs = []
    for line in lines:
        words = line.split()
        if words[0] == "align":
            start = f" of {words[words.index('--start') + 1]}" if "--start" in words else ""
            runs.append((words[words.index("--out") + 1] + start).replace("o/runs/", ""))
    return runs


OWN = {"align": "ddspo", "options": {"learning-rate": 0.01}}
GRID = {"learning-rate": [0.1, 0.2], "beta": [10, 20]}


@pytest.mark.parametrize(
    ("change", "good", "expected"),
    [
        # the best of three, and the other seed as it was best
        ({}, by_rate, ["a-learning-rate-3e-05-5", "a-learning-rate-0.0001-5", "a-learning-rate-0.0003-5",
                       "a-learning-rate-0.0001-6"]),
        # the smaller the better
        ({"choosing": {"by": ["good:-1"]}}, by_rate, [*(f"a-learning-rate-{rate}-5" for rate in RATES),
                                                      "a-learning-rate-3e-05-6"]),
        # ties: the earlier
        ({}, lambda name: 0.5, [*(f"a-learning-rate-{rate}-5" for rate in RATES), "a-learning-rate-3e-05-6"]),
        # one seed alone needs no number
        ({"seeds": [5]}, by_rate, [f"a-learning-rate-{rate}" for rate in RATES]),
        # what sets the option itself, or is not shown, is not tried
        ({"methods": {"a": {"align": "ddspo"}, "own": OWN, "fit": {"align": "sft", "shown": False}}}, by_rate,
         [*(f"a-learning-rate-{rate}-5" for rate in RATES),
          "a-learning-rate-0.0001-6", "own-5", "own-6", "fit-5", "fit-6"]),
        # every combination, but of what a method sets itself
        ({"choosing": {"tries": GRID}, "methods": {"a": {"align": "ddspo"}, "own": OWN}},
         lambda name: {"a-learning-rate-0.2-beta-10": 0.9, "own-beta-20": 0.8}.get(name, 0.1),
         ["a-learning-rate-0.1-beta-10-5", "a-learning-rate-0.1-beta-20-5", "a-learning-rate-0.2-beta-10-5",
          "a-learning-rate-0.2-beta-20-5", "own-beta-10-5", "own-beta-20-5", "a-learning-rate-0.2-beta-10-6",
          "own-beta-20-6"]),
        # tries of one's own instead, or none
        ({"choosing": {"tries": {"beta": [10, 20]}},
          "methods": {"a": {"align": "ddspo"}, "s": {"align": "sft", "tries": {"learning-rate": [0.1, 0.2]}},
                      "n": {"align": "sft", "tries": {}}, "fit": {"align": "sft", "shown": False, "tries": {}}}},
         lambda name: 0.9 if name in ("a-beta-20", "s-learning-rate-0.2") else 0.1,
         ["a-beta-10-5", "a-beta-20-5", "s-learning-rate-0.1-5", "s-learning-rate-0.2-5", "a-beta-20-6",
          "s-learning-rate-0.2-6", "n-5", "n-6", "fit-5", "fit-6"]),
        # level by level: the second starts from the chosen run of the first
        ({"methods": {"b": {"align": "ddspo", "start": "a"}, "a": {"align": "sft"}}}, by_rate,
         [*(f"a-learning-rate-{rate}-5" for rate in RATES), "a-learning-rate-0.0001-6",
          *(f"b-learning-rate-{rate}-5 of a-learning-rate-0.0001-5" for rate in RATES),
          "b-learning-rate-0.0001-6 of a-learning-rate-0.0001-6"]),
    ],
    ids=["best", "least", "ties", "one-seed", "own", "grid", "tries-of-its-own", "start"],
)  # fmt: skip
def test_the_best_try_alone_is_trained_with_the_other_seeds(
    change: Change, good: Callable[[str], float], expected: list[str], tmp_path: Path
) -> None:
    assert runs_of(carried_out(study_of(change, tmp_path), good)) == expected


def test_a_try_is_a_line_of_align_with_the_value_and_is_judged_beside_the_base(tmp_path: Path) -> None:
    lines = carried_out(study_of({"guided": {"g": {"positive": "a", "strengths": [2]}}}, tmp_path), by_rate)
    run = "o/runs/a-learning-rate-3e-05-5"
    assert f"align ddspo --model m --pairs o/pairs --out {run} --learning-rate 3e-05 --full --seed 5" in lines
    images = "o/images/dev/scale-7.5"
    drawn = f"sample --model m --prompts dev.txt --out {images}/a-learning-rate-3e-05-5 --adapter {run}"
    assert f"{drawn} --num-images 4 --guidance-scale 7.5" in lines
    tries = " ".join(f"a-learning-rate-{rate}={images}/a-learning-rate-{rate}-5" for rate in RATES)
    start = f"evaluate --suite scores --images base={images}/base {tries} --out o/evidence/dev/tries "
    assert any(line.startswith(start) for line in lines)
    # what is shown, and what guides, is the chosen run; its images lie where those of no other choice do
    chosen = "learning-rate-0.0001-6"
    assert any(f"--out o/images/scale-1/a-{chosen} --adapter o/runs/a-{chosen} " in line for line in lines)
    assert any(f"--out o/images/scale-1/g-w2-{chosen} --positive o/runs/a-{chosen} " in line for line in lines)


def test_choices_and_tables_tell_every_try(tmp_path: Path) -> None:
    study = study_of({"methods": {"a": {"align": "ddspo"}, "own": OWN}}, tmp_path)
    carried_out(study, by_rate)
    write_choices(DevChoices(study), tmp_path / CHOICES)
    choices = yaml.safe_load((tmp_path / CHOICES).read_text())
    assert choices["choices"]["a"] == {"scale": 1.0, "tried": {"learning-rate": 1.0e-4}}
    assert choices["choices"]["own"] == {"scale": 1.0}
    tries = [(each["model"], each["tried"]["learning-rate"], each["score"]) for each in choices["tries"]]
    # good less half of bad
    assert tries == [("a", float(rate), pytest.approx(score - 0.125)) for rate, score in RATES.items()]
    sheet = dev_tries(DevChoices(study))
    assert sheet.head == ("model", "try", "learning-rate", "score")
    assert [(row[1].text, row[2].text, row[3].is_best) for row in sheet.rows] == [
        ("1 of 3", "3e-05", False), ("2 of 3", "0.0001", True), ("3 of 3", "0.0003", False),
    ]  # fmt: skip
    assert "scale 7.5, with training seed 5" in sheet.note and sheet.note.endswith(
        "Methods have different numbers of tries: 3 of a; none of own."
    )


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ({"a": {"align": "ddspo"}, "b": {"align": "sft"}}, "Every method has 3 tries."),
        ({"a": {"align": "ddspo"}, "b": {"align": "sft", "tries": {"side": ["winner", "loser"]}},
          "c": {"align": "sft", "tries": {}}, "own": OWN},
         "Methods have different numbers of tries: 3 of a; 2 of b; none of c, own. Tries of their own: b, c."),
        ({"own": OWN, "b": {"align": "sft", "tries": {"learning-rate": [1, 2, 3]}}, "a": {"align": "ddspo"}},
         "Methods have different numbers of tries: none of own; 3 of b, a. Tries of their own: b."),
        ({"fit": {"align": "sft", "shown": False, "tries": {}}, "b": {"align": "sft"}}, "Every method has 3 tries."),
    ],
)  # fmt: skip
def test_the_plan_says_whether_methods_were_tried_alike(methods: Change, told: str) -> None:
    assert plan_study(study_of({"methods": methods}), Path("study.yaml"))[0] == f"# {told}"


def test_one_try_is_told_as_one() -> None:
    assert study_of({"choosing": {"tries": {"beta": [10]}}}).budget == "Every method has 1 try."


def test_a_line_of_the_plan_asks_for_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump({**STUDY, "version": 1}))
    study = study_of({})
    asked = '"$(contrapose study choice study.yaml a learning-rate)"'
    line = "contrapose align ddspo --model m --pairs o/pairs --out o/runs/a-learning-rate-{0}-6 --learning-rate {0} "
    assert any(each.startswith(line.format(asked)) for each in plan_study(study, Path("study.yaml")))
    choice = ["study", "choice", "study.yaml"]
    assert main([*choice, "a", "learning-rate"]) == 2
    assert "o/evidence/dev/tries: the dev prompts are not judged yet" in capsys.readouterr().err
    carried_out(study, by_rate)
    assert main([*choice, "a", "learning-rate"]) == 0
    assert capsys.readouterr().out == "0.0001\n"
    for words, told in (
        (["a", "beta"], "a: no beta was chosen for it (known: scale, learning-rate)"),
        (["a", "learning-rate", "--at", "3"], "at: is for a checkpoint, and not for learning-rate; leave it out"),
        (["base", "learning-rate"], "base: no method of this study (known: a)"),
    ):
        assert main([*choice, *words]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("what", ["scale", "checkpoint", "learning-rate"])
def test_a_study_without_choices_says_so(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {key: value for key, value in STUDY.items() if key != "choosing"}
    prompts = {name: STUDY["prompts"][name] for name in ("train", "test")}
    Path("study.yaml").write_text(yaml.safe_dump({**settings, "prompts": prompts, "version": 1}))
    assert main(["study", "choice", "study.yaml", "a", what]) == 2
    assert "study.yaml: chooses nothing, as all models are shown at its scales" in capsys.readouterr().err
    choosing = {key: value for key, value in STUDY["choosing"].items() if key != "tries"}
    Path("study.yaml").write_text(yaml.safe_dump({**STUDY, "choosing": choosing, "version": 1}))
    assert main(["study", "choice", "study.yaml", "a", what]) == 2
    untried = "a: no learning-rate was chosen for it; nothing is tried of it (known: scale)"
    told = {"learning-rate": untried}.get(what, "the dev prompts are not judged yet")
    assert told in capsys.readouterr().err


def test_before_anything_ran_lines_are_checked_with_the_first_value() -> None:
    study = study_of({})
    lines = [shlex.join(line.words) for stage in stages(study, Placeholders(study)) for line in stage.lines]
    assert runs_of(lines)[-1] == "a-learning-rate-3e-05-6"


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ([], ({"good": 1.0}, True)),
        (["good"], ({"good": 1.0}, True)),
        (["bad"], ({"bad": 1.0}, False)),
        (["good", "bad"], ({"good": 1.0, "bad": -1.0}, True)),
        (["good:2", "bad:-0.25", "drift:-3"], ({"good": 2.0, "bad": -0.25, "drift": -3.0}, True)),
        (["drift"], "drift has no better direction; give it a weight, such as drift:-1"),
        (["nice"], "nice was not measured (known: good, bad, drift)"),
    ],
)
def test_the_score_that_decides(by: list[str], expected: tuple[dict[str, float], bool] | str) -> None:
    interval = TagIntervals(Interval(0.5, 0.5, 0.5), {})
    metrics = {"good": Metric(True), "bad": Metric(False), "drift": Metric(None)}
    scores = {"base": ModelScores(1, 1, {}, dict.fromkeys(metrics, interval))}
    summary = Summary(None, 0.95, 1, 0, metrics, scores, {}, {}, (), ())
    choosing = Choosing((1.0,), by=tuple(by))
    if isinstance(expected, str):
        with pytest.raises(UserError) as refused:
            deciding(choosing, summary)
        assert str(refused.value) == f"choosing: by: {expected}"
        return
    decides = deciding(choosing, summary)
    assert (decides.weights, decides.higher_is_better) == expected
    assert decides.score(scores["base"]) == 0.5 * sum(expected[0].values())


@pytest.mark.parametrize(
    ("message", "has_fix"),
    [
        ("--learning-rate 1e-4: not known", True),
        ("leave out --learning-rate.", True),
        ("--learning-rate-of-text 1: not known", False),
        ("--learning-rate.first 1: not known", False),
    ],
)
def test_what_fixes_a_line_goes_by_whole_options(message: str, has_fix: bool) -> None:
    line = CommandLine(("align", "ddspo"), None)
    assert bool(fix_of(study_of({}), line, UserError(message))) == has_fix
