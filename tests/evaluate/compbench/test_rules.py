"""T2I-CompBench's rules over boxes, by cases made by hand for every branch."""

from __future__ import annotations

import pytest

from contrapose.evaluate.boxes import Box
from contrapose.evaluate.compbench.rules import (
    DEPTHS,
    PLACES,
    complex_score,
    depth_score,
    numeracy_score,
    overlap,
    pair_score,
    place_score,
    spatial_score,
    without_doubles,
    word_of,
)


def at(x: float, y: float, side: float = 20, score: float = 0.8) -> Box:
    """A square around its centre."""
    return Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2, score)


MIDDLE = at(240, 240)


@pytest.mark.parametrize(
    ("word", "x", "y", "expected"),
    [  # where a is, and b in the middle
        ("near", 40, 80, 150 / 200),  # |dx| = 200, |dy| = 160
        ("near", 91, 0, 1.0),  # 149 by x, and 240 by y
        ("next to", 0, 240, 1.0),  # far to the left, yet on its height
        ("on side of", 240, 0, 1.0),
        ("on the right of", 300, 240, 1.0),
        ("on the right of", 180, 240, 0.0),
        ("on the right of", 300, 290, 1.0),  # further right than down
        ("on the right of", 290, 300, 0.0),  # further down than right
        ("on the right of", 300, 300, 0.0),  # as far
        ("on the left of", 180, 240, 1.0),
        ("on the left of", 300, 240, 0.0),
        ("on the left of", 190, 300, 0.0),
        ("on the top of", 240, 180, 1.0),
        ("on the top of", 240, 300, 0.0),
        ("on the top of", 180, 190, 0.0),
        ("on the bottom of", 240, 300, 1.0),
        ("on the bottom of", 240, 180, 0.0),
        ("on the bottom of", 300, 290, 0.0),
        ("on top of", 240, 180, 0.0),  # in the list of words, and in no rule
        (None, 240, 180, 0.0),
    ],
)
def test_places(word: str | None, x: float, y: float, expected: float) -> None:
    assert place_score(word, at(x, y), MIDDLE) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("word", "x", "y"),
    [("on the right of", 250, 240), ("on the left of", 230, 240), ("on the top of", 240, 230),
     ("on the bottom of", 240, 250)],
)  # fmt: skip
def test_what_overlaps_lies_there_less(word: str, x: float, y: float) -> None:
    """Half of each square is the other's: IoU = 200 / 600."""
    assert place_score(word, at(x, y), MIDDLE) == pytest.approx(0.1 * 3)


def test_overlap() -> None:
    assert overlap(MIDDLE, MIDDLE) == 1.0
    assert overlap(MIDDLE, at(300, 300)) == 0.0
    assert overlap(MIDDLE, at(250, 250)) == pytest.approx(100 / 700)
    assert overlap(at(3, 3, side=0), at(3, 3, side=0)) == 0.0


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("a dog on the left of a cat near a tree", PLACES, "near"),  # by the list's order, not the prompt's
        ("a dog on the top of a cat", PLACES, "on the top of"),
        ("a hat is on top of a rack", PLACES, "on top of"),
        ("a nearby dog", PLACES, "near"),
        ("a dog", PLACES, None),
        ("a dog hidden behind a cat", DEPTHS, "behind"),
        ("a dog in front of a cat", DEPTHS, "in front of"),
    ],
)
def test_words_of_prompts(text: str, words: tuple[str, ...], expected: str | None) -> None:
    assert word_of(text, words) == expected


def test_pairs() -> None:
    a = at(300, 240, score=0.8)
    b = at(240, 240, score=0.6)
    assert pair_score(a, b, 0.5) == pytest.approx(0.2 + 0.15 + 0.25)
    assert pair_score(a, None, 1.0) == pytest.approx(0.2)
    assert pair_score(None, b, 1.0) == pytest.approx(0.15)
    assert pair_score(None, None, 1.0) == 0.0


def test_places_below_a_half_are_none() -> None:
    a = at(300, 240, score=0.8)
    b = at(240, 240, score=0.6)
    assert spatial_score("on the right of", a, b) == pytest.approx(0.85)
    assert spatial_score("on the left of", a, b) == 0.0  # not 0.35
    assert spatial_score("on the left of", at(300, 240, score=1.0), at(240, 240, score=1.0)) == 0.5  # not below
    assert spatial_score("on the right of", a, None) == 0.0  # not 0.2
    assert spatial_score("on the right of", None, b) == 0.0
    assert spatial_score("on the right of", None, None) == 0.0


@pytest.mark.parametrize(
    ("word", "iou", "nearer", "expected"),
    [
        ("in front of", 0.6, 1.0, 1.0),
        ("in front of", 0.6, -1.0, 0.0),
        ("in front of", 0.6, 0.0, 0.0),
        ("in front of", 0.2, 1.0, 0.4),
        ("in front of", 0.2, -1.0, 0.0),
        ("in front of", 0.0, 1.0, 0.0),
        ("in front of", 0.5, 1.0, 0.0),  # between the two branches
        ("behind", 0.6, -1.0, 1.0),
        ("behind", 0.6, 1.0, 0.0),
        ("behind", 0.2, -1.0, 0.4),
        ("behind", 0.2, 1.0, 0.0),
        ("hidden", 0.6, -1.0, 1.0),
        ("hidden", 0.0, -1.0, 0.0),
        ("near", 0.6, 1.0, 0.0),
        (None, 0.6, 1.0, 0.0),
    ],
)
def test_depth(word: str | None, iou: float, nearer: float, expected: float) -> None:
    assert depth_score(word, iou, nearer) == pytest.approx(expected)


def test_doubles() -> None:
    large = Box(0, 0, 99, 99, 0.9)  # 100 pixels a side, ends included
    within = Box(10, 10, 19, 19, 0.8)  # all of it is the large one's
    across = Box(91, 0, 100, 99, 0.7)  # 9 of 10 columns: 0.9 and not more
    beside = Box(90, 0, 100, 99, 0.6)  # 10 of 11 columns
    assert without_doubles([large, within, across, beside]) == [large, across]
    assert without_doubles([within, large]) == [within]
    assert without_doubles([]) == []


def test_numbers_of_things() -> None:
    boxes = {"dog": [at(50, 50), at(100, 50), at(100, 50, score=0.3)], "cat": [at(300, 300)]}
    assert numeracy_score([("dog", 2)], boxes) == 1.0
    assert numeracy_score([("dog", 3)], boxes) == 0.5
    assert numeracy_score([("cow", 1)], boxes) == 0.0
    assert numeracy_score([("dog", 2), ("cat", 2)], boxes) == pytest.approx(0.75)
    assert numeracy_score([("dog", 2), ("cat", 1), ("cow", 1), ("fox", 1)], boxes) == pytest.approx(0.5)


def test_three_in_one() -> None:
    assert complex_score("spatial", 0.4, 0.6, 0.3) == pytest.approx(0.5)
    assert complex_score("action", 0.4, 0.6, 0.3) == pytest.approx(0.35)
    assert complex_score("", 0.4, 0.6, 0.3) == pytest.approx(1.3 / 3)
