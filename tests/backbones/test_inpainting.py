"""Models made for inpainting: a tiny UNet of nine input channels, against the stock pipeline called by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import torch
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.inpainting import open_inpainting
from contrapose.errors import UserError

CAPTIONS = ["a red circle", "two blue squares"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        parts = tiny_pipelines.build_sd().components
        unet = UNet2DConditionModel.from_config(parts["unet"].config, in_channels=9)
    pipe = StableDiffusionInpaintPipeline(**{**parts, "unet": unet}, requires_safety_checker=False)
    where = tmp_path_factory.mktemp("models") / "inpainting"
    pipe.save_pretrained(where)
    return where


def photo(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 16, 3), dtype=np.uint8))


def mask(left: int) -> Image.Image:
    cells = np.zeros((24, 16), np.uint8)
    cells[4:20, left : left + 8] = 255
    return Image.fromarray(cells)


def streams() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (5, 6)]


PHOTOS, MASKS = [photo(0), photo(1)], [mask(2), mask(6)]


def far(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def test_it_paints_what_the_stock_pipeline_paints(folder: Path) -> None:
    stock = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    assert stock.unet.config.in_channels == 9
    expected = stock(
        CAPTIONS, PHOTOS, MASKS, height=24, width=16, num_inference_steps=3, guidance_scale=4.0, generator=streams()
    ).images
    made = open_inpainting(str(folder), torch.float32, "cpu").paint(PHOTOS, MASKS, CAPTIONS, streams(), 3, 4.0)
    assert [far(a, b) for a, b in zip(made, expected, strict=True)] == [0, 0]
    assert made[0].size == PHOTOS[0].size


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_alone_is_as_in_a_batch(folder: Path, strength: float) -> None:
    inpainting = open_inpainting(str(folder), torch.float32, "cpu")
    both = inpainting.paint(PHOTOS, MASKS, CAPTIONS, streams(), 4, 4.0, strength)
    alone = inpainting.paint(PHOTOS[1:], MASKS[1:], CAPTIONS[1:], streams()[1:], 4, 4.0, strength)
    assert far(both[1], alone[0]) <= 1
    assert far(both[1], both[0]) > 10


def test_a_model_that_was_not_made_for_it_inpaints_too(tiny_model: Path) -> None:
    inpainting = open_inpainting(str(tiny_model), torch.float32, "cpu")
    assert far(inpainting.paint(PHOTOS, MASKS, CAPTIONS, streams(), 2, 4.0)[0], PHOTOS[0]) > 10


def test_what_cannot_inpaint_is_told_in_one_line(folder: Path, tiny_family, tmp_path: Path) -> None:
    inpainting = open_inpainting(str(folder), torch.float32, "cpu")
    for model, says in (
        (tmp_path / "nothing", "no such model"),
        (tiny_family("sana"), "cannot be loaded for inpainting"),
    ):
        with pytest.raises(UserError, match=says) as told:
            open_inpainting(str(model), torch.float32, "cpu")
        assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="refuses 17x24"):
        odd = [image.resize((17, 24)) for image in PHOTOS]
        inpainting.paint(odd, MASKS, CAPTIONS, streams(), 2, 4.0)
    with pytest.raises(UserError, match="refuses"):
        inpainting.paint(PHOTOS, MASKS, CAPTIONS, streams(), 2, 4.0, strength=0.1)


def test_weights_are_looked_at(folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(folder, tmp_path / "model")
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors.popitem()
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="unet: a tensor is missing"):
        open_inpainting(str(model), torch.float32, "cpu")


def test_a_network_that_inpaints_is_no_text_to_image_model(folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(folder, tmp_path / "model")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UserError, match="its unet reads latents of 9 channels and its vae makes 4"):
        load_backbone(model)
