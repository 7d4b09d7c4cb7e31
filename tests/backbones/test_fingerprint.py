"""Fingerprints: the same weights are the same however they are stored or cast, and others are not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import families
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to change."""
    return shutil.copytree(folder, tmp_path / "model")


def _change(path: Path, key: str | None = None, place: int = 0) -> None:
    state = load_file(path)
    key = key or sorted(state)[0]
    state[key].view(-1)[place] += 0.25
    save_file(state, path, metadata={"format": "pt"})


def _weights(model: Path, part: str) -> Path:
    [path] = (model / part).glob("*.safetensors")
    return path


@pytest.mark.parametrize("name", ["sd", "sana"])
def test_precision_does_not_matter(folder: Path, plain: Backbone) -> None:
    """Pairs may be drawn in one precision and trained on in another: it is the same model."""
    for dtype in (torch.bfloat16, torch.float16):
        assert load_backbone(folder, dtype).fingerprint == plain.fingerprint


def test_a_copy_is_the_same(model: Path, plain: Backbone) -> None:
    copied = load_backbone(model)
    assert copied.fingerprint == plain.fingerprint
    assert copied.text.settings == plain.text.settings


def test_models_differ(name: str, plain: Backbone, loaded: Callable[[str], Backbone]) -> None:
    others = {n: loaded(n).fingerprint for n in families.NAMES}
    assert [n for n, print in others.items() if print == plain.fingerprint] == [n for n in others if n == name]
    assert re.fullmatch("[0-9a-f]{16}", plain.fingerprint)


@pytest.mark.parametrize("name", ["sd", "pixart"])
def test_one_weight_of_the_denoiser(model: Path, plain: Backbone) -> None:
    _change(_weights(model, plain.denoiser.part))
    changed = load_backbone(model)
    assert changed.fingerprint != plain.fingerprint
    assert changed.text.settings == plain.text.settings


@pytest.mark.parametrize("name", ["sd", "pixart"])
def test_one_weight_of_the_autoencoder(model: Path, plain: Backbone) -> None:
    """Latents of another autoencoder are others."""
    _change(_weights(model, "vae"))
    assert load_backbone(model).fingerprint != plain.fingerprint


@pytest.mark.parametrize("name", ["sd3", "pixart"])
def test_one_weight_of_a_text_encoder(model: Path, plain: Backbone) -> None:
    _change(_weights(model, "text_encoder_2" if (model / "text_encoder_2").exists() else "text_encoder"))
    changed = load_backbone(model)
    assert changed.fingerprint == plain.fingerprint
    assert changed.text.settings != plain.text.settings


@pytest.mark.parametrize("name", ["sdxl", *families.names(attention="single")])
def test_the_tokenizer_decides_the_text(model: Path, plain: Backbone) -> None:
    [path] = (model / "tokenizer").glob("tokenizer.json")
    text = path.read_text(encoding="utf-8")
    path.write_text(text + "\n", encoding="utf-8")
    assert load_backbone(model).text.settings != plain.text.settings


def test_shards_do_not_matter(
    name: str, folder: Path, plain: Backbone, stocked: Callable[[str], DiffusionPipeline], tmp_path: Path
) -> None:
    stocked(name).save_pretrained(tmp_path, max_shard_size="50KB")
    for tokenizer in folder.glob("tokenizer*"):  # which transformers writes otherwise the second time
        shutil.copytree(tokenizer, tmp_path / tokenizer.name, dirs_exist_ok=True)
    assert len(list((tmp_path / plain.denoiser.part).glob("*.safetensors"))) > 1
    assert name == "sd" or len(list(tmp_path.glob("text_encoder*/*.safetensors"))) > len(plain.text.encoder_parts)
    sharded = load_backbone(tmp_path)
    assert sharded.fingerprint == plain.fingerprint
    assert sharded.text.settings == plain.text.settings


@pytest.mark.parametrize("name", ["sd"])
def test_another_variant_beside_it_does_not_matter(
    model: Path, plain: Backbone, stocked: Callable[[str], DiffusionPipeline]
) -> None:
    stocked("sd").save_pretrained(model, variant="fp16")
    assert load_backbone(model).fingerprint == plain.fingerprint


@pytest.mark.parametrize("name", ["sd"])
def test_a_file_that_changes_is_read_again(model: Path) -> None:
    backbone = load_backbone(model)
    before = backbone.fingerprint
    _change(_weights(model, "unet"))
    assert backbone.fingerprint != before


@pytest.mark.parametrize("name", ["sd"])
def test_a_file_that_breaks(model: Path) -> None:
    backbone = load_backbone(model)
    path = _weights(model, "unet")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        _ = backbone.fingerprint
    assert len(str(caught.value).splitlines()) == 1
