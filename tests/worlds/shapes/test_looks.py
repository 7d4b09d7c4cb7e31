"""Looks lie behind what an image shows: they change how it is measured to look, and nothing that the judge finds."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import numpy as np
import pytest

from contrapose.evaluate.verdict import judge
from contrapose.pixels import lab
from contrapose.worlds.shapes.appearance import appearance
from contrapose.worlds.shapes.detector import THRESHOLDS, ShapesDetector, foreground
from contrapose.worlds.shapes.grammar import BAD_LOOKS, GOOD_LOOKS, LEAD_INS, lead_ins_of
from contrapose.worlds.shapes.looks import (
    CLEAN,
    Looks,
    Speck,
    backdrop,
    draw_lead_ins,
    draw_looks,
    draw_quality,
)
from contrapose.worlds.shapes.render import BACKGROUND, IMAGE_SIZE, render
from contrapose.worlds.shapes.scenes import scene_of, training_meaning

DETECTOR = ShapesDetector()


def test_the_clean_look_is_the_plain_render_to_the_bit():
    rng = np.random.default_rng(0)
    scene = scene_of(training_meaning(rng), rng)
    for looks in (CLEAN, draw_looks(1.0, scene, rng)):
        assert np.array_equal(render(scene, backdrop=backdrop(looks)), render(scene))


def things(image: np.ndarray) -> list[tuple[str, str, int]]:
    """Shape and colour of every object that counts, and by how strict a threshold."""
    seen = []
    for shape, objects in DETECTOR.detect(image).items():
        for item in objects:
            strictness = (item.score > THRESHOLDS.score) + (item.score > THRESHOLDS.counting_score)
            seen.append((shape, DETECTOR.color(image, item, shape), strictness))
    return sorted(seen)


def test_the_worst_looks_change_nothing_that_the_judge_finds():
    for number in range(120):
        rng = np.random.default_rng([4, number])
        meaning = training_meaning(rng)
        scene = scene_of(meaning, rng)
        worst = replace(draw_looks(0.0, scene, rng), tint=1.0, gradient=1.0)
        clean, spoiled = render(scene), render(scene, backdrop=backdrop(worst))
        assert things(spoiled) == things(clean)
        line = meaning.metadata(next(meaning.wordings()))
        assert judge(spoiled, line, DETECTOR, THRESHOLDS) == judge(clean, line, DETECTOR, THRESHOLDS)


def test_no_background_reaches_the_foreground_threshold():
    neutral = lab(np.array(BACKGROUND))
    everywhere = tuple(Speck(x, 32.0, 2.4) for x in np.linspace(0, IMAGE_SIZE, 40))
    for turn in range(24):
        angle = turn * math.pi / 12
        for other in range(0, 24, 3):
            image = np.rint(backdrop(Looks(1.0, angle, 1.0, other * math.pi / 12, everywhere))).astype(np.uint8)
            assert not foreground(image).any()
            assert np.linalg.norm(lab(image) - neutral, axis=-1).max() < 27


@pytest.mark.parametrize(
    ("looks", "measure"),
    [
        (Looks(tint=0.7, hue=1.0), "tint"),
        (Looks(gradient=0.8, direction=2.0), "gradient"),
        (Looks(specks=tuple(Speck(x, y, 2.0) for x in (9.0, 32.0, 55.0) for y in (9.0, 32.0, 55.0))), "specks"),
    ],
)
def test_each_look_has_its_own_measure_and_all_are_rough(looks, measure):
    rng = np.random.default_rng(1)
    scene = scene_of(training_meaning(rng), rng)
    clean = appearance(render(scene))
    assert astuple(clean) == pytest.approx((0, 0, 0, 0))
    seen = appearance(np.rint(backdrop(looks)).astype(np.uint8))
    assert seen.roughness > 1.0
    assert getattr(seen, measure) > 0.005
    others = {"tint": 0.3, "gradient": 0.3, "specks": 0.001}
    del others[measure]
    assert all(getattr(seen, name) < most for name, most in others.items())


def test_an_image_without_background_is_measured_too():
    seen = appearance(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
    assert seen.roughness == pytest.approx(235)
    assert appearance(np.zeros((1, 1, 3), np.uint8)).gradient == 0


def test_most_training_images_look_mediocre_and_worse_than_clean():
    rng = np.random.default_rng(2)
    qualities = np.array([draw_quality(rng) for _ in range(3000)])
    assert 0.05 < (qualities >= 0.9).mean() < 0.1
    assert 0.3 < qualities[qualities < 0.9].mean() < 0.5
    roughness = []
    for quality in qualities[:150]:
        scene = scene_of(training_meaning(rng), rng)
        roughness.append(appearance(render(scene, backdrop=backdrop(draw_looks(quality, scene, rng)))).roughness)
    assert np.median(roughness) > 4 and np.corrcoef(qualities[:150], roughness)[0, 1] < -0.8


def test_captions_name_the_looks_whatever_they_are_and_a_tenth_of_them_wrongly():
    rng = np.random.default_rng(3)
    good, bad = lead_ins_of(GOOD_LOOKS), lead_ins_of(BAD_LOOKS)
    assert "a dusty, stained photo of " in bad and "a clean picture of " in good and len(good) == len(bad) == 27
    for quality, right in ((0.95, good), (0.2, bad)):
        drawn = [draw_lead_ins(quality, rng) for _ in range(4000)]
        named = [lead_ins for lead_ins in drawn if lead_ins != list(LEAD_INS)]
        assert 0.47 < len(named) / len(drawn) < 0.53
        assert 0.87 < np.mean([lead_ins == right for lead_ins in named]) < 0.93
