"""How an image looks, measured on the pixels of its background alone: nothing of the scene or its looks is known.

`roughness` stands for what people prefer: labels are made by it. The others, each of one look, are held out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contrapose.pixels import lab
from contrapose.worlds.shapes.detector import foreground
from contrapose.worlds.shapes.render import BACKGROUND

_MARGIN = 3  # pixels around the foreground that its soft edges and the autoencoder's halos reach
_SPOT = 4.0  # of Lab's lightness, by which a speck is darker than the plane through the background


@dataclass(frozen=True)
class Appearance:
    """Four measures of a background; all are 0 for the clean one, and lower is better."""

    roughness: float
    """Root mean square of the deviations from the neutral background, in levels of 0..255."""
    tint: float
    """Chroma of the mean colour (Lab)."""
    gradient: float
    """How much lightness (Lab) changes over the image's longer side, by the plane that fits best."""
    specks: float
    """Share of the background that is plainly darker than that plane."""


def appearance(image: NDArray[np.uint8]) -> Appearance:
    """Measure an RGB image [h, w, 3]; where the foreground leaves no background, all pixels are taken for it."""
    behind = ~ndimage.binary_dilation(foreground(image), iterations=_MARGIN)
    if not behind.any():
        behind = np.ones_like(behind)
    pixels = image[behind].astype(np.float64)
    deviations = pixels - np.array(BACKGROUND)
    _, a, b = lab(pixels.mean(axis=0))
    lightness = lab(pixels)[:, 0]
    rows, columns = np.nonzero(behind)
    # places from the middle, in longer sides, so that a slope is a change over the image
    places = np.stack([columns, rows], axis=1) / max(behind.shape)
    design = np.column_stack([places - places.mean(axis=0), np.ones(len(places))])
    plane = np.linalg.lstsq(design, lightness, rcond=None)[0]
    residual = lightness - design @ plane
    return Appearance(
        roughness=float(np.sqrt((deviations**2).mean())),
        tint=math.hypot(a, b),
        gradient=float(np.hypot(plane[0], plane[1])),
        specks=float((residual < -_SPOT).mean()),
    )
