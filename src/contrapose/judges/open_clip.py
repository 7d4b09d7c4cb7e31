"""What open_clip does otherwise than transformers' `CLIPModel`: names of weights, and images made square by zeros."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

if TYPE_CHECKING:
    from jaxtyping import Float

# Names within a tower's block, open_clip's and transformers'.
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# Whole names outside the blocks. `pre_layrnorm` is transformers' spelling.
_OUTSIDE = {
    "logit_scale": "logit_scale",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
# Matrices that open_clip multiplies from the right and transformers from the left.
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_BLOCK = re.compile(r"(?P<tower>visual\.)?transformer\.resblocks\.(?P<number>\d+)\.(?P<rest>.+)")
_ATTENTION = "attn.in_proj_"  # queries, keys and values in one matrix, in this order
_UNUSED = {"attn_mask"}  # a buffer of the text tower


def as_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under transformers' names, queries, keys and values apart.

    Raises `KeyError` for a name that open_clip's CLIP does not have.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        block = _BLOCK.fullmatch(name)
        if name in _UNUSED:
            continue
        if block is not None:
            renamed |= _of_block(block, value)
        elif name in _PROJECTIONS:
            renamed[_PROJECTIONS[name]] = value.T.contiguous()
        elif name == "logit_scale":
            renamed[name] = value.reshape(())  # some files keep it as a vector of one
        else:
            renamed[_OUTSIDE[name]] = value
    return renamed


def _of_block(block: re.Match[str], value: Tensor) -> dict[str, Tensor]:
    """One tensor of a block, in the tower and under the number that it has."""
    tower = "vision_model" if block["tower"] else "text_model"
    layer = f"{tower}.encoder.layers.{block['number']}"
    rest = block["rest"]
    if rest.startswith(_ATTENTION):
        end = rest.removeprefix(_ATTENTION)
        parts = value.chunk(3)
        return {
            f"{layer}.self_attn.{name}_proj.{end}": part.contiguous() for name, part in zip("qkv", parts, strict=True)
        }
    module, _, end = rest.rpartition(".")
    return {f"{layer}.{_IN_BLOCK[module]}.{end}": value}


def letterboxed(images: Sequence[Image], side: int) -> Float[Tensor, "b 3 s s"]:
    """RGB images with their longer side at `side`, centred between zeros, then normalised.

    The zeros are set before the mean is taken off, so that the borders are black, not grey.
    """
    mean = torch.tensor(OPENAI_CLIP_MEAN)[:, None, None]
    deviation = torch.tensor(OPENAI_CLIP_STD)[:, None, None]
    return torch.stack([(_square(image, side) - mean) / deviation for image in images])


def _square(image: Image, side: int) -> Float[Tensor, "3 s s"]:
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
    height, width = pixels.shape[1:]
    scale = side / max(height, width)
    if scale != 1:
        size = (round(height * scale), round(width * scale))
        # bit for bit what torchvision's resize of a tensor does
        pixels = F.interpolate(pixels[None], size, mode="bicubic", antialias=True, align_corners=False)[0]
    free_height = side - pixels.shape[1]
    free_width = side - pixels.shape[2]
    left = free_width // 2
    top = free_height // 2
    return F.pad(pixels, (left, free_width - left, top, free_height - top))
