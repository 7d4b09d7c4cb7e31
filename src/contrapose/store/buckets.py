"""Aspect ratio buckets: photographs of any shape, cut to the few sizes that a model trains on.

A pair has one bucket, that of its winner's aspect ratio, and both of its images get the same relative crop and the same
flip; otherwise the cut itself would tell the winner from the loser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from contrapose.errors import UserError
from contrapose.pixels import Size

_LEAST_AREA = 0.93  # of the square's: a bucket that uses less of what the model can do has a better neighbour
_CENTRE = (0.5, 0.5)


@dataclass(frozen=True)
class Fit:
    """How one image becomes its bucket's size: scaled, cropped to `box` (left, top, right, bottom), then flipped."""

    scaled: Size
    box: tuple[int, int, int, int]
    flip: bool = False

    def to_json(self) -> list[Any]:
        """All of it in what JSON holds."""
        return [self.scaled, self.box, self.flip]

    @classmethod
    def from_json(cls, said: list[Any]) -> Fit:
        """The fit of which this was said."""
        scaled, (left, top, right, bottom), flip = said
        return cls(Size(*scaled), (left, top, right, bottom), flip)


def buckets(resolution: int, unit: int, max_ratio: float = 2.0) -> tuple[Size, ...]:
    """Sizes of sides in multiples of `unit`, 93 to 100 % of resolution^2 pixels, and ratios 1/max_ratio..max_ratio.

    Narrowest first. Each side is combined with the longest other side that fits, in both orientations; the square is
    among them. Raises `UserError` for a resolution that is not a multiple of `unit`, or a `max_ratio` below 1.
    """
    if resolution < 1 or resolution % unit:
        raise UserError(f"resolution {resolution}: this model makes images whose sides are multiples of {unit}")
    if not 1 <= max_ratio < math.inf:
        raise UserError(f"max_ratio {max_ratio}: the longer side over the shorter one is 1 or more")
    area = resolution * resolution
    sizes: set[Size] = set()
    for side in range(unit, math.ceil(resolution * math.sqrt(max_ratio)) + unit, unit):
        # the longest other side with which the bucket has no more pixels than the square
        other = area // side // unit * unit
        # rounding down to units may have lost too many of them
        if side * other >= _LEAST_AREA * area and max(side, other) <= max_ratio * min(side, other):
            sizes |= {Size(side, other), Size(other, side)}
    return tuple(sorted(sizes, key=lambda size: (size.ratio, size.width)))


def nearest(size: Size, among: Sequence[Size]) -> Size:
    """The bucket whose aspect ratio is nearest to that of `size`, on a log scale; the larger one of two as near."""
    return min(among, key=lambda bucket: (abs(math.log(size.ratio / bucket.ratio)), -bucket.width * bucket.height))


def cover(size: Size, bucket: Size) -> float:
    """The factor that scales `size` until it just covers the bucket; above 1 the image has too few pixels."""
    return max(bucket.width / size.width, bucket.height / size.height)


def plan_fit(
    sizes: Sequence[Size], bucket: Size, flip: bool = False, position: tuple[float, float] = _CENTRE
) -> tuple[Fit, ...]:
    """One fit for each of the pair's images: scaled until the bucket is covered, and what sticks out cropped off.

    `position` holds the shares of the surplus, 0..1, that are cut off at the left and at the top, the same for images
    of all sizes.
    """
    return tuple(_fit(size, bucket, flip, position) for size in sizes)


def _fit(size: Size, bucket: Size, flip: bool, position: tuple[float, float]) -> Fit:
    assert all(0 <= share <= 1 for share in position), "shares of the surplus"
    scale = cover(size, bucket)
    # Rounding may come out a pixel short of the bucket, hence at least its side.
    scaled = Size(*(max(least, round(side * scale)) for side, least in zip(size, bucket, strict=True)))
    # what sticks out, in the one direction in which the image is too long
    left, top = (round(share * (side - least)) for share, side, least in zip(position, scaled, bucket, strict=True))
    return Fit(scaled, (left, top, left + bucket.width, top + bucket.height), flip)


def apply(image: Image.Image, fit: Fit) -> Image.Image:
    """The image scaled (Lanczos), cropped and flipped."""
    cropped = image.resize(fit.scaled, Image.Resampling.LANCZOS).crop(fit.box)
    return cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if fit.flip else cropped
