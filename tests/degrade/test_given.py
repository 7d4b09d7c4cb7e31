"""Degraded prompts that were written elsewhere."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from contrapose.backbones.families.table import load_backbone
from contrapose.containers.left_out import LeftOut
from contrapose.degrade.given import Given
from contrapose.draw.pairs import Draw, draw_pairs, plan_pairs
from contrapose.errors import UserError


def listed(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_ddspos_own_files_are_taken(tmp_path):
    file = listed(
        tmp_path / "prompts.jsonl",
        {"prompt": "a red dog", "neg_prompts": ["a dog", "red", "a red dog", ""]},
        {"prompt": "two cats", "degraded_prompts": ["cats"]},
        {"prompt": "a red dog", "neg_prompts": ["a dog", "dog"]},
        {"prompt": "nice", "neg_prompts": []},
    )
    got = Given(file).variants(["two cats", "a red dog", "nice", "a kite"], 0)
    assert got[:2] == [("cats",), ("a dog", "red", "dog")]
    assert got[2] == LeftOut("nice", "not degraded", "no degraded prompt is given")
    assert got[3] == LeftOut("a kite", "not degraded", "the file of degraded prompts does not have it")
    plan = plan_pairs(Draw("a model", (str(file),), Given(file), pairs_per_prompt=2))
    assert {record.degraded for record in plan.records if record.prompt == "two cats"} == {"cats"}
    assert [entry.name for entry in plan.left_out] == ["nice"]


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "a"},
        {"prompt": "a", "neg_prompts": "b"},
        {"prompt": "a", "neg_prompts": [1]},
        {"prompt": "a", "neg_prompts": ["b\0"]},
    ],
)
def test_a_line_that_says_something_else_is_told(tmp_path, line):
    file = listed(tmp_path / "prompts.jsonl", {"prompt": "x", "neg_prompts": ["y"]}, line)
    with pytest.raises(UserError, match=r"prompts\.jsonl: line 2: .*neg_prompts"):
        Given(file).variants(["a"], 0)


def test_a_json_list_is_as_good(tmp_path):
    rows = [{"prompt": "a red dog", "neg_prompts": ["a dog"]}, {"prompt": "b", "neg_prompts": 3}]
    (tmp_path / "a.json").write_text(json.dumps(rows[:1]))
    assert Given(tmp_path / "a.json").variants(["a red dog"], 0) == [("a dog",)]
    (tmp_path / "b.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"b\.json: entry 2: `neg_prompts` is no list"):
        Given(tmp_path / "b.json").variants(["a red dog"], 0)


def test_no_file_is_told():
    with pytest.raises(UserError, match=r"degrade\.file"):
        Given().variants(["a"], 0)


def test_pairs_are_not_mixed_with_those_of_another_content(tmp_path, tiny_model):
    file = listed(tmp_path / "prompts.jsonl", {"prompt": "a red dog", "neg_prompts": ["a dog"]})
    backbone = load_backbone(tiny_model)
    draw = Draw(str(tiny_model), (str(listed(tmp_path / "p.jsonl", {"prompt": "a red dog"})),), Given(file), steps=1)
    assert list(draw_pairs(draw, plan_pairs(draw), backbone, tmp_path / "out"))[-1] == 1
    copy = replace(draw, degrade=Given(tmp_path / "copy.jsonl"))
    (tmp_path / "copy.jsonl").write_bytes(file.read_bytes())
    assert list(draw_pairs(copy, plan_pairs(copy), backbone, tmp_path / "out"))[-1] == 1
    listed(file, {"prompt": "a red dog", "neg_prompts": ["dog"]})
    with pytest.raises(UserError, match=r"draw\.degrade\.file"):
        list(draw_pairs(draw, plan_pairs(draw), backbone, tmp_path / "out"))
