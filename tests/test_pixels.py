"""Images that say what their numbers mean are read as they say."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, TiffImagePlugin

from contrapose.containers.images import read_image
from contrapose.containers.left_out import Skip
from contrapose.pixels import as_rgb, lab, to_pixels, to_tensor

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _read(image: Image.Image, kind: str = "PNG", **options: object) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return np.asarray(as_rgb(Image.open(io.BytesIO(file.getvalue()))))


def _exchanged(profile: bytes) -> bytes:
    """sRGB's profile with the places of red and green exchanged."""
    data = bytearray(profile)
    (num,) = struct.unpack(">I", data[128:132])
    names = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * num, 12)}
    red, green = names[b"rXYZ"], names[b"gXYZ"]
    data[red : red + 4], data[green : green + 4] = data[green : green + 4], data[red : red + 4]
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_another_profile_are_converted(mode: str) -> None:
    image = Image.new("RGB", (4, 4), (200, 40, 30))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    pixel = _read(image, icc_profile=_exchanged(SRGB))[0, 0].astype(int)
    assert np.abs(pixel - (40, 200, 30)).max() <= 3
    assert tuple(_read(image)[0, 0]) == (200, 40, 30)


@pytest.mark.parametrize("profile", [SRGB, b"broken", SRGB[:200]])
def test_pixels_of_srgb_stay_to_the_last_bit(profile: bytes) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (_read(Image.fromarray(pixels), icc_profile=profile) == pixels).all()


def test_a_profile_of_other_colours_is_ignored() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert (_read(grey, icc_profile=SRGB)[..., 0] == np.asarray(grey)).all()


def test_8_bits_in_32_are_8_bits() -> None:
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    assert (_read(Image.fromarray(values), "TIFF")[..., 0] == values).all()
    assert (_read(Image.fromarray(values * 257), "TIFF")[..., 0] == values).all()


def test_12_bits_in_16_where_the_file_says_so() -> None:
    values = (np.arange(256) * 4095 // 255).astype(np.uint16).reshape(16, 16)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095
    pixels = _read(Image.fromarray(values), "TIFF", tiffinfo=tags)[..., 0]
    assert np.abs(pixels.astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_12_bits_in_16_are_16_where_the_file_says_nothing() -> None:
    """Dark, since a dark image of 16 bits holds the same values: only the file could tell them apart."""
    values = (np.arange(256) * 4095 // 255).astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        assert _read(Image.fromarray(values), kind)[..., 0].max() == round(4095 / 65535 * 255) == 16


def test_a_transparent_grey_of_16_bits_is_white() -> None:
    values = np.array([[0, 5000], [30000, 65535]], dtype=np.uint16)
    pixels = _read(Image.fromarray(values), transparency=5000)[..., 0]
    assert pixels.tolist() == [[0, 255], [117, 255]]


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n")
    with pytest.raises(Skip, match=r"a\.png: is Git LFS's pointer to an image"):
        read_image(tmp_path / "a.png")


def test_pixels_come_back_from_tensors() -> None:
    pixels = np.arange(2 * 4 * 32 * 3, dtype=np.uint32).reshape(2, 4, 32, 3).astype(np.uint8)
    images = to_tensor(pixels)
    assert images.shape == (2, 3, 4, 32)
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal(images[0], to_tensor(pixels[0]))
    assert np.array_equal(to_pixels(images), pixels)
    assert np.array_equal(to_pixels(1.5 * images)[pixels == 255], pixels[pixels == 255]), "what is beyond is cut off"


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_lab_is_the_standards(dtype: type) -> None:
    """White, black and sRGB's three primaries, from the tables of Lindbloom."""
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(lab(colours), expected, atol=0.02)
