"""Judges whose weights are published in layouts of their own, each against a network in that layout."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
import torch
from judging import convert
from PIL import Image
from published_layouts import ImageRewardNetwork, OpenCLIP
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, CLIPConfig

from contrapose.errors import UserError
from contrapose.judges.hpsv2 import HPSv20, HPSv21
from contrapose.judges.image_reward import DEVIATION, LENGTH, MEAN, ImageReward
from contrapose.judges.judge import score
from contrapose.judges.open_clip import letterboxed
from contrapose.judges.table import JUDGES
from contrapose.store.prompts import Prompt

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Case = tuple[nn.Module, Path, Path]  # the authors' network, its converted file, and the folder of tokenizer and sizes
SIZES = [(40, 40), (90, 33), (17, 64), (32, 32), (200, 130)]
IMAGES = [tiny_vision.noise_image(seed, size) for seed, size in enumerate(SIZES)]
PROMPTS = ["a red circle", "two blue stars on a green square", "", "zebra!", "a red circle above " * 30]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model's folder, of which HPSv2 reads tokenizer and sizes."""
    return tiny_vision.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def hps(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenCLIP, Path]:
    """A network in open_clip's layout of that model's sizes, and the published file, converted."""
    config = CLIPConfig.from_pretrained(clip)
    text, vision = config.text_config, config.vision_config
    torch.manual_seed(5)
    network = OpenCLIP(
        vision.image_size, vision.patch_size, vision.hidden_size, vision.num_attention_heads, vision.intermediate_size,
        vision.num_hidden_layers, config.projection_dim, text.vocab_size, text.max_position_embeddings,
    ).eval()  # fmt: skip
    path = tmp_path_factory.mktemp("hps") / "HPS_v2.1_compressed.safetensors"
    save_file(network.state_dict(), path)
    return network, path


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.save_blip(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def reward(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageRewardNetwork, Path]:
    torch.manual_seed(7)
    words = len(AutoTokenizer.from_pretrained(bert)) + 2
    network = ImageRewardNetwork(32, 8, 64, 128, 96, 2, words, 40).eval()
    path = tmp_path_factory.mktemp("reward") / "ImageReward.safetensors"
    save_file(network.state_dict(), path)
    return network, path


@pytest.fixture
def cases(
    clip: Path, bert: Path, hps: tuple[OpenCLIP, Path], reward: tuple[ImageRewardNetwork, Path]
) -> dict[str, Case]:
    return {"hpsv2.0": (*hps, clip), "hpsv2.1": (*hps, clip), "imagereward": (*reward, bert)}


def prompts(texts: list[str]) -> list[Prompt]:
    return [Prompt(text) for text in texts]


def quick_gelu_is_off(clip: Path) -> Path:
    """HPSv2's CLIP computes the exact GELU, and so does the layout's network."""
    config = CLIPConfig.from_pretrained(clip)
    config.text_config.hidden_act = config.vision_config.hidden_act = "gelu"
    config.save_pretrained(clip)
    return clip


def test_hpsv2_is_the_cosine_of_its_authors_network(clip: Path, hps: tuple[OpenCLIP, Path]) -> None:
    network, path = hps
    quick_gelu_is_off(clip)
    scores = score(HPSv21(path, str(clip)).load("cpu"), IMAGES, prompts(PROMPTS))
    tokenizer = AutoTokenizer.from_pretrained(clip)
    side, length = tiny_vision.CLIP_SIDE, tiny_vision.TEXT_LENGTH
    for value, image, text in zip(scores, IMAGES, PROMPTS, strict=True):
        ids = tokenizer(text)["input_ids"]
        ids = [*ids[: length - 1], tokenizer.eos_token_id] if len(ids) > length else ids
        tokens = torch.tensor([ids + [0] * (length - len(ids))])
        with torch.no_grad():
            expected = network.cosine(letterboxed([image], side), tokens, torch.tensor([len(ids) - 1]))
        assert value == pytest.approx(expected.item(), abs=1e-5)
    assert np.ptp(scores) > 0.01


def test_images_are_centred_between_black_borders() -> None:
    """Of an image of one colour the inside is that colour and the rest black, each after the mean is taken off."""
    red = Image.new("RGB", (40, 10), (255, 0, 0))
    (pixels,) = letterboxed([red], 32).numpy()
    normal = [(value - mean) / sd for value, mean, sd in zip((1, 0, 0), CLIP_MEAN, CLIP_DEVIATION, strict=True)]
    black = [-mean / sd for mean, sd in zip(CLIP_MEAN, CLIP_DEVIATION, strict=True)]
    assert pixels.shape == (3, 32, 32)
    assert np.allclose(pixels[:, 12:20], np.array(normal)[:, None, None], atol=1e-5)
    assert np.allclose(pixels[:, :12], np.array(black)[:, None, None], atol=1e-6)
    assert np.allclose(pixels[:, 20:], np.array(black)[:, None, None], atol=1e-6)


def test_an_image_of_the_right_side_is_not_resized() -> None:
    image = tiny_vision.noise_image(3, (32, 32))
    (pixels,) = letterboxed([image], 32)
    plain = (np.asarray(image) / 255 - CLIP_MEAN) / CLIP_DEVIATION
    assert np.allclose(pixels.permute(1, 2, 0).numpy(), plain, atol=1e-6)


def test_imagereward_is_its_authors_network_standardised(bert: Path, reward: tuple[ImageRewardNetwork, Path]) -> None:
    network, path = reward
    scores = score(ImageReward(path, str(bert)).load("cpu"), IMAGES, prompts(PROMPTS))
    tokenizer = AutoTokenizer.from_pretrained(bert)
    for value, image, text in zip(scores, IMAGES, PROMPTS, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt")
        with torch.no_grad():
            raw = network(cropped(image, 32), tokens["input_ids"], tokens["attention_mask"])
        assert value == pytest.approx((raw.item() - MEAN) / DEVIATION, abs=1e-5)
    assert np.ptp(scores) > 0.01


def cropped(image: Image.Image, side: int) -> torch.Tensor:
    """Short side to `side` by PIL's bicubic, centre crop, CLIP's mean and deviation."""
    width, height = image.size
    small = min(width, height)
    shape = (side * width // small, side * height // small)
    resized = np.asarray(image.convert("RGB").resize(shape, Image.Resampling.BICUBIC))
    left, top = (shape[0] - side) // 2, (shape[1] - side) // 2
    pixels = (resized[top : top + side, left : left + side] / 255 - CLIP_MEAN) / CLIP_DEVIATION
    return torch.tensor(pixels).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("name", ["hpsv2.0", "hpsv2.1", "imagereward"])
def test_what_gets_the_weights_is_told_and_converts_them(name: str, cases: dict[str, Case], tmp_path: Path) -> None:
    network, _, folder = cases[name]
    missing = tmp_path / "weights.safetensors"
    with pytest.raises(
        UserError, match=rf"^{name}: .*weights.safetensors: no such file; .*hf download \S+ \S+"
    ) as told:
        JUDGES[name](missing, str(folder)).load("cpu")
    published = tmp_path / "published.pt"
    state = network.state_dict()
    torch.save(state if name == "imagereward" else {"state_dict": state}, published)
    python, script, code, *_ = shlex.split(str(told.value).partition("run once: ")[2])
    assert python == "python" and "\n" not in str(told.value)
    convert(script, code, str(published), str(missing))
    judge = JUDGES[name](missing, str(folder)).load("cpu")
    assert judge.name == name and np.isfinite(score(judge, IMAGES, prompts(PROMPTS))).all()


@pytest.mark.parametrize("name", ["hpsv2.1", "imagereward"])
def test_weights_of_another_network_are_told(name: str, cases: dict[str, Case], tmp_path: Path) -> None:
    _, source, folder = cases[name]
    stored = load_file(source)
    key = "mlp.layers.0.weight" if name == "imagereward" else "ln_final.weight"
    spoiled = {
        "fewer": {other: value for other, value in stored.items() if other != key},
        "unknown": stored | {"something.weight": torch.zeros(1)},
        "nan": stored | {key: torch.full_like(stored[key], float("nan"))},
    }
    for kind, weights in spoiled.items():
        path = tmp_path / f"{kind}.safetensors"
        save_file(weights, path)
        with pytest.raises(UserError, match=rf"^{name}: .*{kind}\.safetensors: ") as told:
            JUDGES[name](path, str(folder)).load("cpu")
        assert "\n" not in str(told.value)
    (tmp_path / "cut.safetensors").write_bytes(source.read_bytes()[:500])
    with pytest.raises(UserError, match=rf"^{name}: .*cut\.safetensors: cannot be loaded"):
        JUDGES[name](tmp_path / "cut.safetensors", str(folder)).load("cpu")


def test_the_two_versions_of_hpsv2_are_told_apart(clip: Path, hps: tuple[OpenCLIP, Path]) -> None:
    newer, older = HPSv21(hps[1], str(clip)).load("cpu"), HPSv20(hps[1], str(clip)).load("cpu")
    assert (newer.name, older.name) == ("hpsv2.1", "hpsv2.0")
