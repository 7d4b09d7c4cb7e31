"""The classical corruptions: graded, drawn by the photograph's seed, and each what it says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from contrapose.errors import UserError
from contrapose.photographs.spoil.corruptions import CORRUPTIONS
from contrapose.photographs.spoil.degrade import Degrade


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth waves, a few hard-edged patches and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / width * a + y / height * b) for a, b in rng.uniform(2, 12, (3, 2))]
    pixels = 128 + 70 * np.stack(waves, axis=-1)
    for top, left in rng.integers(0, (height * 3 // 4, width * 3 // 4), (6, 2)):
        pixels[top : top + height // 4, left : left + width // 4] = rng.uniform(0, 255, 3)
    return (pixels + rng.normal(0, 4, pixels.shape)).round().clip(0, 255)


@pytest.mark.parametrize("size", [(48, 64), (192, 128), (300, 300)])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_effect_grows_with_the_severity(kind, size):
    pixels = photograph(*size)
    changes = []
    for severity in (1, 2, 3, 4, 5):
        made = CORRUPTIONS[kind](pixels.copy(), severity, np.random.default_rng(3)).clip(0, 255)
        assert made.shape == pixels.shape
        changes.append(((made - pixels) ** 2).mean())
    assert changes[0] > 1 and all(b > a for a, b in pairwise(changes)), changes


def test_shuffling_moves_pixels_and_makes_none():
    pixels = photograph(50, 67)
    made = CORRUPTIONS["shuffle"](pixels, 5, np.random.default_rng(0))
    assert np.array_equal(np.sort(made.reshape(-1, 3), axis=0), np.sort(pixels.reshape(-1, 3), axis=0))
    assert np.array_equal(made[48:], pixels[48:]) and np.array_equal(made[:, 64:], pixels[:, 64:])


def test_a_shifted_colour_is_the_same_everywhere_and_no_brighter():
    pixels = np.full((8, 8, 3), 128.0)
    shift = CORRUPTIONS["colour"](pixels, 5, np.random.default_rng(0)) - pixels
    assert np.allclose(shift, shift[0, 0]) and np.isclose(np.linalg.norm(shift[0, 0]), 80)
    assert np.isclose(shift[0, 0].sum(), 0)


def test_a_warp_leaves_a_plain_wall_alone():
    plain = np.full((40, 30, 3), 77.0)
    assert np.allclose(CORRUPTIONS["warp"](plain, 5, np.random.default_rng(0)), plain)


def test_each_photograph_goes_by_its_own_seed():
    photos = [Image.fromarray(photograph(32, 32, seed).astype(np.uint8)) for seed in range(12)]
    captions, seeds = [f"photo {n}" for n in range(12)], list(range(12))
    together = Degrade().spoil(photos, captions, seeds, None)
    for photo, caption, seed, loser in zip(photos, captions, seeds, together, strict=True):
        (alone,) = Degrade().spoil([photo], [caption], [seed], None)
        assert np.array_equal(alone.image, loser.image) and alone.why == loser.why
        assert not np.array_equal(photo, loser.image) and loser.mask is None
        assert loser.why["kind"] == "degrade" and loser.why["seed"] == seed
    assert len({loser.why["corruption"] for loser in together}) >= 3
    assert len({loser.why["severity"] for loser in together}) >= 3


def test_kinds_and_severities_are_those_chosen():
    photo = Image.fromarray(photograph(32, 32).astype(np.uint8))
    chosen = Degrade(kinds=("blur", "warp"), severities=(2,))
    losers = chosen.spoil([photo] * 10, ["x"] * 10, list(range(10)), None)
    assert {loser.why["corruption"] for loser in losers} == {"blur", "warp"}
    assert {loser.why["severity"] for loser in losers} == {2}


@pytest.mark.parametrize("wrong", [{"kinds": ()}, {"kinds": ("fog",)}, {"severities": ()}, {"severities": (0,)}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UserError, match="choose from"):
        replace(Degrade(), **wrong)
