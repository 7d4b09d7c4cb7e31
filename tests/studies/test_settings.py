"""A file of a study: what is refused, in one line that names it, before anything is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from contrapose.cli.main import main
from contrapose.errors import UserError
from contrapose.studies.inputs import check_inputs
from contrapose.studies.settings import read_study

STUDY: dict[str, Any] = {
    "version": 1,
    "model": "model",
    "out": "out",
    "prompts": {"train": {"file": "train.txt"}, "dev": {"file": "dev.txt"}, "test": {"file": "test.txt"}},
    "pairs": {"drawn": {"options": {"steps": 1}}},
    "methods": {"a": {"align": "ddspo"}},
    "evaluations": {"scores": {"suite": "scores", "options": {"judges": ["pickscore"]}}},
    "scales": [1],
    "choosing": {"scales": [1, 3]},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "dev", "test"):
        Path(f"{name}.txt").write_text(f"a {name} of wood\nanother {name}\n")
    return tmp_path


Refused = Callable[[Callable[[dict[str, Any]], None]], str]


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line that a changed study is answered with; nothing is written then."""

    def run(change: Callable[[dict[str, Any]], None]) -> str:
        study = yaml.safe_load(yaml.safe_dump(STUDY))
        change(study)
        Path("study.yaml").write_text(yaml.safe_dump(study))
        assert main(["study", "run", "study.yaml"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert not Path("out").exists()
        return lines[0]

    return run


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(study: dict[str, Any]) -> None:
        for name in path[:-1]:
            study = study.setdefault(name, {})
        study[path[-1]] = value

    return change


def tries(
    values: dict[str, Any], methods: dict[str, Any] | None = None, prompts: Any = None, checkpoints: Any = ()
) -> Callable[[dict[str, Any]], None]:
    def change(study: dict[str, Any]) -> None:
        study["choosing"] = {"scales": [1], "tries": values, "checkpoints": list(checkpoints)}
        study["methods"] = methods or study["methods"]
        study["prompts"] = prompts or study["prompts"]

    return change


def own_tries(values: dict[str, Any], **settings: Any) -> Callable[[dict[str, Any]], None]:
    """A method with tries of its own, and others for all."""
    return tries({"beta": [1]}, {"a": {"align": "ddspo", "tries": values, **settings}})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put("tittle", value="x"), "unknown setting tittle"),
        (put("version", value=2), "version 2"),
        (put("prompts", "tset", value={"file": "test.txt"}), "prompts tset: nothing here uses them"),
        (put("prompts", "test", value={"file": "test.txt", "shapes": "test"}), "one of file and shapes"),
        (put("methods", "a/b", value={"align": "ddspo"}), "'a/b' is no name here"),
        (put("methods", "base", value={"align": "ddspo"}), "the name base is taken"),
        (put("methods", "a", value={"align": "dsppo"}), "dsppo: no such method"),
        (put("methods", "a", value={"align": "ddspo", "start": "b"}), "b is not there (known: a)"),
        (put("methods", "a", value={"align": "ddspo", "start": "a"}), "break the circle"),
        (put("methods", "a", value={"align": "ddspo", "pairs": ["drwan"]}), "drwan is not there"),
        (put("methods", "a", value={"align": "awm", "prompts": "tarin"}), "methods a: prompts: tarin is not there"),
        (put("methods", "a", value={"align": "awm", "prompts": "train", "pairs": ["drawn"]}), "on pairs or on prompts"),
        (put("methods", "a", value={"align": "ddspo", "options": {"seed": 3}}), "--seed is set by the study itself"),
        (put("methods", "a", value={"align": "ddspo", "options": {"betta": 3}}), "--betta 3"),
        (put("methods", "a", value={"align": "ddspo", "options": {"--beta": 3}}), "without the dashes"),
        (put("methods", "a", value={"align": "ddspo", "options": {"beta": {"x": 3}}}), "beta is neither a plain value"),
        (put("training", value={"full": True, "lora-rank": 4}), "lora_rank: unused"),
        (put("pairs", "drawn", value={"options": {"degrade": "blur"}}), "--degrade blur: not known"),
        (put("pairs", "drawn", value={"folder": "p", "options": {"steps": 1}}), "options are of no use"),
        (put("pairs", "x", value={"made_by": "score"}), "of: name the pairs that pairs score is given"),
        (put("pairs", "x", value={"made_by": "label", "of": "y"}), "pairs x: of: y is not there"),
        (put("pairs", "x", value={"of": "drawn"}), "of: is for pairs that are scored or labelled"),
        (put("pairs", "x", value={"made_by": "score", "of": "x", "options": {"judges": ["http"]}}), "break the circle"),
        (put("pairs", "x", value={"made_by": "real", "photos": "good"}), "pairs x: photos: good is not there"),
        (put("pairs", "x", value={"made_by": "draw", "photos": "good"}), "photos: pairs draw takes none"),
        (put("photos", value={"good": 0}), "good"),
        (put("evaluations", "scores", value={"suite": "scroes"}), "scroes"),
        (put("evaluations", "dev", value={"suite": "scores"}), "the name dev is taken"),
        (put("guided", value={"g": {"positive": "b", "strengths": [1]}}), "guided g: b is not there"),
        (put("guided", value={"g": {"negative": "a", "positive": "b/positive"}}), "guided g: b is not there"),
        (put("guided", value={"g": {"strengths": [1]}}), "positive: nothing guides"),
        (put("sampled", value={"s": {"options": {}}}), "options: without any it is the base"),
        (put("sampled", value={"s": {"options": {"out": "x"}}}), "options: --out is set by the study itself"),
        (put("sampled", value={"a": {"options": {"best-of": 2}}}), "sampled: a is another model too"),
        (put("seeds", value=[0, 0]), "seeds"),
        (put("scales", value=[]), "scales"),
        (put("choosing", value={"scales": []}), "scales: name at least one"),
        (put("choosing", value={"scales": [2], "checkpoints": [1]}), "scales lack 1"),
        (put("choosing", value={"scales": [1], "checkpoints": [500]}), "500 is beyond the 200 steps"),
        (put("choosing", value={"scales": [1], "rule": "best"}), "best"),
        (put("evaluations", value={"looks": {"suite": "none"}}), "looks: the suite none gives images no scores"),
        (put("evaluations", value={"fid": {"suite": "set"}}), "fid: the suite set gives images no scores"),
        (put("choosing", value={"scales": [1], "metric": "correct"}), "metric is now by"),
        (
            put("choosing", value={"scales": [1], "by": ["correct:x"]}),
            "by: 'correct:x' is neither NAME nor NAME:WEIGHT",
        ),
        (tries({"seed": [1, 2]}), "tries: --seed is set by the study itself"),
        (tries({"save-every": [1, 2]}, checkpoints=[1]), "tries: --save-every is set by the study itself"),
        (
            lambda study: study.update(choosing={"scales": [1], "checkpoints": [1]}, training={"keep": 3}),
            "methods a: options, or training: --keep is set by the study itself",
        ),
        (tries({"beta": []}), "tries: beta: name the values that are tried in a list"),
        (tries({"beta": 3}), "tries: beta: name the values that are tried in a list"),
        (tries({"beta": [1, 2, 1.0]}), "tries: beta: a value is named twice"),
        (tries({"beta": ["1", 1]}), "tries: beta: a value is named twice"),
        (tries({"full": [True, False]}), "tries: full: yes and no are not tried"),
        (tries({"losers": ["a/b"]}), "tries: losers: 'a/b' can be no part of a run's name"),
        (tries({"betta": [1, 2]}), "--betta 1"),
        (put("choosing", value={"scales": [1], "tried_at": 3}), "tried_at: nothing is tried"),
        (tries({"beta": [1]}, {"a": {"align": "ddspo", "options": {"beta": 2}}}), "beta is set by every method itself"),
        (
            tries({"beta": [1]}, {"a": {"align": "ddspo"}, "s": {"align": "sft"}}),
            "is given tries of its own (methods: NAME: tries)",
        ),
        (own_tries({"beta": 3}), "methods a: tries: beta: name the values that are tried in a list"),
        (own_tries({"beta": [3]}, options={"beta": 2}), "tries: beta: its options set it"),
        (own_tries({"beta": [3]}, shown=False), "tries: it is not shown, so that nothing is tried"),
        (own_tries({}), "beta is set by every method itself, or replaced by its own tries"),
        (
            lambda study: study.update(
                choosing=None,
                prompts={name: STUDY["prompts"][name] for name in ("train", "test")},
                methods={"a": {"align": "ddspo", "tries": {"beta": [3]}}},
            ),
            "methods a: tries: nothing is chosen",
        ),
        (
            tries({"beta": [1]}, {"a": {"align": "ddspo"}, "fit": {"align": "ddspo", "shown": False}}),
            "methods fit: is not shown, so that nothing is tried; give it a beta",
        ),
        (
            tries({"beta": [1]}, prompts={name: STUDY["prompts"][name] for name in ("train", "test")}),
            "choosing: needs prompts named dev",
        ),
        (
            tries({"beta": [1]}, {"a": {"align": "ddspo"}, "a-beta-1": {"align": "ddspo", "options": {"beta": 2}}}),
            "out/runs/a-beta-1: two models of this study would share it",
        ),
        (
            lambda study: study.update(
                methods={"a": {"align": "ddspo"}, "g-w1": {"align": "sft"}},
                guided={"g": {"positive": "a", "strengths": [1]}},
            ),
            "g-w1: two models of this study would share it",
        ),
        (put("columns", value={"GE": {}}), "columns: stand beside published figures, and there are none"),
        (put("published", value={"source": "x", "rows": {"base": {"GE": 1}}}), "published base: GE is not there"),
        (put("prompts", "dev", value={"file": "nowhere.txt"}), "nowhere.txt"),
        (put("sampling", value={"scale": 3}), "--scale is set by the study itself"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_run(
    change: Callable[[dict[str, Any]], None], named: str, refused: Refused
) -> None:
    line = refused(change)
    assert line.startswith("contrapose: ") and named in line


def test_prompts_that_are_tuned_on_and_reported_on_are_refused_by_their_canonical_text(refused: Refused) -> None:
    Path("dev.txt").write_text("A  TEST of wood\nsomething else\n")
    line = refused(lambda study: None)
    assert "prompts dev and test: 1 stand in both (a test of wood)" in line


def test_a_split_of_the_shapes_world_is_no_dev_set_of_itself(refused: Refused) -> None:
    def change(study: dict[str, Any]) -> None:
        study["prompts"]["dev"] = {"shapes": "test", "per_tag": 2}
        study["prompts"]["test"] = {"shapes": "test", "per_tag": 1}

    assert "prompts dev and test: 6 stand in both" in refused(change)


def test_prompts_that_are_trained_on_and_reported_on_are_told(folder: Path, tiny_model: Path) -> None:
    """And not refused: published experiments train on prompts of the very sources that they report on."""
    Path("train.txt").write_text("A  TEST of wood\nanother train\n")
    Path("study.yaml").write_text(yaml.safe_dump({**STUDY, "model": str(tiny_model)}))
    told = "prompts train and test: 1 stand in both (a test of wood): methods are trained on what is reported"
    assert check_inputs(read_study(Path("study.yaml"))) == [told]


def test_prompts_that_nothing_can_judge_are_told_before_anything_is_run(refused: Refused, tiny_model: Path) -> None:
    """And not when the first images are judged, hours of training later."""

    def change(study: dict[str, Any]) -> None:
        study.update(model=str(tiny_model), evaluations={"asked": {"suite": "questions"}})

    line = refused(change)
    assert "evaluations asked: prompts test: prompt 'a test of wood': its line asks no questions" in line
    answered = [{"prompt": text, "questions": ["Is it?"]} for text in ("a test of wood", "another test")]
    Path("test.jsonl").write_text("\n".join(map(json.dumps, answered)))

    def dev_alone(study: dict[str, Any]) -> None:
        change(study)
        study["prompts"]["test"] = {"file": "test.jsonl"}

    assert "evaluations asked: prompts dev: prompt 'a dev of wood'" in refused(dev_alone)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put("model", value="./nowhere"), "./nowhere: no such model folder or file"),
        (put("model", value="study.yaml"), "study.yaml"),
        (put("pairs", "mine", value={"folder": "nowhere"}), "nowhere: no pairs.yaml"),
    ],
)
def test_a_model_and_pairs_that_are_not_there_are_told_before_anything_is_run(
    change: Callable[[dict[str, Any]], None], named: str, refused: Refused
) -> None:
    assert named in refused(change)


def test_a_file_that_is_no_study_is_named(folder: Path) -> None:
    Path("study.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match=r"study\.yaml: a mapping of settings was expected"):
        read_study(Path("study.yaml"))
