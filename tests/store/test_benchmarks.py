"""Published lists of prompts, each in the very form that it is published in, cut to a few lines."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contrapose.errors import UserError
from contrapose.evaluate.questions.question import questions_of
from contrapose.store.prompts import Prompt, read_prompts

DPG = """\
item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language
partiprompts18,A red barn by a lake.,,1,0,entity,whole,entity - whole (barn),Is there a barn?
partiprompts18,A red barn by a lake.,,2,"1, 3",relation,spatial,"relation (barn, lake, by)",Is the barn by the lake?
partiprompts18,A red barn by a lake.,,3,0,entity,whole,entity - whole (lake),Is there a lake?
7,"A cat, asleep.",,1,0,entity,whole,entity - whole (cat),Is there a cat?
"""


def files(folder: Path, **contents: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def tagged(path: Path) -> list[tuple[str, str | None]]:
    return [(prompt.text, prompt.tag) for prompt in read_prompts(path)]


def test_t2i_compbench_is_a_folder_of_lists(tmp_path):
    folder = files(
        tmp_path / "dataset", color_val__txt="a red car\na blue cup\n", non_spatial_val__txt="a man runs\na dog\n"
    )
    assert tagged(folder) == [
        ("a red car", "color"), ("a blue cup", "color"), ("a man runs", "non_spatial"), ("a dog", "non_spatial"),
    ]  # fmt: skip
    assert tagged(folder / "color_val.txt") == [("a red car", None), ("a blue cup", None)]


def test_parti_prompts(tmp_path):
    table = 'Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tan "abstract" noun\n'
    [prompt] = read_prompts(files(tmp_path, PartiPrompts__tsv=table) / "PartiPrompts.tsv")
    assert prompt.text == "bond" and prompt.tag == "Abstract"
    assert prompt.fields["Note"] == 'an "abstract" noun'


def test_hpsv2_is_a_folder_of_styles(tmp_path):
    folder = files(tmp_path, anime__json='["a girl", "a robot"]', photo__json='["a dog"]')
    assert tagged(folder) == [("a girl", "anime"), ("a robot", "anime"), ("a dog", "photo")]


def test_drawbench(tmp_path):
    table = "Prompts,Category\nA red colored car.,Colors\n"
    assert tagged(files(tmp_path, drawbench__csv=table) / "drawbench.csv") == [("A red colored car.", "Colors")]


def test_dpg_is_a_folder_of_long_prompts(tmp_path):
    prompts = {"10__txt": "a long one", "2__txt": "another", "partiprompts18__txt": "A red barn by a lake."}
    folder = files(tmp_path / "prompts", **prompts)
    assert read_prompts(folder) == [
        Prompt("another", {"item_id": "2"}),
        Prompt("a long one", {"item_id": "10"}),
        Prompt("A red barn by a lake.", {"item_id": "partiprompts18"}),
    ]
    files(tmp_path, dpg_bench__csv=DPG)  # beside the folder, as ELLA has it
    asked = [{"question": "Is there a barn?"}, {"question": "Is there a lake?"}]
    asked.append({"question": "Is the barn by the lake?", "needs": [0, 1]})
    assert [prompt.fields.get("questions") for prompt in read_prompts(folder)] == [None, None, asked]


def test_dpgs_questions_alone_are_prompts(tmp_path):
    barn, cat = read_prompts(files(tmp_path, dpg_bench__csv=DPG) / "dpg_bench.csv")
    assert barn.text == "A red barn by a lake." and cat.fields["item_id"] == "7"
    assert [question.needs for question in questions_of(barn)] == [(), (), (0, 1)]


@pytest.mark.parametrize(
    ("was", "becomes", "words"),
    [
        (",1,0,", ",x,0,", "line 2: 'x' is not the number of a question"),
        ('"1, 3"', "4", "line 3: depends on question 4, which its item does not have"),
        (",1,0,entity", ",1,2,entity", "line 2: its item's questions depend on each other in a circle"),
    ],
)
def test_broken_questions_are_told_by_their_line(tmp_path, was, becomes, words):
    files(tmp_path, dpg_bench__csv=DPG.replace(was, becomes))
    with pytest.raises(UserError, match=words):
        read_prompts(tmp_path / "dpg_bench.csv")


def test_captions_of_coco(tmp_path):
    captions = [{"image_id": 9, "id": 1, "caption": "A cat."}, {"image_id": 9, "id": 2, "caption": "A black cat."}]
    document = {"info": {}, "images": [{"id": 9, "file_name": "9.jpg"}], "annotations": captions}
    first, second = read_prompts(files(tmp_path, captions__json=json.dumps(document)) / "captions.json")
    assert (first.text, second.text) == ("A cat.", "A black cat.")
    assert second.fields == {"image_id": 9, "id": 2}


def test_pick_a_pic(tmp_path):
    rows = {"caption": ["a fox", "a fox"], "image_0_uid": ["u", "v"], "jpg_0": [b"jpeg", b"jpeg"]}
    pq.write_table(pa.table(rows), tmp_path / "test-00000-of-00001.parquet")
    assert read_prompts(tmp_path) == [Prompt("a fox", {"image_0_uid": "u"}), Prompt("a fox", {"image_0_uid": "v"})]


def test_values_of_a_typed_table_become_what_json_holds(tmp_path):
    columns = {"prompt": ["a"], "price": [Decimal("1.5")], "days": [[date(2026, 1, 2)]], "size": [3]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    [prompt] = read_prompts(tmp_path / "p.parquet")
    assert prompt.fields == {"price": "1.5", "days": ["2026-01-02"], "size": 3}


def test_tiif_asks_its_own_questions(tmp_path):
    line = {
        "type": "color",
        "short_description": "a red cup",
        "long_description": "a cup that is red",
        "yn_question_list": ["Is it red?", "Is it blue?"],
        "yn_answer_list": ["yes", "no"],
    }
    path = files(tmp_path, color__jsonl=json.dumps(line)) / "color.jsonl"
    [prompt] = read_prompts(path)
    assert prompt.text == "a red cup" and prompt.tag == "color"
    assert [(question.text, question.answer) for question in questions_of(prompt)] == [
        ("Is it red?", "yes"), ("Is it blue?", "no"),
    ]  # fmt: skip
    assert read_prompts(path, "long_description")[0].text == "a cup that is red"
    path.write_text(json.dumps({**line, "yn_answer_list": ["yes"]}))
    with pytest.raises(UserError, match="line 1: `yn_question_list` and `yn_answer_list` are not lists of one length"):
        read_prompts(path)


def test_unigenbench(tmp_path):
    table = 'index,prompt_en,sub_dims_en\n0,"A panda, asleep.","{""Testpoints"": [""Style""]}"\n'
    [prompt] = read_prompts(files(tmp_path, test_prompts_en__csv=table) / "test_prompts_en.csv")
    assert prompt.text == "A panda, asleep."
    with pytest.raises(UserError, match="has no `prompt_zh` field"):
        read_prompts(tmp_path / "test_prompts_en.csv", "prompt_zh")


def test_a_folder_of_nothing(tmp_path):
    files(tmp_path, notes__md="no list")
    with pytest.raises(UserError, match="name the file that lists its rows"):
        read_prompts(tmp_path)


def test_a_broken_file_of_a_folder_is_named(tmp_path):
    files(tmp_path, a__json='["x", "y"]', b__json='["x", 5]')
    with pytest.raises(UserError, match=r"b\.json: entry 2"):
        read_prompts(tmp_path)
