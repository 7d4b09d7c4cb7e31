"""The detector sees what the renderer drew, through blur and noise, and nothing else."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from contrapose.evaluate.verdict import Detector, judge
from contrapose.worlds.shapes.detector import THRESHOLDS, ShapesDetector, artefact_rate, shape_fidelity
from contrapose.worlds.shapes.grammar import Meaning
from contrapose.worlds.shapes.render import COLORS, IMAGE_SIZE, SHAPES, Object, render
from contrapose.worlds.shapes.scenes import scene_of, training_meaning

DETECTOR: Detector = ShapesDetector()


@pytest.fixture(scope="module")
def cases() -> list[tuple[Meaning, dict, np.ndarray]]:
    rng = np.random.default_rng(1)
    drawn = [training_meaning(rng) for _ in range(200)]
    return [(m, m.metadata(str(rng.choice(list(m.wordings())))), render(scene_of(m, rng))) for m in drawn]


def share(cases, change) -> float:
    return float(np.mean([judge(change(image), line, DETECTOR, THRESHOLDS).correct for _, line, image in cases]))


def blurred(image: np.ndarray) -> np.ndarray:
    return np.rint(ndimage.gaussian_filter(image.astype(float), (1, 1, 0))).astype(np.uint8)


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(int(image.sum())).normal(0, 20, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def faded(image: np.ndarray) -> np.ndarray:
    return np.rint(235 + 0.85 * (image.astype(float) - 235)).astype(np.uint8)


def test_renders_pass_their_own_meaning_and_fast(cases):
    start = time.process_time()
    assert share(cases, lambda image: image) >= 0.995
    assert (time.process_time() - start) / len(cases) < 0.012


@pytest.mark.parametrize("change", [blurred, noisy, faded])
def test_so_do_spoiled_renders(cases, change):
    assert share(cases, change) >= 0.97


def entails(meaning: Meaning, other: Meaning) -> bool:
    """Whether every scene of a meaning may make the other true: all of its kinds and counts are among the first's."""
    shapes = {kind.shape: kind for kind in meaning.kinds}
    return all(
        kind.shape in shapes
        and (kind.color is None or shapes[kind.shape].color in (kind.color, None))
        and other.count in (1, meaning.count)
        for kind in other.kinds
    )


def test_wrong_prompts_fail(cases):
    checked = passed = 0
    for index, (meaning, _, image) in enumerate(cases):
        for step in (1, 7):
            other, line, _ = cases[(index + step) % len(cases)]
            if not entails(meaning, other):
                checked += 1
                passed += judge(image, line, DETECTOR, THRESHOLDS).correct
    assert checked > 300 and passed == 0


@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below"])
def test_relations_are_not_mirrored(relation):
    rng = np.random.default_rng(2)
    turned = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[relation]
    kinds = training_meaning(rng).kinds
    while len(kinds) != 2:
        kinds = training_meaning(rng).kinds
    meaning = Meaning(kinds, relation=relation)
    wrong = Meaning(kinds, relation=turned)
    image = render(scene_of(meaning, rng))
    assert judge(image, meaning.metadata(next(meaning.wordings())), DETECTOR, THRESHOLDS).correct
    assert not judge(image, wrong.metadata(next(wrong.wordings())), DETECTOR, THRESHOLDS).correct


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_every_shape_in_every_colour(shape, color):
    image = render((Object(shape, color, 31.3, 33.8, 14.2),))
    found = DETECTOR.detect(image)
    assert [name for name, objects in found.items() for _ in objects] == [shape]
    (one,) = found[shape]
    assert one.score > 0.85 and DETECTOR.color(image, one, shape) == color
    assert one.mask.shape == image.shape[:2] and one.mask.any()


def test_boxes_are_exact_to_a_fraction_of_a_pixel():
    (one,) = DETECTOR.detect(render((Object("circle", "blue", 30.3, 34.6, 12.0),)))["circle"]
    assert one.box == pytest.approx((18.3, 22.6, 42.3, 46.6), abs=0.35)


