"""Pairs that are made of other pairs, and of photographs: in which order, by which lines, and who trains on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contrapose.files import aside_of
from contrapose.store.manifest import INDEX
from contrapose.studies.choosing import Placeholders
from contrapose.studies.inputs import inputs_digest
from contrapose.studies.ledger import Ledger
from contrapose.studies.settings import CONVERTER, Study
from contrapose.studies.stages import CommandLine, StudyStage, stages

STUDY: dict[str, Any] = {
    "model": "m",
    "out": "o",
    "prompts": {"train": {"shapes": "train"}, "test": {"file": "test.txt"}},
    "photos": {"good": 9},
    "pairs": {
        "labelled": {"made_by": "label", "of": "scored", "options": {"by": ["correct"], "mistakes": 0.15}},
        "scored": {"made_by": "score", "of": "own", "options": {"judges": ["shapes"]}},
        "own": {"options": {"samples-per-prompt": 4}},
        "real": {"made_by": "real", "photos": "good"},
    },
    "methods": {"dpo": {"align": "diffusion-dpo"}, "real": {"align": "sft", "pairs": ["real"]}},
    "evaluations": {"shapes": {"suite": "shapes"}},
    "scales": [1],
}


def planned(change: dict[str, Any] | None = None) -> list[StudyStage]:
    study = CONVERTER.structure({**STUDY, **(change or {})}, Study)
    return list(stages(study, Placeholders(study)))


def test_pairs_come_in_the_order_in_which_they_are_made_of_each_other() -> None:
    titles = [stage.title for stage in planned()]
    assert titles[:6] == ["prompts", "photographs", "pairs", "pairs", "pairs", "check of the pairs"]
    photos, made, scored, labelled = (stage.lines for stage in planned()[1:5])
    assert [" ".join(line.words) for line in photos] == ["shapes photos --out o/photos/good --num-photos 9"]
    drawn, real = (" ".join(line.words) for line in made)
    assert drawn == "pairs draw --model m --prompts o/train.jsonl --out o/pairs/own --samples-per-prompt 4"
    assert real == "pairs real --model m --photos o/photos/good --out o/pairs/real"
    assert [" ".join(line.words) for line in (*scored, *labelled)] == [
        "pairs score o/pairs/own --prompts o/train.jsonl --out o/pairs/scored --judges shapes",
        "pairs label o/pairs/scored --out o/pairs/labelled --by correct --mistakes 0.15",
    ]
    assert scored[0].out == Path("o/pairs/scored")


def test_the_base_is_sampled_in_other_ways_too() -> None:
    """Such as the best of several, which is drawn and judged beside the base."""
    sampled = {"best-of-8": {"options": {"best-of": 8, "judges": ["shapes"]}}}
    by_title = {stage.title: stage.lines for stage in planned({"sampled": sampled})}
    base, best, *_ = (" ".join(line.words) for line in by_title["images"])
    images = "sample --model m --prompts test.txt --out o/images/scale-1"
    assert best.startswith(f"{images}/best-of-8 --best-of 8 --judges shapes --num-images")
    assert base.startswith(f"{images}/base --num-images")
    [line] = by_title["evaluation"]
    assert "best-of-8=o/images/scale-1/best-of-8" in line.words


def test_a_model_s_own_options_stand_in_place_of_those_of_sampling() -> None:
    """Of two in one line the last would count, whoever's it is."""
    change = {
        "sampling": {"steps": 25, "tf32": False},
        "sampled": {"longer": {"options": {"steps": 50, "tf32": True}}},
        "guided": {"pgd": {"positive": "dpo", "strengths": [2], "options": {"steps": 40}}},
    }
    lines = next(stage.lines for stage in planned(change) if stage.title == "images")
    # behind `sample --model M --prompts FILE --out`
    told = {Path(line.words[6]).name: " ".join(line.words[7:]) for line in lines}
    of_all = "--num-images 4 --guidance-scale 1"
    assert told["base"] == f"{of_all} --steps 25 --no-tf32"
    assert told["longer"] == f"--steps 50 --tf32 {of_all}"
    assert told["pgd-w2"] == f"--positive o/runs/dpo --scale 2 --steps 40 {of_all} --no-tf32"


def test_the_base_is_guided_by_one_policy_of_several_and_away_from_a_run_alone() -> None:
    """Without strengths each is one model of the guided's own name."""
    chats = {"positive": "two/positive", "negative": "two/negative", "options": {"guidance": "chats"}}
    change = {
        "methods": {"two": {"align": "chats", "shown": False}, "other": {"align": "self-npo", "shown": False}},
        "guided": {"chats": chats, "away": {"negative": "other", "options": {"guidance": "npo"}}},
        "seeds": [0, 1],
    }
    lines = next(stage.lines for stage in planned(change) if stage.title == "images")
    guiding = {Path(line.words[6]).name: " ".join(line.words[7:]).split(" --num-images")[0] for line in lines[1:]}
    assert guiding == {
        **{
            f"chats-{n}": f"--positive o/runs/two-{n}/positive --negative o/runs/two-{n}/negative --guidance chats"
            for n in (0, 1)
        },
        **{f"away-{n}": f"--negative o/runs/other-{n} --guidance npo" for n in (0, 1)},
    }


def test_methods_train_on_what_no_other_pairs_are_made_of() -> None:
    lines = [line.words for stage in planned() if stage.title == "training" for line in stage.lines]
    pairs = [words[words.index("--pairs") + 1 : words.index("--out")] for words in lines]
    assert pairs == [("o/pairs/labelled", "o/pairs/real"), ("o/pairs/real",)]


def test_a_method_may_draw_its_samples_of_prompts_alone() -> None:
    """Those of a list of the study's, which is written first; pairs are not looked at."""
    online = {"align": "online-dpo", "prompts": "more", "options": {"rollout-judges": ["shapes"]}}
    prompts = STUDY["prompts"] | {"more": {"shapes": "train", "per_tag": 2}}
    by_title = {stage.title: stage.lines for stage in planned({"prompts": prompts, "methods": {"online": online}})}
    assert "o/more.jsonl" in {str(line.out) for line in by_title["prompts"]}
    words = by_title["training"][0].words
    assert words[words.index("--pairs") + 1 : words.index("--out")] == ("o/more.jsonl",)


def test_an_index_of_pairs_makes_no_line_undone(tmp_path: Path) -> None:
    """Whoever reads a large folder first writes it, such as training after the pairs were drawn."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "pairs.yaml").write_text("num_groups: 10000\n")
    pairs = STUDY["pairs"] | {"mine": {"folder": str(folder)}}
    study = CONVERTER.structure(STUDY | {"pairs": pairs}, Study)
    line = CommandLine(("pairs", "draw"), folder)
    ledger = Ledger(tmp_path, inputs_digest(study))
    ledger.note(line)
    (folder / INDEX).write_bytes(b"an index")
    aside_of(folder / INDEX, 1).write_bytes(b"half of an index, whose writer was killed")
    assert inputs_digest(study) == ledger.inputs and ledger.has(line)
    (folder / "shard-00000.safetensors").write_bytes(b"another shard")
    assert inputs_digest(study) != ledger.inputs and not ledger.has(line)


def test_an_option_without_a_text_names_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the working folder, in which the study itself writes, so that no line of it was ever done."""
    monkeypatch.chdir(tmp_path)
    study = CONVERTER.structure({**STUDY, "sampling": {"negative-prompt": ""}}, Study)
    before = inputs_digest(study)
    Path("o").mkdir()
    Path("o/done.yaml").write_text("a line\n")
    assert inputs_digest(study) == before
