"""The weights that pretraining begins with: random ones, or those of a shapes model that another pretraining left.

Such a model reads words by its own tokenizer's numbers, which are carried over, so that what it knows of scenes need
not be learnt anew.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from contrapose.errors import UserError
from contrapose.worlds.shapes import blueprint
from contrapose.worlds.shapes.shipped import shipped_model


def start_folder(start: str) -> Path:
    """The pipeline folder that `start` names. Raises `UserError` where there is none."""
    folder = shipped_model() if start == "shapes" else Path(start)
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder}: no pipeline folder to start from; name one that 'shapes pretrain' made, or 'shapes'"
        )
    return folder


def initial_vae(start: str) -> AutoencoderKL:
    """The autoencoder that training begins with, float32."""
    if not start:
        return blueprint.build_vae()
    return AutoencoderKL.from_pretrained(start_folder(start) / "vae", torch_dtype=torch.float32)


def initial_denoiser(start: str, tokenizer: CLIPTokenizer) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """UNet and text encoder that training begins with, float32."""
    text_encoder = blueprint.build_text_encoder(tokenizer)
    if not start:
        return blueprint.build_unet(), text_encoder
    folder = start_folder(start)
    _adopt_words(text_encoder, tokenizer, folder)
    return UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32), text_encoder


@torch.no_grad()
def _adopt_words(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Take over a text encoder's weights, its embeddings by piece.

    Pieces that it does not know stay random, but as far apart as those that it knows: fainter ones all read the same,
    and hardly anything of the loss would ever tell them apart.
    """
    state = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32).state_dict()
    (name,) = (name for name in state if name.endswith("token_embedding.weight"))
    rows = state.pop(name)
    text_encoder.load_state_dict(state, strict=False)
    embeddings = text_encoder.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    former = CLIPTokenizer.from_pretrained(folder / "tokenizer").get_vocab()
    embeddings.weight *= rows.std() / embeddings.weight.std()
    for piece, number in tokenizer.get_vocab().items():
        if piece in former:
            embeddings.weight[number] = rows[former[piece]]
