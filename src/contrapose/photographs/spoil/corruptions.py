"""Classical corruptions of an RGB image [H, W, 3] in 0..255, each with five severities of growing effect.

What is random of one is drawn before its severity matters, so that severities of one seed differ in strength alone.
Lengths are in shares of the shorter side: a photograph is spoiled alike at every size.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contrapose.photographs.spoil.saliency import resized

Pixels = NDArray[np.float64]
Severity = Literal[1, 2, 3, 4, 5]
Name = Literal["blur", "jpeg", "colour", "shuffle", "resample", "warp"]
GRID = 8  # patches a side that are shuffled


def blur(pixels: Pixels, severity: Severity, rng: np.random.Generator) -> Pixels:
    """A Gaussian blur of 0.4 to 3 % of the shorter side, which counts as 128 pixels at least."""
    sigma = (0.004, 0.008, 0.012, 0.02, 0.03)[severity - 1] * max(128, min(pixels.shape[:2]))
    from scipy.ndimage import gaussian_filter

    blurred: Pixels = gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest")
    return blurred


def jpeg(pixels: Pixels, severity: Severity, rng: np.random.Generator) -> Pixels:
    """JPEG at the qualities of ImageNet-C, 25 to 7 (Hendrycks & Dietterich 2019)."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[severity - 1])
    return np.asarray(Image.open(file, formats=("JPEG",)), dtype=np.float64)


def colour(pixels: Pixels, severity: Severity, rng: np.random.Generator) -> Pixels:
    """One colour added everywhere: of a random direction without grey in it, 12 to 80 levels long."""
    direction = rng.standard_normal(3)
    # what is left adds no brightness
    direction -= direction.mean()
    return pixels + (12, 25, 40, 60, 80)[severity - 1] * direction / np.linalg.norm(direction)


def shuffle(pixels: Pixels, severity: Severity, rng: np.random.Generator) -> Pixels:
    """An eighth to all of 8x8 patches change places, in a ring; what does not fill a patch at the borders stays."""
    order = rng.permutation(GRID * GRID)[: (8, 16, 28, 44, 64)[severity - 1]]
    height = max(1, pixels.shape[0] // GRID)
    width = max(1, pixels.shape[1] // GRID)
    places = []
    for number in order.tolist():
        row, column = divmod(number, GRID)
        places.append(np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width])
    moved = pixels.copy()
    # each takes the next one's pixels, and the last the first one's
    for place, source in zip(places, [*places[1:], places[0]], strict=True):
        moved[place] = pixels[source]
    return moved


def resample(pixels: Pixels, severity: Severity, rng: np.random.Generator) -> Pixels:
    """Scaled down by 2 to 10, and up again."""
    image = Image.fromarray(pixels.astype(np.uint8))
    factor = (2, 3, 4, 6, 10)[severity - 1]
    small = image.resize([max(1, round(side / factor)) for side in image.size], Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BICUBIC), dtype=np.float64)


def warp(pixels: Pixels, severity: Severity, rng: np.random.Generator) -> Pixels:
    """Every place takes its colour from one nearby: a smooth random displacement of 0.5 to 5 % of the shorter side.

    Local warps are what generators do to hands and faces (elastic deformation: Simard et al. 2003).
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    # noise on a grid of 8 cells over the shorter side, enlarged smoothly
    cells = [round(8 * length / side) for length in (height, width)]
    field = np.stack([resized(rng.standard_normal(cells), (width, height), Image.Resampling.BICUBIC) for _ in "yx"])
    # scaled by the root mean square of its own lengths, so that every seed moves as far
    field *= (0.005, 0.01, 0.02, 0.035, 0.05)[severity - 1] * side / np.sqrt((field**2).sum(0).mean())
    places = np.indices((height, width)) + field
    from scipy.ndimage import map_coordinates

    return np.stack([map_coordinates(pixels[..., c], places, order=1, mode="nearest") for c in range(3)], axis=-1)


CORRUPTIONS: dict[Name, Callable[[Pixels, Severity, np.random.Generator], Pixels]] = {
    "blur": blur,
    "jpeg": jpeg,
    "colour": colour,
    "shuffle": shuffle,
    "resample": resample,
    "warp": warp,
}
