"""Training scenes and captions: true when careful, careless a quarter of the time, never about what is held out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from contrapose.worlds.shapes.grammar import TAGS, UNSEEN_BINDINGS, Meaning, canonical_meanings, split_of
from contrapose.worlds.shapes.render import GAP, IMAGE_SIZE, coverage
from contrapose.worlds.shapes.scenes import caption, scene_of, training_meaning

NUM_DRAWS = 3000


@pytest.fixture(scope="module")
def captioned() -> list[tuple[Meaning, str]]:
    rng = np.random.default_rng(5)
    meanings = [training_meaning(rng) for _ in range(NUM_DRAWS)]
    return [(meaning, caption(meaning, rng)) for meaning in meanings]


@pytest.fixture(scope="module")
def held_out() -> set[str]:
    meanings = [m for tag in TAGS for m in canonical_meanings(tag) if split_of(m) != "train"]
    return {wording for meaning in meanings for wording in meaning.wordings()}


def test_training_meanings_and_captions_never_say_what_is_held_out(captioned, held_out):
    assert not any(text in held_out for _, text in captioned)
    assert not any(wording in held_out for meaning, _ in captioned for wording in meaning.wordings())


def test_even_captions_that_are_always_careless_do_not(held_out):
    rng = np.random.default_rng(6)
    texts = {caption(training_meaning(rng), rng, carelessness=1.0) for _ in range(NUM_DRAWS)}
    assert not texts & held_out
    assert not any(f"{color} {shape}" in text for text in texts for color, shape in UNSEEN_BINDINGS)


def test_about_a_quarter_of_the_captions_is_careless(captioned):
    careless = np.mean([text not in set(meaning.wordings()) for meaning, text in captioned])
    assert 0.21 < careless < 0.28


def test_careful_captions_are_true():
    rng = np.random.default_rng(7)
    for _ in range(200):
        meaning = training_meaning(rng)
        assert caption(meaning, rng, carelessness=0.0) in set(meaning.wordings())


def test_training_scenes_show_no_unseen_binding():
    rng = np.random.default_rng(8)
    scenes = [scene_of(training_meaning(rng), rng) for _ in range(1000)]
    shown = {(item.color, item.shape) for scene in scenes for item in scene}
    assert not shown & UNSEEN_BINDINGS
    assert len(shown) == 6 * 8 - len(UNSEEN_BINDINGS)


def test_objects_stay_apart_and_inside():
    rng = np.random.default_rng(9)
    for _ in range(60):
        scene = scene_of(training_meaning(rng), rng)
        drawn = [coverage(o.shape, o.x, o.y, o.radius) for o in scene]
        for item, alpha in zip(scene, drawn, strict=True):
            whole = coverage(item.shape, item.x + 32, item.y + 32, item.radius, size=2 * IMAGE_SIZE)
            assert alpha.sum() == pytest.approx(whole.sum(), abs=0.5)  # nothing is cut off by the frame
        for one, other in itertools.combinations(drawn, 2):
            ys, xs = np.nonzero(one > 0.5)
            yo, xo = np.nonzero(other > 0.5)
            assert np.hypot(ys[:, None] - yo, xs[:, None] - xo).min() >= GAP
