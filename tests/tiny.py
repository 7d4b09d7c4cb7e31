"""Tiny random pipelines, one of each family, saved as the ordinary diffusers folders that users have."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import families
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file


def save(name: str, folder: Path) -> Path:
    """Build the family's pipeline and save it to the folder."""
    families.of(name).build().save_pretrained(folder)
    return folder


def save_single_file(folder: Path, path: Path) -> Path:
    """Write a saved "sd" as one checkpoint of the original layout, as Stable Diffusion was first published."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    unet, vae, text = pipe.unet.state_dict(), pipe.vae.state_dict(), pipe.text_encoder.state_dict()
    layers, levels = pipe.unet.config.layers_per_block, len(pipe.vae.config.block_out_channels)
    attended = {key.split(".attentions")[0] for key in unet if ".attentions" in key}
    tensors = {f"model.diffusion_model.{_original_unet(key, layers, attended)}": unet[key] for key in unet}
    tensors |= {f"first_stage_model.{_original_vae(key, levels)}": _original_shape(key, vae[key]) for key in vae}
    tensors |= {f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": text[key] for key in text}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def save_hub(folder: Path, cache: Path) -> Path:
    """Make `cache` a hub's cache in which SD 1.5's configuration is that of a saved model."""
    home = cache / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    shutil.copytree(folder, home / "snapshots" / revision, ignore=shutil.ignore_patterns("*.safetensors"))
    return cache


_UNET_LAYERS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_LAYERS = {
    "conv_norm_out": "norm_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
}
_VAE_PARTS = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_BLOCK = re.compile(r"(?P<block>(?P<way>down|up)_blocks\.(?P<index>\d+))\.(?P<kind>[a-z]+)\.(?P<layer>\d+)(?=\.)")
_MIDDLE = re.compile(r"mid_block\.(?P<kind>resnets|attentions)\.(?P<layer>\d+)(?=\.)")


def _original_unet(key: str, layers: int, attended: set[str]) -> str:
    """The original numbers all layers of one way in a row, where diffusers has blocks of layers."""
    found = _BLOCK.match(key) or _MIDDLE.match(key)
    if not found:
        return _renamed(key, _UNET_LAYERS)
    kind, layer, rest = found["kind"], int(found["layer"]), key[found.end() :]
    if kind == "resnets":
        rest = _renamed(rest, _UNET_RESNET)
    if found.re is _MIDDLE:
        return f"middle_block.{2 * layer + (kind == 'attentions')}{rest}"
    down = found["way"] == "down"
    row = int(found["index"]) * (layers + 1) + layer + down  # the first of those down is conv_in
    if kind == "downsamplers":
        return f"input_blocks.{row + layers}.0{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        return f"output_blocks.{row + layers}.{1 + (found['block'] in attended)}{rest}"
    return f"{'input' if down else 'output'}_blocks.{row}.{int(kind == 'attentions')}{rest}"


def _original_vae(key: str, levels: int) -> str:
    """The original counts the decoder's blocks from the largest image, where diffusers starts at the latents."""
    side, _, rest = key.partition(".")
    if found := _BLOCK.match(rest):
        down, index = found["way"] == "down", int(found["index"])
        kind = "block." + found["layer"] if found["kind"] == "resnets" else found["way"] + "sample"
        rest = f"{found['way']}.{index if down else levels - 1 - index}.{kind}{rest[found.end() :]}"
    return f"{side}.{_renamed(rest, _VAE_LAYERS, _VAE_PARTS)}"


def _original_shape(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """The original's attention in the autoencoder was made of 1x1 convolutions."""
    return tensor[..., None, None] if re.search(r"attentions.*\.to_.*weight", key) else tensor


def _renamed(key: str, *tables: dict[str, str]) -> str:
    """The key with each table's names put for whole parts of it."""
    for table in tables:
        for old, new in table.items():
            key = re.sub(rf"(?<![^.]){re.escape(old)}(?![^.])", new, key)
    return key
