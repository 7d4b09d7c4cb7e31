"""Prompts are read as written, and what cannot be read is named by file and line."""

import json
import os

import pytest

from contrapose.errors import UserError
from contrapose.store.prompt_table import PromptTable
from contrapose.store.prompts import Prompt, iter_listed, prompt_id, read_prompts


def written(tmp_path, data, name="prompts.txt"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return path


def texts(path):
    return [prompt.text for prompt in read_prompts(path)]


def test_text_file_gives_one_prompt_a_line_and_skips_blank_lines(tmp_path):
    path = written(tmp_path, "a red cube\n\n  \n  a blue ball \r\nlast")
    assert texts(path) == ["a red cube", "a blue ball", "last"]


def test_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path):
    assert texts(written(tmp_path, b"\xef\xbb\xbfa cat\n")) == ["a cat"]
    assert texts(written(tmp_path, b'\xef\xbb\xbf{"prompt": "a cat"}\n', "p.jsonl")) == ["a cat"]


def test_geneval_metadata_keeps_its_other_fields(tmp_path):
    row = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "a photo of two cats"}
    [prompt] = read_prompts(written(tmp_path, json.dumps(row) + "\n", "evaluation_metadata.jsonl"))
    assert prompt.text == "a photo of two cats"
    assert prompt.fields == {"tag": "counting", "include": [{"class": "cat", "count": 2}]}
    assert hash(prompt) == hash(Prompt("a photo of two cats"))


@pytest.mark.parametrize(
    "text", ["красный куб", "赤い立方体 と 青い球", "مكعب أحمر", "🟥 cube", "a\u2028b", "x" * 10_000]
)
@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
def test_any_script_and_long_prompts_are_read(tmp_path, text, name):
    line = text if name == "p.txt" else json.dumps({"prompt": text}, ensure_ascii=False)
    assert texts(written(tmp_path, line, name)) == [text]


def test_byte_order_marks_of_joined_files_are_dropped(tmp_path):
    assert texts(written(tmp_path, b"\xef\xbb\xbfa\nb\n\xef\xbb\xbfc\n", "p.txt")) == ["a", "b", "c"]


def test_duplicates_are_kept(tmp_path):
    assert texts(written(tmp_path, "a\nb\na\na\n")) == ["a", "b", "a", "a"]


def test_prompt_id_is_sha256_of_the_text():
    assert prompt_id("a cat") == "51e4674156077982"
    assert prompt_id("a cat") != prompt_id("a cat ")


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("p.txt", b"good\nbad \xff\n", ["line 2", "0xff", "position 5", "UTF-8"]),
        ("p.txt", "good".encode("utf-16"), ["line 1", "UTF-8"]),
        ("p.txt", "a\n\nb\0c", ["line 3", "NUL"]),
        ("p.txt", "", ["no prompts"]),
        ("p.txt", "\n \n", ["no prompts"]),
        ("p.md", "a cat", [".txt", ".jsonl", ".parquet"]),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b"', ["line 2", "JSON"]),
        ("p.jsonl", '["a"]', ["line 1", "object"]),
        ("p.jsonl", "[" * 100_000, ["line 1"]),
        ("p.jsonl", '{"words": "a", "id": 3}', ["line 1", "`prompt`", "words, id"]),
        ("p.jsonl", '{"prompt": 7}', ["line 1", "string"]),
        ("p.jsonl", '{"prompt": " "}', ["no prompts, but 1 rows", "line 1", "`prompt` is blank"]),
        ("p.csv", "prompt,tag\n,a\n", ["no prompts, but 1 rows", "line 2"]),
        ("p.csv", "prompt,tag\na cat,a\n,a,b\n", ["line 3", "3 fields"]),
        ("p.jsonl", r'{"prompt": "a\u0000b"}', ["line 1", "NUL"]),
        ("p.jsonl", '{"prompt": "a\0b"}', ["line 1", "NUL"]),
        ("p.jsonl", r'{"prompt": "a\ud83d"}', ["line 1", "surrogate"]),
        ("p.jsonl", r'{"prompt": "a", "tag": "a\ud83d"}', ["line 1", "field 'tag'", "surrogate"]),
        ("p.jsonl", r'{"prompt": "a", "include": [{"class": "\udc00"}]}', ["line 1", "field 'include'", "surrogate"]),
        ("p.jsonl", r'{"prompt": "a", "a\ud83d": 1}', ["line 1", r"field 'a\ud83d'", "surrogate"]),
    ],
)
def test_bad_input_is_named(tmp_path, name, data, parts):
    with pytest.raises(UserError) as error:
        read_prompts(written(tmp_path, data, name))
    assert all(part in str(error.value) for part in [name, *parts])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "first"),
    [
        ("p.csv", "prompt,tag\na cat,x\n,x\n \t,y\na dog,y\n", "line 3"),
        ("p.tsv", 'Category\tPrompt\nx\ta cat\nx\t\nx\t""\nx\ta dog\n', "line 3"),
        ("p.jsonl", '{"prompt": "a cat"}\n{"prompt": null}\n{"prompt": ""}\n{"prompt": "a dog"}\n', "line 2"),
        ("p.json", '["a cat", "", " ", "a dog"]', "entry 2"),
    ],
)
def test_rows_without_a_prompt_are_left_out_and_told_once(tmp_path, caplog, name, data, first):
    caplog.set_level("INFO", "contrapose")
    path = written(tmp_path, data, name)
    before, *left_out, after = iter_listed(path)
    assert [before.text, after.text] == texts(path) == ["a cat", "a dog"]
    assert (left_out[0].kind, left_out[0].name) == ("no prompt", first)
    assert [entry.kind for entry in left_out] == ["no prompt"] * 2
    [note] = caplog.messages  # though it was read twice
    assert note.startswith(f"{path}: left out 2 rows without a prompt; the first is {first}: its `")


def test_rows_without_a_prompt_of_a_folder_are_named_with_their_file(tmp_path):
    written(tmp_path, "a cat\n\na dog\n", "a.txt")
    written(tmp_path, "prompt,tag\n,x\na bird,x\n", "b.csv")
    cat, dog, left_out, bird = iter_listed(tmp_path)
    assert [cat.text, dog.text, bird.text] == texts(tmp_path) == ["a cat", "a dog", "a bird"]
    assert left_out.name == "b.csv: line 2"


def test_a_name_that_is_not_utf_8_is_spelled_out(tmp_path):
    """Prompts are kept by it, in files that hold UTF-8 alone."""
    for name in (b"caf\xe9.txt", b"b.txt"):
        (tmp_path / os.fsdecode(name)).write_text("a red fox\n")
    prompts = PromptTable(read_prompts(tmp_path))
    assert [(prompt.place, prompt.fields["item_id"]) for prompt in prompts] == [
        ("b.txt", "b"),
        ("caf\\xe9.txt", "caf\\xe9"),
    ]


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("prompt,,tag,,prompt\na fox,,t,,a cat\n")
    with pytest.raises(UserError, match=r"x\.csv: has 2 columns named prompt; give each a name of its own"):
        read_prompts(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("prompt,,tag,\na fox,,t,\n")
    assert [prompt.text for prompt in read_prompts(tmp_path / "x.csv")] == ["a fox"]


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file; check the path"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path / "folder.txt")
