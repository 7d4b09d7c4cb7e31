"""Pairs that are made of other pairs, and of photographs: in which order, by which lines, and who trains on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contrapose.studies.settings import CONVERTER, Study
from contrapose.studies.stages import StudyStage, stages

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


class NoChoices:
    """A study without choosing asks for none."""

    def best(self, group: str) -> Any:
        raise AssertionError(group)

    def checkpoint(self, group: str, scale: str) -> str:
        raise AssertionError(group)


def planned() -> list[StudyStage]:
    return list(stages(CONVERTER.structure(STUDY, Study), NoChoices()))


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


def test_methods_train_on_what_no_other_pairs_are_made_of() -> None:
    lines = [line.words for stage in planned() if stage.title == "training" for line in stage.lines]
    pairs = [words[words.index("--pairs") + 1 : words.index("--out")] for words in lines]
    assert pairs == [("o/pairs/labelled", "o/pairs/real"), ("o/pairs/real",)]
