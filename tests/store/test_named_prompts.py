"""What `--prompts` takes for a text and what for a file, and by what a folder knows both again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contrapose.contents import digest_of
from contrapose.errors import UserError
from contrapose.store.named_prompts import digest_of_named, named_prompts, names_file, title_of


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my list.txt").write_text("a cat\na dog\na cat\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "colours.jsonl").write_text('{"prompt": "a red cube"}\n')
    monkeypatch.chdir(tmp_path)
    return "my list.txt"


def test_texts_and_files_side_by_side(listed: str) -> None:
    prompts = named_prompts(["a red/blue fox.", listed, "lists", "cat"])
    assert [prompt.text for prompt in prompts] == ["a red/blue fox.", "a cat", "a dog", "a cat", "a red cube", "cat"]
    assert prompts[0].place == "number 1"
    assert prompts[2].place == "line 2"


@pytest.mark.parametrize("entry", ["a.txt", "my prompts.jsonl", "hf://datasets/me/it", "lists/all", "./a/b", "list.tx"])
def test_what_means_a_file(entry: str) -> None:
    assert names_file(entry)


@pytest.mark.parametrize(
    "entry", ["cat", "a cat.", "Mr. Bean in a car", "24/7 open shop", "f/1.8 lens blur, a cat", "猫"]
)
def test_what_is_a_prompt(entry: str) -> None:
    assert not names_file(entry)


@pytest.mark.parametrize(
    ("entries", "naming"),
    [
        ([], "none is named"),
        ("my list.txt", r'a tuple of texts and files is wanted; write \("my list.txt",\)'),
        ([" "], "' ' is no prompt; write a text, or the name of a file"),
        (["a\0b"], "is no prompt"),
        (["list.tx"], "list.tx: "),
        (["nowhere.txt"], "nowhere.txt: no such file"),
    ],
)
def test_what_is_neither(entries: Any, naming: str, listed: str) -> None:
    with pytest.raises(UserError, match=naming):
        named_prompts(entries)


def test_a_file_has_its_own_digest_and_texts_theirs(listed: str) -> None:
    alone = digest_of_named([listed])
    assert alone == digest_of(Path(listed)), "as folders of earlier versions have it"
    digests = {alone, digest_of_named(["a cat"]), digest_of_named(["a dog"]), digest_of_named([listed, "a cat"])}
    assert len(digests) == 4
    assert (title_of([listed]), title_of(["a cat"]), title_of([listed, "a cat"])) == (listed, "--prompts", "--prompts")
