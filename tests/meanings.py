"""What a stock call of each family's denoiser means, as `Trainable.predict` takes and gives it.

Nothing of `contrapose.backbones` is used: what a family's inputs mean is written down a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

GUIDANCE = 3.5  # what a network that takes guidance as an input is fed in training


@dataclass
class Call:
    """One call of a denoiser: its arguments by name, and its answer."""

    inputs: dict[str, Any]
    output: Any


def packed(latents: Tensor) -> Tensor:
    """FLUX's rows: 2x2 pixels of one patch become channels, [b, (h / 2) (w / 2), 4 c]."""
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(rows, height * width // 4, 4 * channels)


def unpacked(rows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `packed`."""
    count, _, features = rows.shape
    patches = rows.reshape(count, height // 2, width // 2, features // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(count, features // 4, height, width)


def extrapolated(none: Tensor, given: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance."""
    return none + scale * (given - none)


def as_long_as_conditional(none: Tensor, given: Tensor, scale: float) -> Tensor:
    """The same with each patch made as long as that of the prediction with a prompt."""
    rows, wanted = packed(extrapolated(none, given, scale)), packed(given)
    return unpacked(rows * wanted.norm(dim=-1, keepdim=True) / rows.norm(dim=-1, keepdim=True), *given.shape[-2:])


@dataclass(frozen=True)
class Autoencoder:
    """What a stock pipeline makes of its autoencoder: `mean` of images, `images` of it, and `latents` from it."""

    shift: float = 0.0

    def mean(self, vae: Any, images: Tensor) -> Tensor:
        encoded = vae.encode(images)
        return encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latent

    def images(self, vae: Any, mean: Tensor) -> Tensor:
        return vae.decode(mean).sample

    def latents(self, vae: Any, mean: Tensor) -> Tensor:
        return (mean - self.shift) * vae.config.scaling_factor


class OfVideos(Autoencoder):
    """Of videos, here of one frame, with statistics of each channel."""

    def mean(self, vae: Any, images: Tensor) -> Tensor:
        return vae.encode(images[:, :, None]).latent_dist.mean[:, :, 0]

    def images(self, vae: Any, mean: Tensor) -> Tensor:
        return vae.decode(mean[:, :, None]).sample[:, :, 0]

    def latents(self, vae: Any, mean: Tensor) -> Tensor:
        centre, spread = (torch.tensor(vae.config[f"latents_{name}"]).view(1, -1, 1, 1) for name in ("mean", "std"))
        return (mean - centre) / spread


def patches(latents: Tensor) -> Tensor:
    """2x2 pixels of one patch become channels, [b, 4 c, h / 2, w / 2]."""
    return torch.nn.functional.pixel_unshuffle(latents, 2)


class OfPatches(Autoencoder):
    """With statistics of each channel of a patch, from a batch norm."""

    def mean(self, vae: Any, images: Tensor) -> Tensor:
        return patches(super().mean(vae, images))

    def images(self, vae: Any, mean: Tensor) -> Tensor:
        return super().images(vae, torch.nn.functional.pixel_shuffle(mean, 2))

    def latents(self, vae: Any, mean: Tensor) -> Tensor:
        bare = torch.nn.functional.batch_norm(mean, vae.bn.running_mean, vae.bn.running_var, eps=vae.bn.eps)
        assert vae.bn.eps == vae.config.batch_norm_eps
        return bare


Meaning = tuple[Tensor, Tensor, dict[str, Tensor], Tensor]


def of_unet(call: Call) -> Meaning:
    told = call.inputs
    condition = {"text": told["encoder_hidden_states"]}
    if told.get("added_cond_kwargs"):
        condition["pooled"] = told["added_cond_kwargs"]["text_embeds"]
    rows = len(told["sample"])
    return told["sample"], told["timestep"].expand(rows), condition, call.output


def of_joint_transformer(call: Call) -> Meaning:
    told = call.inputs
    condition = {"text": told["encoder_hidden_states"], "pooled": told["pooled_projections"]}
    return told["hidden_states"], told["timestep"] / 1000, condition, call.output


def _masked(told: dict[str, Any]) -> dict[str, Tensor]:
    mask = told["encoder_attention_mask"].long()
    assert torch.equal(mask, mask.cummin(1).values), "text is what comes before the padding"
    return {"text": told["encoder_hidden_states"], "length": mask.sum(1)}


def of_masked_flow(call: Call) -> Meaning:
    told = call.inputs
    return told["hidden_states"], told["timestep"] / 1000, _masked(told), call.output


def of_masked_diffusion(call: Call) -> Meaning:
    noise, _learned_sigma = call.output.chunk(2, dim=1)
    return call.inputs["hidden_states"], call.inputs["timestep"], _masked(call.inputs), noise


def of_packed_transformer(call: Call) -> Meaning:
    told = call.inputs
    assert (told["guidance"] == GUIDANCE).all()
    height, width = (2 * int(side) for side in told["img_ids"][:, 1:].max(0).values + 1)
    condition = {"text": told["encoder_hidden_states"], "pooled": told["pooled_projections"]}
    x_t, answer = (unpacked(rows, height, width) for rows in (told["hidden_states"], call.output))
    return x_t, told["timestep"], condition, answer


def of_two_streams(call: Call) -> Meaning:
    told = call.inputs
    [[(frames, height, width)], *_] = told["img_shapes"]
    assert frames == 1
    text = told["encoder_hidden_states"]
    mask = told["encoder_hidden_states_mask"]
    length = torch.full(text.shape[:1], text.shape[1]) if mask is None else mask.sum(1)
    x_t, answer = (unpacked(rows, 2 * height, 2 * width) for rows in (told["hidden_states"], call.output))
    return x_t, told["timestep"], {"text": text, "length": length}, answer


def of_patches(call: Call) -> Meaning:
    told = call.inputs
    assert told["guidance"] is None
    sides = [int(side) + 1 for side in told["img_ids"][0].max(0).values[1:3]]
    x_t, answer = (rows.transpose(1, 2).unflatten(2, sides) for rows in (told["hidden_states"], call.output))
    return x_t, told["timestep"], {"text": told["encoder_hidden_states"]}, answer


def of_one_stream(call: Call) -> Meaning:
    told = call.inputs
    texts = told["cap_feats"]
    text = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    condition = {"text": text, "length": torch.tensor([len(row) for row in texts])}
    return torch.cat(told["x"], 1).transpose(0, 1), 1 - told["t"], condition, -torch.cat(call.output, 1).transpose(0, 1)
