"""Images of any kind as upright 8-bit RGB, their sizes, their colours in Lab, and pixels as tensors and back."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

if TYPE_CHECKING:  # torch takes a second to import, and who reads images alone needs none
    from torch import Tensor

_WHITE = 65535
_MAX_SAMPLE_VALUE = 281  # a tag of TIFF
_UNSEEN = 3  # of 255: profiles of sRGB differ by as much
_Turn = Image.Transpose
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}


# linear sRGB to CIE XYZ (IEC 61966-2-1); white is the sum of the three primaries, D65
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


class Size(NamedTuple):
    """An image's size in pixels, written WIDTHxHEIGHT."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def ratio(self) -> float:
        """Aspect ratio, width over height."""
        return self.width / self.height


def as_rgb(image: Image.Image) -> Image.Image:
    """The image upright (EXIF), in 8-bit sRGB: what is transparent lies on white, 16 bits become 8, CMYK is converted.

    An animation gives its first frame. Colours of an embedded profile that is not sRGB's are converted. Raises
    `ValueError` for floating-point pixels, whose range nothing tells.
    """
    white = _white(image)
    image = _upright(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it as an 8-bit image")
    if white is not None:
        return _from_deep(image, white)
    profile = image.info.get("icc_profile") or b""
    if image.getbands()[-1] in ("A", "a") or "transparency" in image.info:
        colours = image.convert("RGBA")
        opaque = _in_srgb(colours.convert("RGB"), profile)
        opaque.putalpha(colours.getchannel("A"))
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), opaque).convert("RGB")
    if image.mode in ("L", "CMYK"):
        return _in_srgb(image, profile).convert("RGB")
    return _in_srgb(image.convert("RGB"), profile)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """RGB pixels [..., h, w, 3] as [..., 3, h, w] in -1..1, float32: what autoencoders read."""
    import torch

    return torch.from_numpy(pixels).movedim(-1, -3).float() / 127.5 - 1


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """What an autoencoder decodes, [b, 3, h, w] in -1..1, as RGB pixels [b, h, w, 3]; values beyond are cut off."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def lab(rgb: NDArray[np.uint8] | NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE Lab under D65 of sRGB values in 0..255, [..., 3]; they may lie between the levels."""
    encoded = rgb / 255
    # undo sRGB's gamma, which is a straight line near black
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T / _XYZ.sum(axis=1)  # white is 1, 1, 1
    # CIE's cube root, and below (6/29)^3 its tangent there
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def _white(image: Image.Image) -> int | None:
    """The value of white where pixels have more than 8 bits; None where they have not.

    That is 65535, unless a TIFF says its largest value, or holds 8-bit values in 32 bits.
    """
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        values = image.tag_v2.get(_MAX_SAMPLE_VALUE)
        declared = values[0] if isinstance(values, tuple) and values else values
        if isinstance(declared, int) and 0 < declared < _WHITE:
            return declared
        if image.mode == "I" and int(np.asarray(image).max(initial=0)) <= 255:
            return 255
    return _WHITE


def _from_deep(image: Image.Image, white: int) -> Image.Image:
    """A grey image of more than 8 bits, where a value that a PNG calls transparent is white."""
    values = np.asarray(image).astype(np.float64)
    pixels = (values / (white / 255)).round().clip(0, 255)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        pixels[values == clear] = 255
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image with its profile's colours as sRGB has them; unchanged where the profile is sRGB's, or of no use."""
    transform = _to_srgb(profile, image.mode) if profile else None
    converted = ImageCms.applyTransform(image, transform) if transform else None
    return image if converted is None else converted


@lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform out of a profile; None where it is broken, of other colours than `mode`, or next to sRGB's."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode != "RGB":
            return transform
        probed = ImageCms.applyTransform(_probe(), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    change = np.asarray(probed).astype(int) - np.asarray(_probe())
    return transform if np.abs(change).max() > _UNSEEN else None


def _probe() -> Image.Image:
    """The 125 colours of five levels of red, green and blue."""
    levels = np.array([0, 64, 128, 192, 255], dtype=np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(5, 25, 3))


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says; `ImageOps.exif_transpose` fails where it is broken."""
    image.load()  # a PNG's EXIF may come after its pixels, and a TIFF turns itself
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        turn = None
    return image if turn is None else image.transpose(turn)
