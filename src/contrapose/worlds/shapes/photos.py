"""The shapes world's photographs: true renders, each with a caption that is right, of training meanings alone.

They are to a model that learned from careless captions and poor images what real photographs are to a model of the web:
their looks are clean, as those of few of its training images are. No meaning of the dev or test prompts is among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contrapose.worlds.shapes.render import render
from contrapose.worlds.shapes.scenes import caption, scene_of, training_meaning


class Photograph(NamedTuple):
    """A render [64, 64, 3] and what it shows."""

    image: NDArray[np.uint8]
    caption: str


def photographs(num: int, seed: int) -> Iterator[Photograph]:
    """Photograph `i` depends on `i` and the seed alone."""
    for number in range(num):
        rng = np.random.default_rng([seed, number])
        meaning = training_meaning(rng)
        yield Photograph(render(scene_of(meaning, rng)), caption(meaning, rng, carelessness=0.0))
