"""How an image looks beside what it shows: a tint, a gradient and specks, all on the background alone.

They leave the prompt's evidence alone: no background strays from the neutral one as far as the detector's threshold of
foreground, and specks keep away from objects. A quality of 1 is a clean image; its background is the neutral one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contrapose.worlds.shapes.grammar import BAD_LOOKS, GOOD_LOOKS, LEAD_INS, lead_ins_of
from contrapose.worlds.shapes.render import BACKGROUND, IMAGE_SIZE, Scene, coverage

# The strongest looks, in levels of 0..255. Together they lie 26 of Lab's units from the neutral background at most.
_TINT = 28.0  # by which a tint darkens the channel that it takes most from
_GRADIENT = 12.0  # by which a gradient brightens one end of the image, and darkens the other
_SPECK = 22.0  # by which a speck darkens
_MOST_SPECKS = 16
_SPECK_RADII = (0.9, 2.4)  # pixels
_CLEARANCE = 4.0  # pixels between a speck and an object: more than the detector looks around an object

_GOOD_SHARE = 0.07  # of training images; the others are mediocre or bad
_LEAST_GOOD = 0.9
_BEST_MEDIOCRE = 0.8

_YELLOWED = 4 * math.pi / 3  # the hue of old paper, which takes most from blue
_HUE_SPREAD = 0.7

_NAMED_SHARE = 0.5  # of captions, those that name the looks, whatever the quality
_PRAISED = 0.55  # the quality from which a caption praises the looks: about the best third
_MISNAMED_SHARE = 0.1  # of captions that name the looks, those that say the opposite


@dataclass(frozen=True)
class Speck:
    """A dark spot; centre and radius in pixels."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Looks:
    """A background's looks; strengths are shares of the strongest, angles are in radians."""

    tint: float = 0.0
    hue: float = 0.0
    gradient: float = 0.0
    direction: float = 0.0
    """Where the gradient rises to: 0 is the right side, a quarter turn the lower one."""
    specks: tuple[Speck, ...] = ()


CLEAN = Looks()


def backdrop(looks: Looks, size: int = IMAGE_SIZE) -> NDArray[np.float64]:
    """The background [size, size, 3] on which a scene is drawn, in 0..255."""
    # three cosines a third of a turn apart: each channel loses between nothing and all of the tint
    phases = looks.hue - 2 * np.pi * np.arange(3) / 3
    color = np.array(BACKGROUND) - looks.tint * _TINT * (0.5 + 0.5 * np.cos(phases))
    along = np.linspace(-1.0, 1.0, size)
    # scaled by the reach of the corners, so that the ends of any direction lie at -1 and 1
    reach = abs(math.cos(looks.direction)) + abs(math.sin(looks.direction))
    slope = (along * math.cos(looks.direction) + along[:, None] * math.sin(looks.direction)) / reach
    canvas = color + looks.gradient * _GRADIENT * slope[..., None]
    spots = np.zeros((size, size))
    for speck in looks.specks:
        spots = np.maximum(spots, coverage("circle", speck.x, speck.y, speck.radius, size))
    return canvas - _SPECK * spots[..., None]


def draw_quality(rng: np.random.Generator) -> float:
    """The quality of a training image: good for a few, mediocre or bad for the others."""
    if rng.random() < _GOOD_SHARE:
        return float(rng.uniform(_LEAST_GOOD, 1.0))
    return _BEST_MEDIOCRE * float(rng.beta(1.5, 1.5))


def draw_looks(quality: float, scene: Scene, rng: np.random.Generator) -> Looks:
    """Random looks of an image of this scene; each is the stronger the lower the quality."""
    badness = 1.0 - quality
    tint, gradient, spotted = badness * rng.uniform(0.4, 1.0, 3)
    # tints have a hue in common: a bad look is a change of the mean, which words and preferences can learn
    hue = rng.normal(_YELLOWED, _HUE_SPREAD)
    direction = rng.uniform(0.0, 2 * math.pi)
    specks: list[Speck] = []
    for _ in range(round(spotted * _MOST_SPECKS)):
        x, y = rng.uniform(0.0, IMAGE_SIZE, 2)
        speck = Speck(float(x), float(y), float(rng.uniform(*_SPECK_RADII)))
        if _keeps_clear(speck, scene):
            specks.append(speck)
    return Looks(float(tint), float(hue), float(gradient), float(direction), tuple(specks))


def _keeps_clear(speck: Speck, scene: Scene) -> bool:
    """Whether a speck lies wholly beside every object; one near an object would change its outline."""
    # corners reach 1.22 radii from an object's centre (the square's)
    return all(
        math.hypot(speck.x - item.x, speck.y - item.y) > 1.22 * item.radius + speck.radius + _CLEARANCE
        for item in scene
    )


def draw_lead_ins(quality: float, rng: np.random.Generator) -> list[str]:
    """How a caption of an image of this quality may begin: most say nothing of looks, some name them, a few wrongly.

    Whether looks are named is independent of the quality, so a caption without such a word tells nothing of it.
    """
    if rng.random() >= _NAMED_SHARE:
        return list(LEAD_INS)
    is_wrong = bool(rng.random() < _MISNAMED_SHARE)
    is_praised = (quality >= _PRAISED) != is_wrong
    return lead_ins_of(GOOD_LOOKS if is_praised else BAD_LOOKS)
