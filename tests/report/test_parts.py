"""Numbers as written, examples as drawn, curves as smoothed, commands as parsed."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

from contrapose.asking import Asking
from contrapose.cli import align as cli_align
from contrapose.cli import evaluate as cli_evaluate
from contrapose.cli import pairs_draw as cli_draw
from contrapose.cli import sample as cli_sample
from contrapose.cli.reading import settings_of
from contrapose.draw.settings import Draw
from contrapose.evaluate.compbench.suite import CompBench
from contrapose.evaluate.evidence import Evidence
from contrapose.evaluate.geneval.suite import GenEval
from contrapose.evaluate.questions.suite import Questions
from contrapose.evaluate.statistics import Interval
from contrapose.evaluate.suites import Scores
from contrapose.evaluate.taking import Taking
from contrapose.exchange.settings import Import
from contrapose.guiding.settings import CONVERTER as OF_SAMPLING
from contrapose.guiding.settings import Sampling
from contrapose.judges.aesthetic import Aesthetic
from contrapose.judges.colours import Colours
from contrapose.judges.endpoint import EndpointQuestion
from contrapose.judges.self_confidence import SelfConfidence
from contrapose.methods import OnlineDPO
from contrapose.methods.own_samples import OwnSamples
from contrapose.photographs.settings import Real
from contrapose.report import numbers
from contrapose.report.evidence import Judged
from contrapose.report.examples import choose
from contrapose.report.plots import curves, running_mean
from contrapose.report.provenance import commands, flat, read_pairs, sampling
from contrapose.report.runs import LINES, read_run
from contrapose.runfile import sections, to_yaml
from contrapose.train.judging import RolloutJudging
from contrapose.train.settings import CONVERTER, Run
from contrapose.worlds.suites import AnySuite, as_settings


def interval(value: float, reach: float) -> Interval:
    return Interval(value, value - reach, value + reach)


def test_verdicts_are_percents_and_others_get_the_decimals_their_interval_supports():
    assert numbers.scale_of([0.0, 1.0], []).cell(interval(0.5, 0.1)) == numbers.Cell("50.0", "[40.0, 60.0]")
    assert numbers.scale_of([26.9], [interval(26.95, 0.2)]).text(26.951) == "26.95"
    assert numbers.scale_of([0.2], [interval(0.21, 0.0008)]).text(0.21234) == "0.2123"
    assert numbers.scale_of([0.2], [interval(0.2, 0.0)]).text(0.2) == "0.200"


def test_signs_and_small_p():
    assert numbers.Scale().text(-0.5) == f"{numbers.MINUS}0.500"
    assert numbers.Scale().text(0.5, signed=True) == "+0.500"
    assert [numbers.p_value(p) for p in (0.0001, 0.001, 0.5)] == ["< 0.001", "0.001", "0.500"]


def test_sizes():
    assert [numbers.size(n) for n in (12, 1_500, 3.4e9)] == ["12 bytes", "1.5 kB", "3.4 GB"]


def test_examples_take_turns_and_prefer_new_prompts():
    tag_of = {(f"{tag}-{i}", seed): tag for tag in "ab" for i in range(3) for seed in range(4)}
    chosen = choose(tag_of, ["a", "b"], 6, seed=0)
    assert Counter(chosen.values()) == {"a": 3, "b": 3}
    assert len({name for name, _ in chosen}) == 6
    assert list(chosen.values())[:4] == ["a", "b", "a", "b"]  # whatever is shown first is of different tags
    assert choose(tag_of, ["a", "b"], 6, seed=0) == chosen != choose(tag_of, ["a", "b"], 6, seed=1)
    assert len(choose(tag_of, ["a", "b"], 99, seed=0)) == len(tag_of)


def test_the_choice_knows_only_names():
    tag_of = {(f"p{i}", 0): "a" for i in range(50)}
    shuffled = dict(sorted(tag_of.items(), reverse=True))
    assert choose(tag_of, ["a"], 5, seed=0) == choose(shuffled, ["a"], 5, seed=0)


def test_running_mean_keeps_a_constant_at_the_ends():
    assert np.allclose(running_mean(np.full(50, 3.0), 7), 3.0)


def test_the_settings_that_are_shown_are_settings_of_a_run():
    for name in [name for line in LINES for name in line.names]:
        cls = Run
        *sections, last = name.split(".")
        for section in sections:
            cls = get_type_hints(cls)[section]
        assert last in [field.name for field in fields(cls)], name


def test_settings_of_this_version_and_of_earlier_ones_are_shown(project):
    run = read_run(project.run)
    values = {line.label: line.text.format(*map(run.setting, line.names)) for line in LINES}
    assert values == {
        "Batch": "32 pairs a step",
        "Learning rate": "1e-05, constant, 0 steps of warm-up",
        "Precision": "fp32",
        "Seed": "0",
    }
    settings = project.run / "run.yaml"
    settings.write_text(settings.read_text().replace("precision:", "dtype:").replace("seed:", "unheard_of:"))
    earlier = read_run(project.run)
    assert [earlier.setting(name) for name in ("precision", "seed", "optimisation.batch_size", "a.b")] == [
        "fp32", "not recorded", "32", "not recorded",
    ]  # fmt: skip


def test_images_of_earlier_settings_are_shown(project):
    """A setting that this version does not have, and one that it has and the folder has not."""
    folder = project.evidence.images["base"]
    path = folder / "images.yaml"
    path.write_text(path.read_text().replace("precision: null", "unheard_of: fp32"))
    made = sampling({"base": folder})
    assert ("Unheard of", "fp32") in made.shared
    assert "Precision" not in dict(made.shared)


@pytest.mark.parametrize(("cls", "names"), [
    (Draw, {"loading", "speed"}),
    (Sampling, {"loading", "speed", "guiding"}),
    (Import, {"loading", "reading", "fitting"}),
    (Real, {"loading", "fitting"}),  # its spoiler is a choice, and its captioner may be none
])  # fmt: skip
def test_sections_have_flags_without_a_prefix(cls, names):
    assert set(sections(cls)) == names
    assert flat({name: {"inner": 1} for name in names} | {"seed": 0}) == {"inner": 1, "seed": 0}


def test_metrics_of_a_step_taken_twice_count_once(project):
    with (project.run / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"step": 3, "loss": NaN}\n{"step": 4, "loss": 9.0}\n')
    steps, losses = read_run(project.run).series("loss")
    assert 3 not in steps  # not a finite number
    assert losses[steps.index(4)] == 9.0


def test_what_a_run_draws_itself_is_drawn_by_its_reward_and_told_by_its_judges(tmp_path, monkeypatch):
    judging = RolloutJudging((SelfConfidence(probes=2), Colours()), ("self-confidence", "colourfulness:0.1"))
    run = Run("a/model", Path("prompts.txt"), OnlineDPO(sampling=OwnSamples(sync_every=4)), judging=judging)
    (tmp_path / "run.yaml").write_text(to_yaml(run, CONVERTER), encoding="utf-8")
    lines = ['{"step": 1, "loss": 0.69, "rollouts/reward": 1.5}', '{"step": 2, "loss": 0.68}']
    lines.append('{"step": 5, "loss": 0.67, "rollouts/reward": 2.25}')
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shown = read_run(tmp_path)
    (plot,) = [plot for plot in curves(shown, "run") if plot.title == "Reward of own samples"]
    assert plot.caption.endswith("At the end: mean 2.25.")
    parsed = []
    monkeypatch.setattr(cli_align, "align", parsed.append)
    (line,) = commands(None, [shown], [])
    cli_align.main(shlex.split(line)[2:], "contrapose align")
    assert parsed[0].run == run


def test_printed_commands_are_understood(project, monkeypatch):
    """Each command is parsed by the command line itself, into the settings that were recorded."""
    parsed = []
    modules = {"draw": cli_draw, "align": cli_align, "sample": cli_sample, "evaluate": cli_evaluate}
    for name, module in modules.items():
        monkeypatch.setattr(module, "judge" if name == "evaluate" else name, parsed.append)
    taking = Taking(prompts=Path("a list.jsonl"), skip_broken=True)
    judged = [Judged(project.evidence), Judged(replace(project.evidence, taking=taking))]
    for line in commands(project.pairs, [read_run(project.run)], judged):
        words = shlex.split(line.removeprefix("contrapose ").removeprefix("pairs "))
        modules[words[0]].main(words[1:], "contrapose")
    drawn, aligned, sampled, other, evaluated, in_part = parsed
    assert evaluated.judging.taking == Taking() and in_part.judging.taking == taking
    folders = project.evidence.images
    assert (drawn.out, aligned.out, evaluated.out) == (project.pairs, project.run, project.evidence.folder)
    assert (sampled.out, other.out) == (folders["base"], folders["ddspo"])
    assert aligned.run.method.beta == 16000 and aligned.run.optimisation.train_steps == 40
    assert drawn.draw.degrade.high == 0.7 and sampled.sampling.steps == 17
    assert evaluated.judging.replicates == 300 and evaluated.judging.title == project.evidence.title


@pytest.mark.parametrize(
    "suite",
    [
        Questions(judge="http://127.0.0.1:8000/v1", asking=Asking(at_once=3)),
        Scores((EndpointQuestion(metric="mine", asking=Asking(at_once=3)),)),
        GenEval(detections=("base=a.jsonl",)),
        CompBench("color", Path("phrases.json")),
    ],
)
def test_a_printed_evaluation_is_by_the_same_suite(suite: AnySuite) -> None:
    """Some suites hold settings whose flags have no prefix."""
    evidence = Evidence("A title", Path("out"), {"base": Path("a")}, as_settings(suite))
    (line,) = commands(None, [], [], [evidence])
    assert settings_of(shlex.split(line)[1:]).judging.suite == suite


def test_images_that_judges_chose_are_drawn_again_with_them(tmp_path):
    sampling = Sampling("a/model", ("p.txt",), best_of=4, steps=5)
    (tmp_path / "images.yaml").write_text(to_yaml(sampling, OF_SAMPLING), encoding="utf-8")
    judges = "- {name: aesthetic, batch_size: 3}\n- {name: colourfulness}\n"
    (tmp_path / "judges.yaml").write_text(f"version: 1\njudges:\n{judges}", encoding="utf-8")
    (line,) = commands(None, [], [], [], {"best": tmp_path})
    typed = settings_of(shlex.split(line)[1:])
    assert typed.sampling == sampling and typed.judges == (Aesthetic(batch_size=3), Colours())


@pytest.mark.parametrize("added", ["label: {by: [x]}", "score: {}\nearlier: [{label: {by: [x]}}]"])
def test_labelled_pairs_are_not_told_to_be_those_of_degraded_prompts(project, added):
    """Of which judge the labels are, and of which folder the samples, the pairs do not say."""
    assert read_pairs(project.pairs, 0).drawn and commands(project.pairs, [], [])
    manifest = project.pairs / "pairs.yaml"
    before = manifest.read_text(encoding="utf-8")
    manifest.write_text(f"{before}\n{added}\n", encoding="utf-8")
    assert not read_pairs(project.pairs, 0).drawn and not commands(project.pairs, [], [])
    # samples of the prompt itself
    manifest.write_text(re.sub("samples_per_prompt: .*", "samples_per_prompt: 4", before), encoding="utf-8")
    assert not read_pairs(project.pairs, 0).drawn
