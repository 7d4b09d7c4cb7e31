"""What a family of models is: declared facts, and the few functions that say how its stock pipeline works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from contrapose.backbones.networks import Network
from contrapose.backbones.policies import ATTENTION_PROJECTIONS
from contrapose.core.choices import Density, Space
from contrapose.core.group import Condition
from contrapose.core.path import Path
from contrapose.runs.kohya import Layout


class Process(Protocol):
    """How the networks of a family were noised in their training."""

    def misfit(self, scheduler: Any) -> str | None:
        """Why this scheduler does not walk the path of this process; None for one that does."""
        ...

    def space(self, scheduler: Any) -> Space:
        """What the network predicts."""
        ...

    def path(self, scheduler: Any, num_tokens: int, density: Density, shifted: bool) -> Path:
        """The path for images of so many tokens, with times drawn by this density, shifted as the scheduler says."""
        ...


# Defaults of a family's functions.


def plain_count(tokenizer: Any, prompt: str) -> int:
    """Tokens of a prompt as it is."""
    return len(tokenizer(prompt, truncation=False, verbose=False).input_ids)


def _sample_shape(pipe: Any, network: Network) -> tuple[int, ...]:
    size = network.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return (network.config.in_channels, height, width)


def plain_scale(pipe: Any) -> tuple[Any, Any]:
    """latents = z * scaling_factor."""
    return 0.0, pipe.vae.config.scaling_factor


def _latents_of(vae: Network, images: Tensor) -> Tensor:
    encoded = vae.encode(images)
    return encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latent


def _images_of(vae: Network, latents: Tensor) -> Tensor:
    return vae.decode(latents).sample


def extrapolated(pipe: Any, unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """u + s (c - u)."""
    return unconditional + scale * (conditional - unconditional)


def _cast(pipe: Any, noise: Tensor, dtype: torch.dtype) -> Tensor:
    return noise.to(dtype)


def _as_they_are(pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
    return latents


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A family of models, over its stock pipeline: nothing of it is said anywhere else but in its file.

    `pipe` is the stock pipeline, `tokens` what its largest text encoder reads at most.
    """

    name: str
    """Part of the digests of embeddings: not to be changed."""
    pipelines: tuple[type[Any], ...]
    """The stock pipelines of this family."""
    checkpoints: tuple[str, ...] = ()
    """diffusers' names for the single-file checkpoints of this family's first pipeline."""
    denoiser_part: str = "transformer"
    """The pipeline's part that predicts."""
    unused_parts: tuple[str, ...] = ()
    """Parts that are never loaded."""
    optional_parts: tuple[str, ...] = ()
    """Parts that a model may do without."""
    prepare: Callable[[Any, nn.Module, torch.device], None] | None = None
    """Changes what is loaded, (pipe, network, device), before it is used."""

    # Text

    read: Callable[[Any, list[str], torch.device, int], Condition]
    """What the denoiser reads of each prompt, (pipe, prompts, device, tokens), as the stock pipeline makes it."""
    read_none: Callable[[Any, str | None, torch.device, int], Condition] | None = None
    """What it reads of no prompt or of a negative one, (pipe, negative prompt, ...), where not as of a prompt."""
    count: Callable[[Any, str], int] = plain_count
    """Tokens that a prompt takes of those that the largest text encoder reads, (tokenizer, prompt)."""
    text_length: int | None = None
    """Tokens that the largest text encoder reads unless told otherwise; None where that is fixed."""
    text_rows: Callable[[Any, int], int] = lambda pipe, tokens: tokens
    """Rows of text that the network reads of the longest prompt, (pipe, tokens)."""
    text_width: str
    """The network's setting that says how wide the text is that it reads."""
    text_layers: int = 1
    """Layers of a text encoder that stand side by side in it."""
    pooled_width: Callable[[Any, Any], int | None] = lambda pipe, config: None
    """Width of the pooled text that it reads, (pipe, network's configuration); None where it reads none."""
    trims_text: bool = False
    """Whether padding is cut off, because the network masks it."""

    # Images

    latent_shape: Callable[[Any, nn.Module], tuple[int, ...]] = _sample_shape
    """Shape of one latent at the model's usual size, (pipe, network), without the batch."""
    unit: Callable[[Any], int] = lambda pipe: int(pipe.vae_scale_factor)
    """Pixels of an image's side for each of a latent's, (pipe)."""
    encode: Callable[[Network, Tensor], Tensor] = _latents_of
    """What the autoencoder makes of images [b, 3, H, W] in -1..1: latents [b, c, h, w] in its own scale."""
    decode: Callable[[Network, Tensor], Tensor] = _images_of
    """The inverse, (autoencoder, latents)."""
    latent_channels: Callable[[Any], int] = lambda config: config.latent_channels
    """Channels c of these latents, (autoencoder's configuration)."""
    latent_scale: Callable[[Any], tuple[Any, Any]] = plain_scale
    """Shift and factor of latents = (z - shift) * factor, z being the autoencoder's, as the stock pipeline has it.

    Numbers, or tensors [1, c, 1, 1].
    """
    patch: int | None = None
    """Latent pixels that the network cannot divide further; None where its `patch_size` says it, or 1."""
    most_patches: Callable[[Any], int] | None = None
    """Patches that the network of this configuration has positions for a side; None where there is no limit."""

    # Predictions

    process: Process
    """The noising process that the networks were trained on."""
    density: Density = "uniform"
    """Usual density of training times."""
    denoise: Callable[[Any, nn.Module, Tensor, Tensor, Condition, float], Tensor]
    """One call of the network without anything that is not a prediction, (pipe, network, x_t, t, condition, fed).

    `fed` is the guidance that a network is fed which takes it as an input.
    """
    level_of: Callable[[float, Any], float]
    """How far from data (0) to noise (1) the time is that the stock pipeline hands a network of this configuration."""
    takes_guidance: Callable[[Any], bool] = lambda config: False
    """Whether a network of this configuration takes guidance as an input."""
    lora_targets: tuple[str, ...] = ATTENTION_PROJECTIONS
    """Layers that adapters are put on."""
    kohya: Sequence[Layout] = ()
    """How other tools know adapters of this family."""
    attention: Literal["cross", "joint", "streams", "single"] | None = "cross"
    """How the image attends to the text: to it alone, both to both, or both in one sequence, image first.

    Both to both in `streams` too, where nothing but attention tells the image of the text, no pooled one. None where it
    cannot be led.
    """
    text_alone: Callable[[nn.Module, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    """Of one sequence: text as it is before it meets the image, (network, text, rows like these, ends), and places."""

    # Sampling

    steps: int = 25
    """Usual sampling steps."""
    guidance_scale: float = 7.5
    """Usual guidance scale."""
    unconditional_rows: Literal["first", "last", "own", "none"] = "first"
    """Under classifier-free guidance, which half of the batch is unconditional, or whether it takes a call of its own.

    None where the guidance scale makes no second prediction, which the stock pipeline makes as true CFG alone.
    """
    unguided: Callable[[Any], bool] = lambda pipe: False
    """Whether the guidance scale does nothing in this pipeline, since its network was distilled to do without."""
    combine: Callable[[Any, Tensor, Tensor, float], Tensor] = extrapolated
    """The guided prediction, (pipe, unconditional, conditional, guidance scale), all [b, c, h, w]."""
    rowless: tuple[str, ...] = ()
    """Inputs of the network of which the stock pipeline hands over one for the whole batch."""
    call_arguments: Callable[[Condition, Condition, float, int], dict[str, Any]]
    """Arguments of the stock pipeline for these embeddings, (condition, unconditional, guidance scale, tokens)."""
    pack: Callable[[Any, Tensor, torch.dtype], Tensor] = _cast
    """Latents as the stock pipeline takes them, (pipe, noise, dtype)."""
    unpack: Callable[[Any, Tensor, int, int], Tensor] = _as_they_are
    """The inverse of `pack`, for what the pipeline gives back, (pipe, latents, height, width)."""

    def tokens(self, pipe: Any, text_length: int | None) -> int:
        """Tokens that the largest text encoder reads at most, where so many are asked for."""
        limit = text_length or self.text_length
        return limit if limit is not None else pipe.text_encoder.config.max_position_embeddings

    def read_unconditional(
        self, pipe: Any, negative_prompt: str | None, device: torch.device, tokens: int
    ) -> Condition:
        """What stands in place of a prompt in classifier-free guidance: none, or a negative prompt, one row."""
        if self.read_none is not None:
            return self.read_none(pipe, negative_prompt, device, tokens)
        return self.read(pipe, [negative_prompt or ""], device, tokens)
