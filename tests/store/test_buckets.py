"""Buckets hold what they promise, and winner and loser are scaled, cropped and flipped as one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contrapose.errors import UserError
from contrapose.pixels import Size, as_rgb
from contrapose.store.buckets import apply, buckets, cover, nearest, plan_fit

SIZES = st.builds(Size, st.integers(1, 3000), st.integers(1, 3000))
UNITS = st.sampled_from([2, 8, 16, 32, 64])
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1))
BUCKETS = buckets(512, 32)


@given(UNITS, st.integers(1, 40), st.floats(1, 4))
def test_buckets(unit: int, steps: int, max_ratio: float) -> None:
    resolution = unit * steps
    found = buckets(resolution, unit, max_ratio)
    assert Size(resolution, resolution) in found
    assert len(set(found)) == len(found)
    assert {Size(size.height, size.width) for size in found} == set(found), "both orientations"
    assert list(found) == sorted(found, key=lambda size: size.ratio)
    for size in found:
        assert size.width % unit == size.height % unit == 0
        assert 0.93 * resolution**2 <= size.width * size.height <= resolution**2
        assert 1 / max_ratio <= size.ratio <= max_ratio or math.isclose(max(size.ratio, 1 / size.ratio), max_ratio)


def test_those_that_sdxl_was_trained_on() -> None:
    assert {"1024x1024", "832x1216", "768x1344", "704x1408", "1152x896"} <= {str(size) for size in buckets(1024, 64)}


@pytest.mark.parametrize(
    ("resolution", "unit", "max_ratio"), [(500, 64, 2), (0, 8, 2), (512, 8, 0.5), (512, 8, math.nan)]
)
def test_what_cannot_be(resolution: int, unit: int, max_ratio: float) -> None:
    with pytest.raises(UserError, match=r"resolution 500|resolution 0|max_ratio"):
        buckets(resolution, unit, max_ratio)


@given(SIZES)
def test_nearest_on_a_log_scale(size: Size) -> None:
    def distance(bucket: Size) -> float:
        return abs(math.log(size.ratio) - math.log(bucket.ratio))

    assert distance(nearest(size, BUCKETS)) <= min(map(distance, BUCKETS)) + 1e-12
    turned = nearest(Size(size.height, size.width), BUCKETS)
    assert distance(Size(turned.height, turned.width)) == pytest.approx(distance(nearest(size, BUCKETS)), abs=1e-12)


@given(st.sampled_from(BUCKETS))
def test_a_bucket_is_nearest_to_itself(bucket: Size) -> None:
    assert nearest(bucket, BUCKETS) == bucket
    assert cover(bucket, bucket) == 1


@given(SIZES, SIZES, st.sampled_from(BUCKETS), st.booleans(), SHARES)
def test_every_fit_covers_its_bucket_inside_the_image(
    winner: Size, loser: Size, bucket: Size, flip: bool, position: tuple[float, float]
) -> None:
    for size, fit in zip((winner, loser), plan_fit((winner, loser), bucket, flip, position), strict=True):
        left, top, right, bottom = fit.box
        assert (right - left, bottom - top) == bucket
        assert left >= 0 and top >= 0 and right <= fit.scaled.width and bottom <= fit.scaled.height
        assert fit.scaled.width == bucket.width or fit.scaled.height == bucket.height, "nothing more than is needed"
        for scaled, side in zip(fit.scaled, size, strict=True):
            assert abs(scaled - side * cover(size, bucket)) <= 0.5 + 1e-6 * scaled, "the shape is kept"
        assert fit.flip is flip


@given(SIZES, SIZES, st.sampled_from(BUCKETS), SHARES)
def test_the_relative_crop_is_shared(winner: Size, loser: Size, bucket: Size, position: tuple[float, float]) -> None:
    for fit in plan_fit((winner, loser), bucket, position=position):
        for axis in (0, 1):
            surplus = fit.scaled[axis] - bucket[axis]
            assert abs(fit.box[axis] - position[axis] * surplus) <= 0.5


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(BUCKETS), SHARES)
def test_one_shape_at_two_sizes_has_one_fit(
    small: int, large: int, bucket: Size, position: tuple[float, float]
) -> None:
    first, second = plan_fit((Size(300 * small, 200 * small), Size(300 * large, 200 * large)), bucket, True, position)
    assert first == second


def test_a_fit_is_applied_in_order() -> None:
    """Red left of blue, twice as wide as the bucket: cropped at the left it is red, and flipping comes after."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8, 0] = pixels[:, 8:, 2] = 255
    pixels[:, 0, 1] = 255
    image, bucket = Image.fromarray(pixels), Size(8, 8)
    plain, flipped = (
        np.asarray(apply(image, plan_fit([Size(16, 8)], bucket, flip, (0.0, 0.5))[0])) for flip in (False, True)
    )
    assert plain.tolist() == pixels[:, :8].tolist()
    assert flipped.tolist() == pixels[:, :8][:, ::-1].tolist()
    right = np.asarray(apply(image, plan_fit([Size(16, 8)], bucket, position=(1.0, 0.5))[0]))
    assert right.tolist() == pixels[:, 8:].tolist()


# Colours


def _colour(image: Image.Image) -> list[int]:
    converted = as_rgb(image)
    assert converted.mode == "RGB"
    return np.asarray(converted)[0, 0].tolist()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), [255, 255, 255]),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 255)), [255, 0, 0]),
        (Image.new("LA", (2, 2), (0, 0)), [255, 255, 255]),
        (Image.new("L", (2, 2), 7), [7, 7, 7]),
        (Image.new("1", (2, 2), 1), [255, 255, 255]),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), [255, 0, 0]),
        (Image.new("RGB", (2, 2), (1, 2, 3)).quantize(2), [1, 2, 3]),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), [255, 255, 255]),
        (Image.fromarray(np.full((2, 2), 257 * 9, np.uint16)), [9, 9, 9]),
        (Image.fromarray(np.full((2, 2), 257 * 9, np.int32)), [9, 9, 9]),
    ],
    ids=["clear", "opaque", "clear grey", "grey", "black and white", "CMYK", "palette", "16 bit", "16", "16 in 32"],
)
def test_every_mode_becomes_rgb(image: Image.Image, expected: list[int]) -> None:
    assert _colour(image) == expected


def test_a_transparent_colour_is_white() -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.info["transparency"] = 1
    assert _colour(image) == [255, 255, 255]


def test_pixels_of_unknown_range_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        as_rgb(Image.new("F", (2, 2), 0.5))


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_a_photograph_is_turned_upright(mode: str) -> None:
    image = Image.new(mode, (4, 2))
    image.getexif()[0x0112] = 6  # taken with the camera on its side
    assert as_rgb(image).size == (2, 4)
