"""Draw scenes of flat shapes: the photographs of the shapes world.

A scene is a handful of unrotated shapes on a light background. Coverage is computed from signed distances, so edges are
anti-aliased, a render is a pure function of its scene, and the detector can rebuild the same outlines as templates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 64
BACKGROUND = (235, 235, 235)
GAP = 2.0  # pixels kept free between two objects, so that same-coloured neighbours stay separate

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "orange": (245, 140, 25),
    "yellow": (240, 220, 45),
    "green": (40, 155, 65),
    "blue": (40, 85, 215),
    "purple": (135, 50, 165),
    "pink": (250, 145, 195),
    "black": (25, 25, 28),
}
COLORS = tuple(PALETTE)


@dataclass(frozen=True)
class Object:
    """One shape of a scene; centre and radius in pixels."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


Scene = tuple[Object, ...]


def _polygon_distance(px: NDArray, py: NDArray, corners: NDArray) -> NDArray:
    """Signed distance to a closed polygon (negative inside), for points px, py and corners [k, 2]."""
    distance = np.full(px.shape, np.inf)
    inside = np.zeros(px.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        # the edge from a to b, and every point as seen from a
        ex = bx - ax
        ey = by - ay
        wx = px - ax
        wy = py - ay
        # the nearest point of the edge: the foot of the perpendicular, kept between the corners
        along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        distance = np.minimum(distance, np.hypot(wx - along * ex, wy - along * ey))
        # even-odd rule: a point is inside if a ray from it to the right meets the edges an odd number of times
        crosses = (ay > py) != (by > py)
        inside ^= crosses & (wx < ex * (py - ay) / (ey if ey else 1.0))
    return np.where(inside, -distance, distance)


def _circular(angles: NDArray, radii: NDArray) -> NDArray:
    """Points [k, 2] at these angles, clockwise from the top, with y pointing down as in an image."""
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


# Outlines at radius 1; the shifts bring the middles of the boxes around triangle and star nearer to the centre.
_TRIANGLE = 1.15 * _circular(np.arange(3) * 2 * np.pi / 3, np.ones(3)) + np.array([0.0, 0.25])
_STAR = _circular(np.arange(10) * np.pi / 5, np.where(np.arange(10) % 2 == 0, 1.15, 0.5)) + np.array([0.0, 0.05])
_ARM = 0.34  # half the width of the cross's arms
_CROSS = np.array(
    [(_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM), (_ARM, 1),
     (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM), (-_ARM, -1)]
)  # fmt: skip
_SQUARE_HALF = 0.86
_RING_WIDTH = 0.2  # half the ring's stroke


def coverage(shape: str, x: float, y: float, radius: float, size: int = IMAGE_SIZE) -> NDArray[np.float64]:
    """Share of each pixel that the shape covers, [size, size] in 0..1."""
    centres = np.arange(size) + 0.5
    px, py = np.meshgrid(centres - x, centres - y)
    if shape == "circle":
        distance = np.hypot(px, py) - radius
    elif shape == "ring":
        # how far a point is from the circle in the middle of the stroke, less half the stroke
        distance = np.abs(np.hypot(px, py) - (1 - _RING_WIDTH) * radius) - _RING_WIDTH * radius
    elif shape == "square":
        distance = np.maximum(np.abs(px), np.abs(py)) - _SQUARE_HALF * radius
    else:
        corners = {"triangle": _TRIANGLE, "star": _STAR, "cross": _CROSS}[shape]
        distance = _polygon_distance(px, py, corners * radius)
    # an edge through a pixel's centre covers half of it; half a pixel away, all or nothing
    return np.clip(0.5 - distance, 0.0, 1.0)


def render(scene: Scene, size: int = IMAGE_SIZE, backdrop: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
    """The scene as an RGB image, [size, size, 3], on the neutral background or on a backdrop of that shape."""
    behind = np.array(BACKGROUND, dtype=np.float64) if backdrop is None else backdrop
    canvas = np.broadcast_to(behind, (size, size, 3)).copy()
    for item in scene:
        alpha = coverage(item.shape, item.x, item.y, item.radius, size)[..., None]
        canvas += alpha * (np.array(PALETTE[item.color]) - canvas)
    return np.rint(canvas).astype(np.uint8)


def fits(candidate: Object, scene: Scene, size: int = IMAGE_SIZE) -> bool:
    """Whether the candidate lies inside the image and clear of every object of the scene."""
    margin = 1.1 * candidate.radius + 1.0
    if not (margin <= candidate.x <= size - margin and margin <= candidate.y <= size - margin):
        return False
    # Corners reach beyond the radius (square and triangle 1.2): circles of that size keep every pair apart.
    return all(
        np.hypot(candidate.x - other.x, candidate.y - other.y) > 1.2 * (candidate.radius + other.radius) + GAP
        for other in scene
    )
