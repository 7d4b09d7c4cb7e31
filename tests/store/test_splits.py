"""A prompt's place is decided by its words: not by the order of its file, nor by what else is in it."""

from __future__ import annotations

import pytest

from contrapose.store.prompts import Prompt, canonical, read_prompts
from contrapose.store.splits import as_lines, chosen, describe_prompts, distinct, split

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


def test_the_split_is_the_same_everywhere():
    """Worked out once: who moves these has moved everybody's dev and test."""
    assert [prompt.text[-1] for prompt in split(PROMPTS[:10], 0.5).dev] == ["0", "1", "2", "3", "6"]
    assert [prompt.text[-1] for prompt in chosen(PROMPTS[:10], 3)] == ["3", "4", "9"]


def test_a_split_depends_on_words_alone():
    parts = split(PROMPTS, 0.2)
    assert len(parts.dev) + len(parts.test) == 2000
    assert 320 < len(parts.dev) < 480  # 400, and 4.5 deviations of 17.9
    assert split(PROMPTS[::-1], 0.2).dev == parts.dev[::-1]
    assert split(PROMPTS[:50], 0.2).dev == [prompt for prompt in parts.dev if prompt in PROMPTS[:50]]
    shouted = [Prompt(prompt.text.upper().replace(" ", "  ")) for prompt in PROMPTS]
    assert [canonical(prompt.text) for prompt in split(shouted, 0.2).dev] == [prompt.text for prompt in parts.dev]
    larger = split(PROMPTS, 0.3).dev
    assert all(prompt in larger for prompt in parts.dev)
    assert split(PROMPTS, 0.2, seed=1).dev != parts.dev
    assert split(PROMPTS, 0.0).dev == [] and split(PROMPTS, 1.0).test == []


def test_what_is_chosen_is_neither_the_first_nor_the_dev():
    few = chosen(PROMPTS, 400)
    assert len(few) == 400 and few != PROMPTS[:400]
    assert [prompt for prompt in PROMPTS if prompt in few] == few
    assert sorted(map(hash, chosen(PROMPTS[::-1], 400))) == sorted(map(hash, few))
    assert 40 < len(split(few, 0.2).dev) < 120
    assert chosen(PROMPTS[:5], 9) == PROMPTS[:5]


def test_repeated_prompts_leave_their_first():
    prompts = [Prompt("A cat", {"n": 1}), Prompt("a  cat", {"n": 2}), Prompt("a dog")]
    assert distinct(prompts) == [prompts[0], prompts[2]]


def test_lines_are_read_back(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(as_lines(PROMPTS[:3]), encoding="utf-8")
    assert read_prompts(path) == PROMPTS[:3]


def test_a_list_is_described():
    prompts = [Prompt("a cat", {"tag": "x"}), Prompt("A  cat"), Prompt("a red dog", {"tag": "x", "n": 1})]
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
