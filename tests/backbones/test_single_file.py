"""Checkpoints that are one file, whose configuration diffusers finds in the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stock
import tiny
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from training import with_full, with_lora

from contrapose.backbones.base import Backbone
from contrapose.backbones.decoder import Decoder
from contrapose.backbones.families.table import load_backbone, prompt_reader
from contrapose.backbones.generation import Generation
from contrapose.backbones.settings import Loading
from contrapose.errors import UserError


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as one file."""
    return tiny.save_single_file(tiny_model, tmp_path_factory.mktemp("one") / "sd.safetensors")


@pytest.fixture(scope="module")
def hub(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's cache in which SD 1.5's configuration is the tiny model's."""
    return tiny.save_hub(tiny_model, tmp_path_factory.mktemp("hub"))


@pytest.fixture
def configured(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))


def _refused(naming: str, model: Path, **options: Any) -> None:
    with pytest.raises(UserError, match=re.escape(naming)) as caught:
        load_backbone(model, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert str(model) in str(caught.value)


@pytest.mark.usefixtures("configured")
def test_its_autoencoder_alone_shows_what_the_folders_does(tiny_model: Path, checkpoint: Path) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    [image] = Decoder(checkpoint)(latents)
    [expected] = Decoder(tiny_model)(latents)
    assert image.tobytes() == expected.tobytes()


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("name", ["sd"])
def test_it_is_the_same_model(
    checkpoint: Path, plain: Backbone, generation: Callable[..., Generation], tmp_path: Path
) -> None:
    backbone = load_backbone(checkpoint)
    assert type(backbone) is type(plain)
    assert backbone.images.latent_shape == plain.images.latent_shape
    assert torch.equal(backbone.sampler.generate(generation(backbone)), plain.sampler.generate(generation(plain)))
    assert len(backbone.fingerprint) == len(backbone.text.settings.split()[1]) == 16


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("name", ["sd"])
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_what_is_trained_on_it(
    full: bool, checkpoint: Path, generation: Callable[..., Generation], tmp_path: Path
) -> None:
    backbone = load_backbone(checkpoint)
    asked = generation(backbone)
    before = backbone.sampler.generate(asked)
    backbone = with_full(backbone, torch.float32) if full else with_lora(backbone, 2, 2.0)
    with torch.no_grad():
        for parameter in backbone.policies.parameters():
            parameter.add_(0.01)
    ours = backbone.sampler.generate(asked)
    backbone.release_encoders()
    backbone.save(tmp_path)
    assert not torch.equal(ours, before)
    assert torch.equal(load_backbone(checkpoint, adapter=tmp_path).sampler.generate(asked), ours)
    if full:
        whole = stock.draw("sd", stock.load("sd", tmp_path / "model"))
        torch.testing.assert_close(whole, ours, atol=3e-5, rtol=1e-5)


@pytest.mark.usefixtures("configured")
def test_precisions(checkpoint: Path, loaded: Callable[[str], Backbone]) -> None:
    """A float32 network beside parts that are bf16 is not one that went through bf16."""
    backbone = load_backbone(checkpoint, torch.bfloat16, network_dtype=torch.float32)
    assert backbone.sampler.stock.vae.dtype == backbone.sampler.stock.text_encoder.dtype == torch.bfloat16
    expected = loaded("sd").denoiser.network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in backbone.denoiser.network.state_dict().items())
    assert load_backbone(checkpoint, torch.float16).denoiser.network.dtype == torch.float16
    empty = load_backbone(checkpoint, torch.bfloat16, network_dtype=torch.float32, without_values=("denoiser",))
    forms = [
        {name: value.dtype for name, value in each.denoiser.network.state_dict().items()} for each in (empty, backbone)
    ]
    assert forms[0] == forms[1] and all(weight.is_meta for weight in empty.denoiser.network.parameters())


@pytest.mark.usefixtures("configured")
def test_without_values_its_network_is_not_read(checkpoint: Path, tmp_path: Path) -> None:
    broken = {
        name: value * float("nan") if name.startswith("model.diffusion_model.") else value
        for name, value in load_file(checkpoint).items()
    }
    save_file(broken, tmp_path / "broken.safetensors")
    _refused("broken.safetensors: unet: ", tmp_path / "broken.safetensors")
    denoiser = load_backbone(tmp_path / "broken.safetensors", without_values=("denoiser",)).denoiser
    assert all(weight.is_meta for weight in denoiser.network.parameters())
    alone = load_backbone(tmp_path / "broken.safetensors", without_values=("denoiser", "text_encoders"))
    assert all(weight.is_meta for encoder in alone.pipeline.encoders.values() for weight in encoder.parameters())
    latents = torch.zeros(1, *alone.images.latent_shape)
    assert torch.equal(alone.images.decode(latents), load_backbone(checkpoint).images.decode(latents))


