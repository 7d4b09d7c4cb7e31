"""An autoencoder alone shows what the whole model's shows, and nothing else of the model is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch

from contrapose.backbones import loading
from contrapose.backbones.decoder import Decoder
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.pixels import to_pixels


@pytest.mark.parametrize("name", families.NAMES)
def test_it_shows_what_the_whole_model_does(name: str, tiny_family: Callable[[str], Path]) -> None:
    backbone = load_backbone(tiny_family(name))
    channels, *_ = backbone.images.latent_shape
    latents = torch.randn(2, channels, 8, 6, generator=torch.Generator().manual_seed(0))
    decoder = Decoder(tiny_family(name))
    expected = to_pixels(backbone.images.decode(latents))
    assert np.array_equal(np.stack([np.asarray(image) for image in decoder(latents)]), expected)
    assert decoder.fingerprint == backbone.fingerprint


def test_one_network_is_read(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[str] = []
    read = loading.read_network

    def noted(kind: Any, *arguments: Any, **options: Any) -> Any:
        kinds.append(kind.__name__)
        return read(kind, *arguments, **options)

    monkeypatch.setattr(loading, "read_network", noted)
    Decoder(tiny_model)
    assert kinds == ["AutoencoderKL"]


def test_latents_of_another_model_are_named(tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"reads 4 channels, not latents of shape \[16, 2, 2\]"):
        Decoder(tiny_model)(torch.zeros(1, 16, 2, 2))


def test_a_shift_of_null_is_named(tiny_family: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_family("flux"), tmp_path / "model")
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "shift_factor": None}))
    with pytest.raises(UserError, match="shift_factor in vae"):
        Decoder(folder)
