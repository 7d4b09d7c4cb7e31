"""Models that are one checkpoint file, and the other kinds of file that are taken for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint
from safetensors import safe_open

from contrapose.errors import UserError

_MEND = "name a model folder, or the checkpoint file of a whole model"
# Files that go on top of a model, by names of which one is enough to tell: what they are, and what they are for.
_ADDITIONS = {
    r"(^|[._])(lora|lokr|hada|oft|dora)[._]": (
        "a LoRA", "name the model that it goes on top of, and this with --adapter or --positive",
    ),
    r"^(control_model|controlnet\w*|input_hint_block|zero_convs)\.": ("a ControlNet", _MEND),
    r"^(emb_params|string_to_param|clip_[gl]|<.+>)$": ("an embedding of words (textual inversion)", _MEND),
}  # fmt: skip
# One part of a model, by how all of its names begin; T5 shares `encoder` with the autoencoders.
_PARTS = {
    "a text encoder": (
        "cond_stage_model.", "conditioner.", "text_encoder", "text_model.", "text_projection", "transformer.resblocks.",
        "token_embedding.", "positional_embedding", "ln_final.", "logit_scale", "shared.", "encoder.block.", "lm_head.",
        "encoder.embed_tokens.", "encoder.final_layer_norm.", "model.layers.", "model.embed_tokens.", "model.norm.",
    ),
    "an autoencoder (VAE)": ("first_stage_model.", "vae.", "encoder.", "decoder.", "quant_conv.", "post_quant_conv."),
    "a network alone": (
        "down_blocks.", "mid_block.", "up_blocks.", "conv_", "time_embedding.", "add_embedding.", "transformer_blocks.",
        "single_transformer_blocks.", "pos_embed.", "patch_embed.", "x_embedder.", "context_embedder.", "caption_",
        "norm_out.", "proj_out.", "adaln_single.", "scale_shift_table", "time_embed.", "time_text_embed.",
    ),
}  # fmt: skip


def pipeline_of_checkpoint(path: Path, families: Mapping[str, Any]) -> str:
    """The pipeline class of one checkpoint file, from the names of its tensors.

    Raises `UserError` for a file that is broken, or of which the names tell that it is no model, or one of no family.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: only .safetensors checkpoints are read; convert it, since others can run code")
    try:
        with safe_open(path, "pt") as tensors:
            names = tensors.keys()
        kind = infer_diffusers_model_type(load_single_file_checkpoint(str(path)))
    except Exception as error:  # a broken file makes these libraries raise anything at all
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: truncated or broken: {reason:.300}") from error
    _check_whole(path, names)
    pipelines = {name: pipeline for pipeline, family in families.items() for name in family.checkpoints}
    if kind not in pipelines:
        raise UserError(
            f"{path}: a {kind} checkpoint is not supported (known: {', '.join(pipelines)}); use a model folder"
        )
    # diffusers takes for Stable Diffusion 1 what it has no other name for
    if kind == "v1" and not any(name.startswith("model.diffusion_model.") for name in names):
        example = min(names, default="nothing")
        raise UserError(f"{path}: holds no network of a known model (but {example}, say); {_MEND}")
    return pipelines[kind]


def _check_whole(path: Path, names: Collection[str]) -> None:
    """Raise `UserError` for a file that is no model, or one part of it."""
    for pattern, (what, mend) in _ADDITIONS.items():
        if any(re.search(pattern, name) for name in names):
            raise UserError(f"{path}: is {what} and no model; {mend}")
    for what, beginnings in _PARTS.items():
        if names and all(name.startswith(beginnings) for name in names):
            raise UserError(f"{path}: is {what} and no whole model; {_MEND}")
