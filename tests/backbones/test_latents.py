"""Autoencoders against the stock ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import families
import pytest
import stock
import torch
from diffusers import DiffusionPipeline

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError


@torch.no_grad()
def test_encode_and_decode(name: str, plain: Backbone, pipe: DiffusionPipeline) -> None:
    """(mean - shift) * scale, and back; images that are not square."""
    width, height = stock.size(name)
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(5)) * 2 - 1
    latents, stock_vae = plain.images.encode(images), families.of(name).autoencoder
    assert latents.shape == stock.noise(name, pipe).shape
    mean = stock_vae.mean(pipe.vae, images)
    torch.testing.assert_close(latents, stock_vae.latents(pipe.vae, mean), atol=1e-6, rtol=1e-6)
    decoded = plain.images.decode(latents)
    assert decoded.shape == images.shape
    torch.testing.assert_close(decoded, stock_vae.images(pipe.vae, mean), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoded_latents_are_the_pipelines_image(name: str, plain: Backbone, pipe: DiffusionPipeline) -> None:
    """The very pixels that the stock pipeline makes of its last latents."""
    image = stock.draw(name, pipe, output_type="pt")
    latents = stock.as_images(name, pipe, stock.draw(name, pipe), stock.noise(name, pipe))
    ours = (plain.images.decode(latents) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours, image, atol=1e-5, rtol=0)


def test_an_autoencoder_that_overflows_in_half_precision(tiny_family: Callable[[str], Path]) -> None:
    """SDXL's says so in its configuration, as the stock pipeline heeds."""
    backbone = load_backbone(tiny_family("sdxl"), torch.float16)
    assert backbone.sampler.stock.vae.config.force_upcast
    assert backbone.images.encode(torch.zeros(1, 3, 16, 16)).dtype == torch.float32
    assert backbone.denoiser.network.dtype == torch.float16


@pytest.mark.parametrize("name", ["sd3", "sana"])
def test_images_are_cast_to_the_autoencoder(folder: Path) -> None:
    backbone = load_backbone(folder, torch.bfloat16)
    latents = backbone.images.encode(torch.zeros(1, 3, 32, 32))
    assert latents.dtype == torch.bfloat16
    assert backbone.images.decode(latents.float()).isfinite().all()


PLAYGROUND = {"latents_mean": [-1.6, 1.4, 0.2, -0.9], "latents_std": [8.4, 6.0, 5.1, 7.3], "scaling_factor": 0.5}
SCALES: dict[str, tuple[str, dict[str, object]]] = {
    "Playground v2.5": ("sdxl", PLAYGROUND),
    "a mean without a deviation": ("sdxl", {"latents_mean": [1.0, 2.0, 3.0, 4.0]}),
    "what SD's pipeline does not heed": ("sd", PLAYGROUND | {"shift_factor": 0.7}),
    "a shift that PixArt's does not heed": ("pixart", {"shift_factor": 0.7}),
    "another shift": ("sd3", {"shift_factor": -0.4, "scaling_factor": 1.2}),
    "FLUX's shift": ("flux", {"shift_factor": 0.9, "scaling_factor": 0.7}),
}


@torch.no_grad()
@pytest.mark.parametrize("what", SCALES)
def test_what_the_stock_pipeline_heeds_of_the_autoencoder(
    what: str, tiny_family: Callable[[str], Path], tmp_path: Path
) -> None:
    """Decoded as the stock pipeline decodes, encoded by the inverse; in this very configuration alone."""
    name, changes = SCALES[what]
    model = shutil.copytree(tiny_family(name), tmp_path / "model")
    config = json.loads((model / "vae/config.json").read_text())
    (model / "vae/config.json").write_text(json.dumps(config | changes))
    backbone, pipe = load_backbone(model), stock.load(name, model)
    image, latents = stock.draw(name, pipe, output_type="pt"), stock.draw(name, pipe)
    latents = stock.as_images(name, pipe, latents, stock.noise(name, pipe))
    torch.testing.assert_close((backbone.images.decode(latents) / 2 + 0.5).clamp(0, 1), image, atol=1e-5, rtol=0)

    pictures = torch.rand(2, 3, 16, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    mean = pipe.vae.encode(pictures).latent_dist.mean
    decoded = pipe.vae.decode(mean).sample
    torch.testing.assert_close(backbone.images.decode(backbone.images.encode(pictures)), decoded, atol=1e-4, rtol=1e-4)


def test_a_shift_that_the_stock_pipeline_cannot_add(tiny_family: Callable[[str], Path], tmp_path: Path) -> None:
    model = shutil.copytree(tiny_family("flux"), tmp_path / "model")
    config = json.loads((model / "vae/config.json").read_text())
    (model / "vae/config.json").write_text(json.dumps(config | {"shift_factor": None}))
    with pytest.raises(UserError, match=r"shift_factor in vae/config\.json is null"):
        load_backbone(model)
