"""A photograph is known again at another size, quality or brightness, and told from every other one."""

from __future__ import annotations

import hashlib
import io
import itertools
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dct
from sklearn.datasets import load_sample_images

from contrapose.containers.left_out import LeftOut
from contrapose.containers.stored import InFile
from contrapose.photographs.photos import Look, NearDuplicates, Photo, fingerprint, list_photos, look_at_photos
from contrapose.worlds.shapes.render import Object, render


def _distance(first: Image.Image | int, second: Image.Image | int) -> int:
    bits = [one if isinstance(one, int) else fingerprint(one) for one in (first, second)]
    return (bits[0] ^ bits[1]).bit_count()


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.fixture(scope="module")
def photographs() -> dict[str, Image.Image]:
    """Two real ones and the six sixths of each."""
    sample = load_sample_images()
    found = {}
    for path, pixels in zip(sample.filenames, sample.images, strict=True):
        image, name = Image.fromarray(pixels), Path(path).stem
        width, height = image.width // 3, image.height // 2
        found[name] = image
        for column, row in itertools.product(range(3), range(2)):
            box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
            found[f"{name} {column}{row}"] = image.crop(box)
    return found


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    "twice the size": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS),
    "a quarter, pixels left out": lambda image: image.resize(
        (image.width // 4, image.height // 4), Image.Resampling(0)
    ),
    "another shape": lambda image: image.resize((300, 400), Image.Resampling.LANCZOS),
    "JPEG 90": lambda image: _jpeg(image, 90),
    "JPEG 30": lambda image: _jpeg(image, 30),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "brighter": lambda image: image.point(lambda value: min(255, value + 20)),
    "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "all at once": lambda image: _jpeg(ImageEnhance.Brightness(image.resize((320, 214))).enhance(0.95), 70),
}


@pytest.mark.parametrize("change", CHANGES)
def test_known_again(photographs: dict[str, Image.Image], change: str) -> None:
    distances = {name: _distance(image, CHANGES[change](image)) for name, image in photographs.items()}
    assert max(distances.values()) <= 4, distances


def test_other_photographs_are_far(photographs: dict[str, Image.Image]) -> None:
    prints = [fingerprint(image) for image in photographs.values()]
    distances = [_distance(*two) for two in itertools.combinations(prints, 2)]
    assert min(distances) > 12
    assert 26 < float(np.mean(distances)) < 36


def test_mirrored_and_turned_are_others(photographs: dict[str, Image.Image]) -> None:
    for turn in Image.Transpose:
        assert _distance(photographs["china"], photographs["china"].transpose(turn)) > 12


def test_colours_tell_renders_apart() -> None:
    """One circle at one place: to brightness alone they would be one picture, as warm colours still are."""
    colours = ("red", "green", "blue", "purple", "black")
    prints = [fingerprint(Image.fromarray(render((Object("circle", colour, 12, 14, 7),)))) for colour in colours]
    assert min(_distance(*two) for two in itertools.combinations(prints, 2)) > 4


def test_a_fingerprint_written_out() -> None:
    """The definition, by loops and one-dimensional transforms."""
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    planes = []
    for plane in image.convert("YCbCr").split():
        values = np.asarray(plane, dtype=np.float64) - 128
        planes.append(dct(dct(values, axis=0, norm="ortho"), axis=1, norm="ortho") / 32)
    order = [(u, total - u) for total in range(12) for u in range(total + 1)]
    brightness = [planes[0][place] for place in order[1:49]]
    colours = [sign * plane[place] > 0.5 for plane in planes[1:] for sign in (1, -1) for place in order[:4]]
    median = sum(sorted(brightness)[23:25]) / 2
    bits = ""
    for index in range(16):
        bits += "".join(str(int(value > median)) for value in brightness[3 * index : 3 * index + 3])
        bits += str(int(colours[index]))
    assert fingerprint(image) == int(bits, 2)


# Looking


def _folder(folder: Path, num: int) -> Path:
    for number in range(num):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


def test_look_at_photos(tmp_path: Path) -> None:
    _folder(tmp_path, 40)
    (tmp_path / "007.png").write_bytes(b"")
    photos = list(list_photos(tmp_path))
    for number, seen in enumerate(look_at_photos(photos)):
        if number == 7:
            assert seen == LeftOut("007.png", "unreadable", "007.png: is empty")
            continue
        assert not isinstance(seen, LeftOut)
        photo, look = seen
        assert photo == photos[number]
        image = Image.open(tmp_path / f"{number:03d}.png")
        told = hashlib.sha256(b"(10, 8)" + np.asarray(image).tobytes()).hexdigest()
        assert look == Look((10, 8), told, fingerprint(image))


