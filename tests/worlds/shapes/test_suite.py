"""The suite: its judge, and the floor and ceiling between which scores are read."""

from __future__ import annotations

import numpy as np
import pytest
from judging import as_prompt, as_prompts
from PIL import Image

from contrapose.errors import UserError
from contrapose.store.prompts import Prompt
from contrapose.worlds.shapes.grammar import TAGS, Meaning, canonical_meanings, prompts
from contrapose.worlds.shapes.render import IMAGE_SIZE
from contrapose.worlds.shapes.suite import ShapesJudge, ceiling_images, meaning_of, shuffled

PROMPTS = as_prompts(prompts("test", per_tag=12))


def judge(image, prompt):
    return ShapesJudge()([Image.fromarray(image)], [prompt])


def correct(image, prompt) -> float:
    return judge(image, prompt)["correct"].values[0]


@pytest.mark.parametrize("tag", TAGS)
def test_metadata_turns_back_into_its_meaning(tag):
    for meaning in canonical_meanings(tag)[::7]:
        for wording in meaning.wordings():
            assert meaning_of(as_prompt(meaning.metadata(wording))).canonical() == meaning.canonical()


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
        judge(np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 235, np.uint8), Prompt("p", {"tag": "x", "include": include}))


def test_the_judge_measures_prompt_following_and_looks():
    (_, _, image) = next(ceiling_images(PROMPTS, [0]))
    marks = judge(image, PROMPTS[0])
    looks = ["roughness", "tint", "gradient", "specks"]
    assert list(marks) == list(ShapesJudge.higher_is_better)
    assert list(marks) == ["correct", "shape_fidelity", "artefact_rate", *looks]
    assert [marks[name].values[0] for name in looks] == pytest.approx([0.0] * 4, abs=1e-6)
    assert marks["correct"].values == [1.0] and marks["correct"].reason(0) is None
    assert marks["shape_fidelity"].values[0] > 0.85 and marks["artefact_rate"].values[0] < 0.02
    blank = judge(np.full_like(image, 235), PROMPTS[0])["correct"]
    assert blank.values == [0.0] and "expected" in (blank.reason(0) or "")


def test_the_ceiling_is_right_and_depends_on_prompt_and_seed_alone():
    made = list(ceiling_images(PROMPTS, [0, 3]))
    assert [(index, seed) for index, seed, _ in made] == [(i, s) for i in range(len(PROMPTS)) for s in (0, 3)]
    assert np.mean([correct(image, PROMPTS[index]) for index, _, image in made]) >= 0.99
    (again,) = ceiling_images(PROMPTS[5:6], [3])
    assert np.array_equal(again[2], made[11][2])
    assert not np.array_equal(made[10][2], made[11][2])


@pytest.mark.parametrize("seed", range(5))
def test_the_floor_never_meets_its_own_meaning(seed):
    order = shuffled(PROMPTS, seed)
    assert sorted(prompt.text for prompt in order) == sorted(prompt.text for prompt in PROMPTS)
    assert all(meaning_of(a).key != meaning_of(b).key for a, b in zip(PROMPTS, order, strict=True))
    assert order == shuffled(PROMPTS, seed) != shuffled(PROMPTS, seed + 100)


def test_the_floor_holds_with_half_the_lines_alike_and_refuses_more():
    star, *others = canonical_meanings("single_object")
    alike = [as_prompt(star.metadata(wording)) for wording in list(star.wordings())[:4]]
    rest = [as_prompt(m.metadata(next(m.wordings()))) for m in others[:4]]
    for seed in range(20):
        order = shuffled(alike + rest, seed)
        assert all(meaning_of(prompt).key != star.key for prompt in order[:4])
    with pytest.raises(UserError, match="over half"):
        shuffled(alike + rest[:3])


def test_the_floor_is_far_below_the_ceiling():
    made = list(ceiling_images(PROMPTS, [0]))
    floor = np.mean([correct(image, shuffled(PROMPTS)[index]) for index, _, image in made])
    assert floor < 0.2


def test_coloured_counts_come_back_too():
    meaning = meaning_of(Prompt("p", {"include": [{"class": "ring", "count": 3, "color": "red"}]}))
    assert isinstance(meaning, Meaning) and meaning.tag == "counting" and meaning.kinds[0].color == "red"