@pytest.mark.usefixtures("configured")
def test_the_reader(checkpoint: Path, tiny_model: Path) -> None:
    prompts = ["a red circle", "a red circle " * 7, "a red circle " * 8]
    assert prompt_reader(checkpoint)(prompts) == prompt_reader(tiny_model)(prompts) == prompts[2:]


@pytest.mark.usefixtures("configured")
def test_settings_that_are_for_folders(checkpoint: Path) -> None:
    _refused("variant", checkpoint, loading=Loading(variant="fp16"))
    _refused("quantize", checkpoint, loading=Loading(quantize="nf4"))


def test_without_its_configuration(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    mend = "run 'hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --include"
    _refused(mend, checkpoint)
    with pytest.raises(
        UserError, match=r"tokenizer cannot be loaded: a checkpoint file has no configuration"
    ) as refused:
        prompt_reader(checkpoint)
    assert mend in str(refused.value)


def test_a_pickled_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {}}, path)
    _refused("only .safetensors", path)


@pytest.mark.parametrize("size", [0, 4, 1000, 20_000])
def test_a_truncated_checkpoint(size: int, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(checkpoint.read_bytes()[:size])
    _refused("truncated or broken", path)


@pytest.mark.usefixtures("configured")
def test_a_checkpoint_without_its_network(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    kept = {key: value for key, value in load_file(checkpoint).items() if not key.startswith("model.diffusion_model")}
    save_file(kept, path)
    _refused("holds no network of a known model", path)


OTHERS: dict[str, tuple[str, ...]] = {
    "a LoRA and no model; name the model that it goes on top of": ("unet.down_blocks.0.attn.to_q.lora_A.weight",),
    "a LoRA and": ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", "lora_te_text_model.alpha"),
    "a LoRA": ("transformer.single_transformer_blocks.0.attn.to_k.lora_B.weight",),
    "a ControlNet": ("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
    "a ControlNet and": ("control_model.input_hint_block.0.weight", "control_model.input_blocks.0.0.weight"),
    "an embedding of words": ("clip_l", "clip_g"),
    "an embedding": ("emb_params",),
    "an autoencoder (VAE) and no whole model": ("encoder.conv_in.weight", "decoder.up.0.block.0.conv1.weight"),
    "an autoencoder": ("first_stage_model.encoder.conv_in.weight",),
    "a text encoder and no whole model": ("text_model.encoder.layers.0.mlp.fc1.weight", "text_projection.weight"),
    "a text encoder and": ("encoder.block.0.layer.0.SelfAttention.k.weight", "shared.weight"),
    "a text encoder": ("model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"),
    "a network alone": ("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight", "time_embedding.linear_1.bias"),
    "a network": ("transformer_blocks.0.attn.to_k.weight", "x_embedder.weight"),
    "no network of a known model (but weight, say)": ("weight",),
    "no network of a known model (but nothing, say)": (),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_file_of_something_else(what: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(2, 4) for name in OTHERS[what]}, path)
    _refused(what, path)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("part", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
@pytest.mark.parametrize("how", ["missing", "not finite"])
def test_a_checkpoint_with_a_tensor_that_is_not_whole(how: str, part: str, checkpoint: Path, tmp_path: Path) -> None:
    path, tensors = tmp_path / "model.safetensors", load_file(checkpoint)
    name = sorted(name for name in tensors if name.startswith(part) and name.endswith("bias"))[3]
    if how == "missing":
        del tensors[name]
    else:
        tensors[name][0] = float("nan")
    save_file(tensors, path)
    _refused(how, path)


def test_a_family_that_is_not_known(tmp_path: Path) -> None:
    """By the name of a tensor that Mochi alone has."""
    path = tmp_path / "mochi.safetensors"
    save_file({"blocks.0.attn.qkv_x.weight": torch.zeros(4)}, path)
    _refused("checkpoint is not supported", path)