def test_things_that_touch_part_by_colour():
    image = render((Object("square", "red", 20, 32, 12), Object("square", "blue", 40, 32, 12)))
    found = DETECTOR.detect(image)["square"]
    assert len(found) == 2 and {DETECTOR.color(image, one, "square") for one in found} == {"red", "blue"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colors", [("green", "blue"), ("yellow", "pink"), ("red", "purple"), ("black", "orange")])
@pytest.mark.parametrize("width", [0.1, 40.0])
def test_a_shape_of_two_colours_is_one_shape(shape, colors, width):
    """Whether a line parts the colours or they fade into one another."""
    first, second = (render((Object(shape, color, 31.3, 33.8, 14.2),)).astype(float) for color in colors)
    share = np.clip((np.arange(IMAGE_SIZE) - 34.5) / width + 0.5, 0, 1)[:, None]
    found = DETECTOR.detect(np.rint(first + share * (second - first)).astype(np.uint8))
    ((name, one),) = ((name, one) for name, objects in found.items() for one in objects)
    assert name == shape and one.score > 0.8


@pytest.mark.parametrize("share", [0.2, 0.35, 0.65, 0.8])
@pytest.mark.parametrize("colors", [("green", "blue"), ("red", "purple"), ("blue", "purple"), ("green", "black")])
def test_a_blend_is_named_by_its_larger_share(colors, share):
    first, second = (render((Object("circle", color, 31.3, 33.8, 14.2),)).astype(float) for color in colors)
    image = np.rint((1 - share) * first + share * second).astype(np.uint8)
    (one,) = DETECTOR.detect(image)["circle"]
    assert DETECTOR.color(image, one, "circle") == colors[round(share)]


def test_things_that_a_thin_bridge_joins_are_two():
    image = render((Object("star", "green", 17, 32, 11), Object("star", "blue", 46, 32, 11)))
    image[31:34, 22:42] = (40, 120, 140)
    found = DETECTOR.detect(image)
    assert [one.score > THRESHOLDS.score for one in found["star"]] == [True, True]
    assert {DETECTOR.color(image, one, "star") for one in found["star"]} == {"green", "blue"}


def test_a_blurred_ring_is_one_ring():
    """Where red fades to grey it looks pink; that rim is no second ring."""
    image = render((Object("ring", "red", 32, 32, 9.0),)).astype(float)
    image = np.rint(ndimage.gaussian_filter(image, (1.5, 1.5, 0))).astype(np.uint8)
    found = DETECTOR.detect(image)
    assert {name: len(objects) for name, objects in found.items() if objects} == {"ring": 1}
    assert DETECTOR.color(image, found["ring"][0], "ring") == "red"


def test_colours_outside_the_palette_are_no_objects():
    image = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 235, np.uint8)
    image[20:40, 20:40] = (0, 255, 255)
    assert not any(DETECTOR.detect(image).values())


@pytest.mark.parametrize("seed", range(6))
def test_any_image_has_an_answer(seed):
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(1, 80)), int(rng.integers(1, 80))
    image = (
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8) if seed % 2 else np.zeros((height, width, 3), np.uint8)
    )
    found = DETECTOR.detect(image)
    assert all(0 <= one.score <= 1 for objects in found.values() for one in objects)
    assert 0 <= artefact_rate(image, found) <= 1


def test_shape_fidelity_falls_with_deformation():
    sharp = render((Object("star", "green", 32, 32, 15),))
    squeezed = np.full_like(sharp, 235)
    squeezed[:, 8:56] = ndimage.zoom(sharp, (1, 0.75, 1), order=1)
    fidelities = [shape_fidelity(DETECTOR.detect(image)) for image in (sharp, squeezed)]
    assert fidelities[0] > 0.93 and fidelities[1] < fidelities[0] - 0.15
    assert shape_fidelity(DETECTOR.detect(np.full_like(sharp, 235))) == 0


def test_artefact_rate_is_the_unexplained_share():
    image = render((Object("square", "blue", 18, 18, 12),))
    assert artefact_rate(image, DETECTOR.detect(image)) == 0
    image[45:55, 35:60] = (0, 255, 255)  # 250 pixels of no palette colour beside about 20.6^2
    assert artefact_rate(image, DETECTOR.detect(image)) == pytest.approx(250 / (250 + 20.64**2), abs=0.05)
    assert artefact_rate(np.full_like(image, 235), {}) == 0
