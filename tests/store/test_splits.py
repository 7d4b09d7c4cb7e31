"""A prompt's place is decided by its words: not by the order of its file, nor by what else is in it."""

from __future__ import annotations

import json
from itertools import compress

import pytest

from contrapose.store.prompts import Prompt, canonical, read_prompts
from contrapose.store.splits import Splitting, describe_prompts, divide, split_prompts

PROMPTS = [Prompt(f"prompt number {number}", {"tag": str(number % 3)}) for number in range(2000)]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("A  Red\tCube ", "a red cube"),
        ("STRASSE", "straße"),
        ("cafe\u0301", "caf\u00e9"),
        ("a red cube.", None),
    ],
)
def test_capitals_blanks_and_ways_to_write_an_accent_do_not_count(text, same):
    assert (canonical(text) == canonical(same or "a red cube")) == (same is not None)


def dev(prompts: list[Prompt], share: float, seed: int = 0) -> list[Prompt]:
    return list(compress(prompts, divide(iter(prompts), share, seed=seed).dev))


def chosen(prompts: list[Prompt], number: int) -> list[Prompt]:
    return list(compress(prompts, divide(iter(prompts), 0.0, number).test))


def test_the_split_is_the_same_everywhere():
    """Worked out once: who moves these has moved everybody's dev and test."""
    assert [prompt.text[-1] for prompt in dev(PROMPTS[:10], 0.5)] == ["0", "1", "2", "3", "6"]
    assert [prompt.text[-1] for prompt in chosen(PROMPTS[:10], 3)] == ["3", "4", "9"]


def test_a_split_depends_on_words_alone():
    parts = divide(PROMPTS, 0.2)
    of_dev = list(compress(PROMPTS, parts.dev))
    assert (parts.dev ^ parts.test).all() and parts.num_repeated == 0
    assert 320 < len(of_dev) < 480  # 400, and 4.5 deviations of 17.9
    assert dev(PROMPTS[::-1], 0.2) == of_dev[::-1]
    assert dev(PROMPTS[:50], 0.2) == [prompt for prompt in of_dev if prompt in PROMPTS[:50]]
    shouted = [Prompt(prompt.text.upper().replace(" ", "  ")) for prompt in PROMPTS]
    assert [canonical(prompt.text) for prompt in dev(shouted, 0.2)] == [prompt.text for prompt in of_dev]
    larger = dev(PROMPTS, 0.3)
    assert all(prompt in larger for prompt in of_dev)
    assert dev(PROMPTS, 0.2, seed=1) != of_dev
    assert dev(PROMPTS, 0.0) == [] and dev(PROMPTS, 1.0) == PROMPTS


def test_what_is_chosen_is_neither_the_first_nor_the_dev():
    few = chosen(PROMPTS, 400)
    assert len(few) == 400 and few != PROMPTS[:400]
    assert [prompt for prompt in PROMPTS if prompt in few] == few
    assert sorted(map(hash, chosen(PROMPTS[::-1], 400))) == sorted(map(hash, few))
    assert 40 < len(dev(few, 0.2)) < 120
    assert chosen(PROMPTS[:5], 9) == PROMPTS[:5]


def test_repeated_prompts_leave_their_first():
    prompts = [Prompt("A cat", {"n": 1}), Prompt("a  cat", {"n": 2}), Prompt("a dog")]
    parts = divide(prompts, 0.0)
    assert parts.num_repeated == 1 and parts.test.tolist() == [True, False, True]


def test_lines_are_read_back(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({**prompt.fields, "prompt": prompt.text}) + "\n" for prompt in PROMPTS[:300]))
    test, dev = tmp_path / "test.jsonl", tmp_path / "dev.jsonl"
    settings = Splitting(test, dev, dev_share=0.3)
    written = split_prompts(path, settings)
    parts = divide(PROMPTS[:300], 0.3)
    assert read_prompts(test) == list(compress(PROMPTS, parts.test))
    assert read_prompts(dev) == list(compress(PROMPTS, parts.dev))
    assert written == (300, 0, {test: (sum(parts.test), True), dev: (sum(parts.dev), True)})
    for file, change in ((test, lambda data: data), (dev, lambda data: data[:-1]), (dev, lambda data: data + b"x")):
        kept = file.read_bytes()
        file.write_bytes(change(kept))
        is_new = [part.is_new for part in split_prompts(path, settings).parts.values()]
        assert is_new == [False, file == dev] and file.read_bytes() == kept


def test_a_list_is_described():
    prompts = [Prompt("a cat", {"tag": "x"}), Prompt("A  cat"), Prompt("a red dog", {"tag": "x", "n": ["1"]})]
    assert describe_prompts(prompts) == [
        "3 prompts, 2 of them different",
        "  x: 2",
        "  without a category: 1",
        "words: 2 to 3, half of the prompts up to 2",
        "fields: tag, n",
    ]
    assert describe_prompts([Prompt("a cat")]) == [
        "1 prompts, 1 of them different",
        "words: 2 to 2, half of the prompts up to 2",
    ]
