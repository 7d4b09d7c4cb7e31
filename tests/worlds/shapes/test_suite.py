"""The suite: its judge, and the floor and ceiling between which scores are read."""

from __future__ import annotations

import numpy as np
import pytest

from contrapose.errors import UserError
from contrapose.worlds.shapes.grammar import TAGS, Meaning, canonical_meanings, prompts
from contrapose.worlds.shapes.render import IMAGE_SIZE
from contrapose.worlds.shapes.suite import ceiling_images, floor_metadata, judge, meaning_of

LINES = prompts("test", per_tag=12)


def correct(image, line) -> float:
    return judge(image, line)[0].value


@pytest.mark.parametrize("tag", TAGS)
def test_metadata_turns_back_into_its_meaning(tag):
    for meaning in canonical_meanings(tag)[::7]:
        for wording in meaning.wordings():
            assert meaning_of(meaning.metadata(wording)).canonical() == meaning.canonical()


@pytest.mark.parametrize(
    "include",
    [
        [],
        [{"class": "dog", "count": 1}],
        [{"class": "ring", "count": 1, "color": "mauve"}],
        [{"class": "ring", "count": 9}],
        [{"class": "ring"}],
        [{"class": "ring", "count": 1}, {"class": "star", "count": 2}],
        [{"class": "ring", "count": 1}, {"class": "star", "count": 1, "position": ["inside", 0]}],
        [{"class": "ring", "count": 1, "position": ["left of", 0]}],
        None,
    ],
)
def test_other_worlds_metadata_is_refused(include):
    with pytest.raises(UserError, match="not of the shapes world"):
        judge(np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 235, np.uint8), {"prompt": "p", "tag": "x", "include": include})


def test_the_judge_measures_three_things():
    (_, _, image) = next(ceiling_images(LINES, [0]))
    measures = judge(image, LINES[0])
    assert [m.metric for m in measures] == ["correct", "shape_fidelity", "artefact_rate"]
    assert measures[0] == ("correct", 1.0, None) and measures[1].value > 0.85 and measures[2].value < 0.02
    blank = judge(np.full_like(image, 235), LINES[0])
    assert blank[0].value == 0 and "expected" in (blank[0].reason or "")


def test_the_ceiling_is_right_and_depends_on_prompt_and_seed_alone():
    made = list(ceiling_images(LINES, [0, 3]))
    assert [(index, seed) for index, seed, _ in made] == [(i, s) for i in range(len(LINES)) for s in (0, 3)]
    assert np.mean([correct(image, LINES[index]) for index, _, image in made]) >= 0.99
    (again,) = ceiling_images(LINES[5:6], [3])
    assert np.array_equal(again[2], made[11][2])
    assert not np.array_equal(made[10][2], made[11][2])


@pytest.mark.parametrize("seed", range(5))
def test_the_floor_never_meets_its_own_meaning(seed):
    shuffled = floor_metadata(LINES, seed)
    assert sorted(line["prompt"] for line in shuffled) == sorted(line["prompt"] for line in LINES)
    assert all(meaning_of(a).key != meaning_of(b).key for a, b in zip(LINES, shuffled, strict=True))
    assert shuffled == floor_metadata(LINES, seed) != floor_metadata(LINES, seed + 100)


def test_the_floor_holds_with_half_the_lines_alike_and_refuses_more():
    star, *others = canonical_meanings("single_object")
    alike = [star.metadata(wording) for wording in list(star.wordings())[:4]]
    rest = [m.metadata(next(m.wordings())) for m in others[:4]]
    for seed in range(20):
        shuffled = floor_metadata(alike + rest, seed)
        assert all(meaning_of(line).key != star.key for line in shuffled[:4])
    with pytest.raises(UserError, match="over half"):
        floor_metadata(alike + rest[:3])


def test_the_floor_is_far_below_the_ceiling():
    made = list(ceiling_images(LINES, [0]))
    floor = np.mean([correct(image, floor_metadata(LINES)[index]) for index, _, image in made])
    assert floor < 0.2


def test_coloured_counts_come_back_too():
    line = {"prompt": "p", "include": [{"class": "ring", "count": 3, "color": "red"}]}
    meaning = meaning_of(line)
    assert isinstance(meaning, Meaning) and meaning.tag == "counting" and meaning.things[0].color == "red"
