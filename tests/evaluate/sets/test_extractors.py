"""Resizers against the tools they are named after, and features that are written and read again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import Dinov2Model

from contrapose.errors import UserError
from contrapose.evaluate.sets.extractors import (
    BatchedExtractor,
    ClipFeatures,
    DinoFeatures,
    Extracted,
    InceptionFeatures,
    PixelFeatures,
    Resizer,
    resized,
)
from contrapose.evaluate.sets.inception import Inception
from contrapose.evaluate.sets.reference import FeatureCache, digest_of_reference, files_of, look_at, read_set, write_set
from contrapose.evaluate.sets.within import drift

IMAGES = [tiny_vision.noise_image(seed, size) for seed, size in enumerate([(40, 40), (90, 33), (299, 299)])]


def by_hand(image: Image.Image, side: int) -> np.ndarray:
    """TensorFlow 1's bilinear, pixel by pixel."""
    source = np.asarray(image, dtype=np.float64)
    height, width = source.shape[:2]
    result = np.empty((side, side, 3))
    for i in range(side):
        for j in range(side):
            y, x = i * height / side, j * width / side
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = source[top, left] * (1 - (x - left)) + source[top, right] * (x - left)
            lower = source[bottom, left] * (1 - (x - left)) + source[bottom, right] * (x - left)
            result[i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return result


def test_tensorflows_bilinear() -> None:
    image = IMAGES[1]
    assert np.allclose(
        resized(image, 21, "tensorflow").permute(1, 2, 0).numpy() * 128 + 128, by_hand(image, 21), atol=1e-3
    )


def test_clean_is_pils_bicubic_that_is_not_rounded() -> None:
    image = tiny_vision.noise_image(5, (64, 48))
    exact = resized(image, 16, "clean").permute(1, 2, 0).numpy() * 128 + 128
    rounded = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float32)
    assert np.abs(exact - rounded).max() < 1.01
    assert np.abs(exact - exact.round()).max() > 0.1


@pytest.mark.parametrize("resizer", ["tensorflow", "pytorch", "clean", "antialiased"])
def test_an_image_of_the_right_size_is_left_alone(resizer: Resizer) -> None:
    pixels = np.asarray(IMAGES[2], dtype=np.float32)
    plain = pixels / 127.5 - 1 if resizer == "pytorch" else (pixels - 128) / 128
    assert np.allclose(resized(IMAGES[2], 299, resizer).permute(1, 2, 0).numpy(), plain, atol=1e-5)


def test_no_two_resizers_agree() -> None:
    image = tiny_vision.noise_image(7, (400, 300))
    names: tuple[Resizer, ...] = ("tensorflow", "pytorch", "clean", "antialiased")
    answers = [resized(image, 50, name) for name in names]
    for i, one in enumerate(answers):
        for other in answers[:i]:
            assert (one - other).abs().mean() > 1e-4


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(Inception().state_dict(), path)
    return path


def test_inception_reads_its_published_file_and_each_image_alone(inception: Path) -> None:
    extractor = InceptionFeatures(inception).load("cpu")
    seen = extractor(IMAGES)
    assert extractor.name == "inception-clean"
    assert seen.features.shape == (3, 2048) and seen.probabilities is not None
    assert np.allclose(seen.probabilities.sum(1), 1, atol=1e-5)
    assert np.allclose(extractor(IMAGES[1:2]).features[0], seen.features[1], atol=1e-5)


def test_inceptions_weights_are_told_when_they_are_missing(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^inception: .*no such file; download https://github\S+pth and run once: python"
    ):
        InceptionFeatures(tmp_path / "gone.safetensors").load("cpu")


def test_clip_features_are_unit_vectors(tmp_path: Path) -> None:
    extractor = ClipFeatures(str(tiny_vision.save_clip(tmp_path / "tiny"))).load("cpu")
    seen = extractor(IMAGES)
    assert extractor.name == "clip-tiny" and seen.probabilities is None
    assert np.allclose(np.linalg.norm(seen.features, axis=1), 1, atol=1e-5)


def test_dino_sees_the_whole_short_side(tmp_path: Path) -> None:
    """Class tokens of the image with its short side at 224, cut in the middle: by PIL and the network alone."""
    folder = tiny_vision.save_dino(tmp_path / "dinov2-tiny")
    image = tiny_vision.noise_image(3, (300, 448))
    extractor = DinoFeatures(str(folder)).load("cpu")
    small = image.resize((224, 334), Image.Resampling.BICUBIC).crop((0, 55, 224, 279))
    pixels = torch.from_numpy(np.array(small, dtype=np.float32)).permute(2, 0, 1) / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    network = Dinov2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        token = network(((pixels - mean[:, None, None]) / deviation[:, None, None])[None]).last_hidden_state[:, 0]
    seen = extractor([image, IMAGES[0]])
    assert extractor.name == "dinov2-tiny-224" and seen.probabilities is None
    assert np.allclose(seen.features[0], token[0].numpy(), atol=2e-3)
    assert not np.allclose(seen.features[0], seen.features[1], atol=2e-2)


