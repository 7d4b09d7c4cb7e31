"""Images from anywhere: each is upright RGB, or skipped with a reason that names it and no place on this machine."""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contrapose.containers.images import look, read_image, several
from contrapose.containers.left_out import Skip
from contrapose.containers.stored import InFile, InParquet, InTar


def _picture(size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Red left of blue above, green left of white below, so that every way of turning it shows."""
    pixels = np.array([[[255, 0, 0], [0, 0, 255]], [[0, 255, 0], [255, 255, 255]]], np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def _bytes(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _corners(image: Image.Image) -> list[tuple[int, ...]]:
    width, height = image.size
    places = [(2, 2), (width - 3, 2), (2, height - 3), (width - 3, height - 3)]
    return [tuple(round(value / 255) for value in image.getpixel(place)) for place in places]


RED, BLUE, GREEN, WHITE = (1, 0, 0), (0, 0, 1), (0, 1, 0), (1, 1, 1)
UPRIGHT = [RED, BLUE, GREEN, WHITE]


def _read(tmp_path: Path, data: bytes, name: str = "x.jpg", max_pixels: int | None = None) -> Image.Image:
    (tmp_path / name).write_bytes(data)
    return read_image(tmp_path / name, max_pixels)


# What becomes of it


def _exif(orientation: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a description"
    return exif.tobytes()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int, format: str) -> None:
    """Stored turned the other way, as a camera stores it, it reads upright."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the number of Pillow's transposition that undoes the turn
    stored = _picture() if orientation == 1 else _picture().transpose(Image.Transpose(undo[orientation]))
    image = _read(tmp_path, _bytes(stored, format, exif=_exif(orientation)))
    assert image.size == (40, 30)
    assert _corners(image) == UPRIGHT


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_absurd_exif_is_nothing(tmp_path: Path, format: str) -> None:
    rng = np.random.default_rng(0)
    good = bytearray(_exif(1))
    absurd = [
        b"Exif\0\0",
        b"garbage",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 60,
        _exif(9),
        _exif(0),
        bytes(good[:20]),
    ]
    for _ in range(40):
        broken = good.copy()
        for place in rng.integers(14, len(good), 4):
            broken[place] = rng.integers(256)
        broken[-8:] = good[-8:]
        absurd.append(bytes(broken))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for exif in absurd:
            assert sorted(_read(tmp_path, _bytes(_picture(), format, exif=exif)).size) == [30, 40]


def _deep(values: list[int], channels: int) -> bytes:
    """A 16-bit PNG of one row, written out by hand, since Pillow cannot write one in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(f">{len(values)}H", *values)
    head = struct.pack(">IIBBBBB", len(values) // channels, 1, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_deep([65535, 257 * 9], 1), [[255] * 3, [9] * 3]),
        (_deep([65535, 0, 257 * 9], 3), [[255, 0, 9]]),
        (_deep([65535, 0, 0, 0], 4), [[255, 255, 255]]),
        (_bytes(Image.new("RGBA", (1, 1), (255, 0, 0, 0))), [[255, 255, 255]]),
        (_bytes(Image.new("LA", (1, 1), (7, 255))), [[7, 7, 7]]),
        (_bytes(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [[255, 0, 0]]),
        (_bytes(Image.new("RGB", (1, 1), (1, 2, 3)).quantize(2)), [[1, 2, 3]]),
        (_bytes(Image.new("1", (1, 1), 1), "BMP"), [[255, 255, 255]]),
        (_bytes(Image.new("RGB", (1, 1), (255, 0, 0)).quantize(2), "GIF"), [[255, 0, 0]]),
    ],
    ids=["16 bit", "16 bit RGB", "16 bit clear", "clear", "grey, opaque", "CMYK", "palette", "black and white", "GIF"],
)
def test_modes(tmp_path: Path, data: bytes, expected: list[list[int]]) -> None:
    image = _read(tmp_path, data)
    assert image.mode == "RGB"
    assert np.asarray(image)[0].tolist() == expected


def test_cmyk_jpeg(tmp_path: Path) -> None:
    image = _read(tmp_path, _bytes(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(np.asarray(image)[8, 8].astype(int) - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    exact = {"lossless": True} if format == "WEBP" else {}
    data = _bytes(frames[0], format, save_all=True, append_images=frames[1:], **exact)
    with Image.open(io.BytesIO(data)) as animated:
        assert animated.n_frames == 3
    assert _read(tmp_path, data).getpixel((4, 4)) == (255, 0, 0)


def test_the_content_says_the_format(tmp_path: Path) -> None:
    assert _corners(_read(tmp_path, _bytes(_picture()), "x.gif")) == UPRIGHT


# What is skipped


def _bomb(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds no pixels: decoding it first would fail otherwise."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
        + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )  # fmt: skip


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def _cut(format: str) -> bytes:
    data = _bytes(_noise(), format)
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "cannot identify it as any of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot identify it"),
        (b"\0" * 4096, "cannot identify it"),
        (_bytes(_picture())[:40], "cannot be read"),
        *((_cut(format), "cannot be read (") for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")),
        (_bytes(Image.new("F", (2, 2)), "TIFF"), "floating-point pixels"),
        (_bomb(10_000, 9_000), "x.jpg: has more pixels than PIL's limit of 89478485 (10000x9000)"),
        (_bomb(60_000, 60_000), "x.jpg: has more pixels than PIL's limit of 89478485"),
    ],
)
def test_traps(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(Skip) as skipped:
        _read(tmp_path, data)
    told = str(skipped.value)
    assert told.startswith("x.jpg: ") and reason in told
    assert str(tmp_path) not in told and " at 0x" not in told and "\n" not in told


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    gone, cut = (InParquet(tmp_path / f"{name}.parquet", "image", 0, 0) for name in ("gone", "cut"))
    for where in (tmp_path / "none.png", tmp_path, gone, cut, InTar(tmp_path / "gone.tar", "key", 0, 9)):
        with pytest.raises(Skip, match="cannot be read") as skipped:
            read_image(where)
        assert str(tmp_path.parent) not in str(skipped.value)


def test_the_limit_is_on_pixels(tmp_path: Path) -> None:
    data = _bytes(_picture((40, 30)))
    assert _read(tmp_path, data, max_pixels=1200).size == (40, 30)
    with pytest.raises(Skip, match=r"x\.jpg: has more pixels than 1199 \(40x30\)"):
        _read(tmp_path, data, max_pixels=1199)


def test_more_than_pils_limit_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _read(tmp_path, _bytes(_picture()), max_pixels=1200).size == (40, 30)
    with pytest.raises(Skip, match="PIL's limit of 1000"):
        _read(tmp_path, _bytes(_picture()))


# Where it is


def _in_tar(folder: Path, data: bytes) -> InTar:
    with tarfile.open(folder / "some.tar", "w") as tar:
        info = tarfile.TarInfo("key.png")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        return InTar(folder / "some.tar", "key.png", tar.getmember("key.png").offset + 512, len(data))


def _in_parquet(folder: Path, data: bytes) -> InParquet:
    pq.write_table(pa.table({"image": [{"bytes": data, "path": "key.png"}]}), folder / "some.parquet")
    return InParquet(folder / "some.parquet", "image", 0, 0)


def _in_file(folder: Path, data: bytes) -> InFile:
    (folder / "key.png").write_bytes(data)
    return InFile(folder / "key.png")


@pytest.mark.parametrize("put", [_in_file, _in_tar, _in_parquet])
def test_places(tmp_path: Path, put: Callable[[Path, bytes], InFile]) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    stored = put(tmp_path / "good", _bytes(_picture()))
    assert _corners(read_image(stored)) == UPRIGHT
    seen = look((stored, stored))
    assert seen.sizes[0] == (40, 30) and seen.digests[0] == seen.digests[1]
    with pytest.raises(Skip, match=r"^(key\.png|some\.tar:key\.png|some\.parquet:0\.0\.image): is empty$"):
        read_image(put(tmp_path / "bad", b""))


# Several at a time


def test_several_keep_their_order_and_look_a_few_ahead() -> None:
    asked = []
    numbers = (asked.append(number) or number for number in range(1000))
    found = several(lambda number: number * number, numbers)
    assert asked == []
    assert [next(found) for _ in range(10)] == [number * number for number in range(10)]
    assert len(asked) < 40
    assert list(found) == [number * number for number in range(10, 1000)]