def test_bombs_are_skipped(tmp_path: Path) -> None:
    photos = list_photos(_folder(tmp_path, 1))
    [seen] = look_at_photos(photos, max_pixels=79)
    assert isinstance(seen, LeftOut) and "more pixels than 79 (10x8)" in seen.reason


def test_what_was_left_out_before_keeps_its_place(tmp_path: Path) -> None:
    entries = list(list_photos(_folder(tmp_path, 3)))
    unlisted = LeftOut("x.heic", "unusable", "its format is not read")
    seen = list(look_at_photos([entries[0], unlisted, *entries[1:], unlisted]))
    assert seen[1] == seen[4] == unlisted
    assert [entry[0] for entry in seen if not isinstance(entry, LeftOut)] == entries


def test_looking_is_lazy_and_flat(tmp_path: Path) -> None:
    """Photographs are asked for a few ahead, and neither they nor their pixels are kept."""
    Image.effect_noise((512, 512), 50).convert("RGB").save(tmp_path / "x.png")  # 768 KiB when decoded
    image, asked = InFile(tmp_path / "x.png"), 0

    def photos() -> Iterator[Photo]:
        nonlocal asked
        for number in range(10**6):
            asked += 1
            yield Photo(str(number), image, None)

    looks = look_at_photos(photos())

    def peak(num: int) -> int:
        tracemalloc.start()
        names = [entry[0].name for entry in itertools.islice(looks, num) if not isinstance(entry, LeftOut)]
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(names) == num
        return highest

    few, many = peak(10), peak(100)
    assert many < 2 * few + 4_000_000
    assert asked <= 110 + 40
    looks.close()  # type: ignore[attr-defined]


# Seen before


def seen(earlier: NearDuplicates, number: int, fingerprint: int) -> int | None:
    """The number of the first one as near; where there is none, this one is remembered."""
    first = earlier.first_near(fingerprint)
    if first is None:
        earlier.remember(number, fingerprint)
    return first


def test_the_first_of_several_is_named() -> None:
    earlier = NearDuplicates(distance=4)
    assert seen(earlier, 10, 0) is None
    assert seen(earlier, 11, 0b11111) is None
    assert seen(earlier, 12, 0b1111) == 10
    assert seen(earlier, 13, 0b11111 | 1 << 63) == 11
    assert seen(earlier, 14, 0b111) == 10, "as near to 11"


def test_what_is_left_out_is_not_remembered() -> None:
    """So that a name that is told is always that of a photograph that was kept."""
    earlier = NearDuplicates(distance=2)
    assert [seen(earlier, bits, bits) for bits in (0, 0b11, 0b1111, 0b11110)] == [None, 0, None, 15]


@pytest.mark.parametrize("distance", [0, 1, 4, 9])
def test_as_by_comparing_all(distance: int) -> None:
    rng = np.random.default_rng(distance)
    prints = [int(value) for value in rng.integers(0, 2**64, 40, dtype=np.uint64)]
    for _ in range(1500):
        one = prints[rng.integers(len(prints))]
        for place in rng.choice(64, rng.integers(0, 2 * distance + 3), replace=False):
            one ^= 1 << int(place)
        prints.append(one)
    earlier, kept = NearDuplicates(distance), []
    for number, one in enumerate(prints):
        expected = next((n for n in kept if (prints[n] ^ one).bit_count() <= distance), None)
        assert seen(earlier, number, one) == expected
        if expected is None:
            kept.append(number)
    assert 40 < len(kept) < 1540


def test_few_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20,000 photographs each is compared with a small part of those before it."""
    compared = 0

    class Counted(int):
        def __xor__(self, other: int) -> int:
            nonlocal compared
            compared += 1
            return int(self) ^ int(other)

    earlier, num = NearDuplicates(), 20_000
    for number, one in enumerate(np.random.default_rng(0).integers(0, 2**64, num, dtype=np.uint64)):
        assert seen(earlier, number, Counted(one)) is None
    assert 0 < compared < num * num / 2 / 500


@pytest.mark.parametrize("distance", [0, 2, 4])
def test_the_memory_of_many_is_that_of_their_numbers(distance: int) -> None:
    """60 bytes a photograph, beside 16 MB for the bands' own lists."""
    earlier, num = NearDuplicates(distance), 50_000
    prints = np.random.default_rng(0).integers(0, 2**64, num, dtype=np.uint64).tolist()
    tracemalloc.start()
    for number, one in enumerate(prints):
        earlier.remember(number, one)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 16_000_000 + 60 * num