def test_pixels_are_the_lab_of_a_small_copy() -> None:
    """Black and white are 1 from mid grey, and 1 - cos grows with the distance of the colours."""
    extractor = PixelFeatures(4).load("cpu")
    sides = [Image.new("RGB", (64, 48), colour) for colour in ("black", "white", (119, 119, 119), (130, 130, 130))]
    black, white, grey, light = extractor(sides).features
    assert extractor.name == "lab-pixels-4" and black.shape == (1 + 3 * 16,)
    assert np.linalg.norm(black[1:]) == pytest.approx(1) == np.linalg.norm(white[1:])
    assert np.linalg.norm(grey) == pytest.approx(1, abs=0.01)
    assert np.allclose(black[1:], -white[1:], atol=1e-4)
    apart = drift(np.stack([white, light, grey]), np.stack([black, grey, grey]))
    assert apart[0] == pytest.approx(1, abs=1e-3) and 0 < apart[1] < 0.01 and apart[2] == pytest.approx(0, abs=1e-9)
    halves = Image.new("RGB", (8, 8), "black")
    halves.paste("white", (4, 0, 8, 8))
    lightness = PixelFeatures(2).load("cpu")([halves]).features[0, 1::3]
    assert np.allclose(lightness, [-0.5, 0.5, -0.5, 0.5], atol=1e-3)


def mean_colours(images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
    colours = torch.stack([torch.tensor(np.asarray(image, dtype=np.float32).mean((0, 1))) for image in images])
    return colours, colours


def test_a_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    for number, image in enumerate(IMAGES):
        image.save(tmp_path / f"{number}.png")
    extractor = BatchedExtractor("colours", "1", mean_colours, batch_size=2)
    paths = files_of(tmp_path)
    told: list[tuple[int, int]] = []
    images = look_at(paths, extractor, progress=lambda done, total: told.append((done, total)))
    assert set(told) == {(3, 3)} and images.count == 3 and images.extractor == "colours 1"
    write_set(images, tmp_path / "set.npz")
    again = read_set(tmp_path / "set.npz")
    assert np.array_equal(again.features, images.features) and again.images == images.images
    assert again.probabilities is not None and np.array_equal(again.probabilities, images.probabilities)


def test_photographs_in_folders_with_numbers_for_names_are_a_reference(tmp_path: Path) -> None:
    """As FFHQ's are; GenEval's folders have a line beside the samples."""
    for name in ("00000/00000.png", "01000/01000.png"):
        (tmp_path / name).parent.mkdir()
        IMAGES[0].save(tmp_path / name)
    assert [path.name for path in files_of(tmp_path)] == ["00000.png", "01000.png"]


class Counting:
    """An extractor that counts the images that it sees."""

    version = "1"

    def __init__(self, name: str = "counting") -> None:
        self.name = name
        self.seen = 0

    def __call__(self, images: Sequence[Image.Image]) -> Extracted:
        self.seen += len(images)
        return Extracted(np.array([[image.width, image.height] for image in images], dtype=np.float32))


def test_no_image_is_looked_at_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run that was killed had seen is read again; another image, or another extractor, is looked at."""
    monkeypatch.setattr("contrapose.evaluate.sets.reference._PART", 2)
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (8 + number, 8)).save(paths[-1])
    cache = FeatureCache(tmp_path / "features")
    extractor = Counting()
    assert look_at(paths, extractor, cache).features[:, 0].tolist() == [8, 9, 10, 11, 12]
    assert extractor.seen == 5
    next(iter((tmp_path / "features").iterdir())).unlink()  # the part that a killed run did not come to
    again = Counting()
    assert np.array_equal(look_at(paths, again, cache).features[:, 0], [8, 9, 10, 11, 12])
    assert 1 <= again.seen <= 2
    next(iter((tmp_path / "features").iterdir())).write_bytes(b"broken")
    mending = Counting()
    assert np.array_equal(look_at(paths, mending, cache).features[:, 0], [8, 9, 10, 11, 12])
    assert 1 <= mending.seen <= 2
    assert look_at(paths, Counting("other"), cache).count == 5
    shutil.copy(paths[4], paths[0])
    changed = Counting()
    fresh = FeatureCache(tmp_path / "features")
    assert look_at(paths, changed, fresh).features[0, 0] == 12
    assert changed.seen == 2
    fresh.forget_others()
    assert len(list((tmp_path / "features").iterdir())) == 3


def test_a_reference_has_one_digest_as_folder_and_as_file(tmp_path: Path) -> None:
    for number, image in enumerate(IMAGES):
        image.save(tmp_path / f"{number}.png")
    write_set(look_at(files_of(tmp_path), Counting()), tmp_path / "set.npz")
    assert digest_of_reference(tmp_path) == digest_of_reference(tmp_path / "set.npz")
    with pytest.raises(UserError, match=r"gone: no such file"):
        digest_of_reference(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY"])
def test_a_broken_set_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"set\.npz: is not a set of features"):
        read_set(tmp_path / "set.npz")
    with pytest.raises(UserError, match=r"gone\.npz: no such file"):
        read_set(tmp_path / "gone.npz")


def test_pickles_are_never_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", features=np.array([{"a": 1}], dtype=object), format=np.array(1))
    with pytest.raises(UserError, match=r"is not a set of features"):
        read_set(tmp_path / "set.npz")
