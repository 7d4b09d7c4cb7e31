"""A model over its stock diffusers pipeline: what all families have in common."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, Literal, TypeVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from contrapose.backbones.adapters import frozen_policy, put_on, starting_lora
from contrapose.backbones.coherence import check_fit
from contrapose.backbones.family import Family
from contrapose.backbones.generation import Generation
from contrapose.backbones.loading import Source, open_pipeline, release
from contrapose.backbones.policies import FullPolicies, Lora, LoraPolicies, Policies
from contrapose.backbones.settings import Loading
from contrapose.backbones.text_encoders import encoders_digest, tokenizers_digest
from contrapose.core.group import Condition, join
from contrapose.core.path import Density, Path
from contrapose.errors import UserError
from contrapose.ranges import Pixels, check
from contrapose.runs import saving
from contrapose.runs.fingerprint import weights_fingerprint
from contrapose.runs.folder import RunFolder

_READING = 1  # to be counted up when what a family reads changes, so that nothing kept from before is used
Settings = TypeVar("Settings", bound=Any)  # a dataclass with `steps` and `guidance_scale`


class Backbone:
    """A text-to-image model that predicts, over its stock pipeline.

    `path` is the noising path that it was trained on and `space` what it predicts; `policies` exist after `with_lora`
    or `with_full`. `generate` asks the pipeline's own network, whatever is loaded on it.
    """

    policies: Policies

    def __init__(
        self, family: Family, source: Source, pipe: DiffusionPipeline, device: str | torch.device, loading: Loading
    ):
        self.family = family
        self.source = source
        self.pipe = pipe
        self.loading = loading
        self.device = torch.device(device)
        self.dtype: torch.dtype = self.network.dtype
        self._encoder_dtype = pipe.text_encoder.dtype
        self._fed = family.guidance_scale
        self.tokens = family.tokens(pipe, loading.text_length)
        """Tokens that the text encoder reads at most."""
        check_fit(self)
        self.path = self.noising()
        self.space = family.process.space(pipe.scheduler)
        if family.prepare is not None:
            family.prepare(pipe, self.network, self.device)

    def noising(self, shape: Sequence[int] | None = None, density: Density | None = None, shifted: bool = True) -> Path:
        """The path for latents of this shape, with times drawn by this density; the family's usual where left out."""
        _, height, width = shape or self.latent_shape
        num_tokens = (height // self.patch) * (width // self.patch)
        return self.family.process.path(self.pipe.scheduler, num_tokens, density or self.family.density, shifted)

    @property
    def steps(self) -> int:
        """Usual sampling steps."""
        return self.family.steps

    @property
    def guidance_scale(self) -> float:
        """Usual guidance scale."""
        return self.family.guidance_scale

    @property
    def denoiser_part(self) -> str:
        """The pipeline's part that predicts."""
        return self.family.denoiser_part

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent at the model's usual size, without the batch."""
        return self.family.latent_shape(self.pipe, self.network)

    @property
    def unit(self) -> int:
        """Pixels of an image's side for each of a latent's."""
        return int(self.pipe.vae_scale_factor)

    @property
    def patch(self) -> int:
        """Latent pixels that the network cannot divide further."""
        return self.family.patch or getattr(self.network.config, "patch_size", None) or 1

    @property
    def network(self) -> nn.Module:
        """The pipeline's denoiser."""
        return getattr(self.pipe, self.denoiser_part)

    @property
    def fingerprint(self) -> str:
        """Which denoiser and autoencoder these are, by the files that they were read from."""
        return weights_fingerprint(self.source.path, (self.denoiser_part, "vae"), self.source.variant)

    @property
    def text_settings(self) -> str:
        """Everything that decides what `embed` gives for a prompt, and adapters on the encoders too.

        Of encoders that have left memory, what they were when they left.
        """
        encoders = {name: part for name in self.encoder_parts if (part := getattr(self.pipe, name)) is not None}
        if encoders:
            names = [name for name in self.pipe.components if name.startswith("tokenizer")]
            tokenizers = {name: part for name in names if (part := getattr(self.pipe, name)) is not None}
            read_by = f"{encoders_digest(encoders)} {tokenizers_digest(self.source.path, tokenizers)}"
            own = f"{self.tokens} {self._encoder_dtype} reading {_READING}"
            self._text_settings = f"{self.family.name} {read_by} {own}"
        return self._text_settings

    @property
    def text_rows(self) -> int:
        """Rows of text that the network reads of the longest prompt."""
        return self.family.text_rows(self.pipe, self.tokens)

    def shape_for(self, size: str | None) -> tuple[int, ...]:
        """Shape of the latent of an image of this size, written WIDTHxHEIGHT; the usual shape for None.

        Raises `UserError` for a size that is not so written, or that the network cannot make.
        """
        if size is None:
            return self.latent_shape
        sides = re.fullmatch(r"(\d{1,10})x(\d{1,10})", size)
        if not sides:
            raise UserError(f"size {size}: write WIDTHxHEIGHT, such as 832x1216")
        width, height = map(int, sides.groups())
        for side in (width, height):
            check(f"size {size}: side", side, Pixels)
        step = self.unit * self.patch
        if width % step or height % step or min(width, height) < step:
            raise UserError(f"size {size}: this model makes images whose sides are multiples of {step}")
        if self.family.most_patches is not None:
            largest = self.family.most_patches(self.network.config) * step
            if max(width, height) > largest:
                raise UserError(f"size {size}: this model makes sides of up to {largest}")
        return (self.latent_shape[0], height // self.unit, width // self.unit)

    def with_usual(self, settings: Settings) -> Settings:
        """The settings of a sampler with steps and guidance scale spelled out where they are left to the model."""
        steps = self.steps if settings.steps is None else settings.steps
        scale = self.guidance_scale if settings.guidance_scale is None else settings.guidance_scale
        return replace(settings, steps=steps, guidance_scale=scale)

    def with_lora(
        self,
        rank: int | None,
        alpha: float | None,
        trained: tuple[str, ...] = ("trainee",),
        start: FilePath | None = None,
        frozen: Mapping[str, FilePath | None] = {},
    ) -> Backbone:
        """Train low-rank adapters on the family's attention projections, one a policy; the base stays as loaded.

        `start` is an earlier run's folder, at whose adapters all that is trained begins, and the reference; rank, alpha
        and layers are theirs. `frozen` names policies that never train: a run's folder, or None for a copy of the first
        trained one as it starts. Raises `UserError` for a run that is broken, unfinished or another model's, a start
        that was trained in full, and a rank or alpha that is not the start's.
        """
        self._place(self.denoiser_part)
        network, part = self.network, self.denoiser_part
        self._check_runs(start, *frozen.values())
        if start is not None:
            lora = starting_lora(start, part, network, type(self.pipe), rank, alpha)
        else:
            assert rank is not None and alpha is not None, "what a start would tell"
            lora = Lora(rank, alpha, self.family.lora_targets)
        further = {name: run and frozen_policy(run, part, network, type(self.pipe)) for name, run in frozen.items()}
        self.policies = LoraPolicies(network, lora, trained, further)
        return self

    def with_full(
        self,
        frozen_dtype: torch.dtype,
        needs_reference: bool = True,
        trained: tuple[str, ...] = ("trainee",),
        start: FilePath | None = None,
        frozen: Mapping[str, FilePath | None] = {},
    ) -> Backbone:
        """Train the whole network, once a policy, beside a frozen copy (none when no reference is asked for).

        `start` and `frozen` as in `with_lora`, of runs in full and adapters alike: their weights are put on the network
        and on frozen copies of it.
        """
        self._place(self.denoiser_part)
        self._check_runs(start, *frozen.values())
        network, part, kind = self.network.float(), self.denoiser_part, type(self.pipe)
        further = {name: run and put_on(copy.deepcopy(network), run, part, kind) for name, run in frozen.items()}
        if start is not None:
            put_on(network, start, part, kind)
        self.policies = FullPolicies(network, frozen_dtype, needs_reference, trained, further)
        return self

    def _check_runs(self, *runs: FilePath | None) -> None:
        for run in filter(None, runs):
            RunFolder(run).check(self.denoiser_part, self.source)

    def feed_guidance(self, scale: float) -> None:
        """Feed this scale to a network that takes guidance as an input, wherever `predict` is asked.

        Raises `UserError` for the others.
        """
        if not self.family.takes_guidance(self.network.config):
            raise UserError(
                f"distilled_guidance: {self.source.model} takes no guidance as an input; leave the setting out"
            )
        self._fed = scale

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Condition:
        """What the denoiser reads of each prompt; padding is cut off where the network masks it."""
        self._place(*self.encoder_parts)
        return self.family.read(self.pipe, list(prompts), self.device, self.tokens)

    @torch.no_grad()
    def unconditional(self, negative_prompt: str | None = None) -> Condition:
        """What the denoiser reads where there is no prompt, or a negative one (it may be "") in its place, one row."""
        self._place(*self.encoder_parts)
        return self.family.read_unconditional(self.pipe, negative_prompt, self.device, self.tokens)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents [b, c, h, w] of images [b, 3, H, W] in -1..1, in the denoiser's scale: (mean - shift) * factor."""
        vae = self._autoencoder()
        encoded = vae.encode(images.to(vae.device, vae.dtype))
        latents = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latent
        shift, factor = self._scale_like(latents)
        return (latents - shift) * factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [b, 3, H, W] in -1..1 of latents."""
        vae = self._autoencoder()
        latents = latents.to(vae.device, vae.dtype)
        shift, factor = self._scale_like(latents)
        return vae.decode(latents / factor + shift).sample

    def _scale_like(self, latents: Tensor) -> tuple[Any, Any]:
        """The family's `latent_scale` where and how these latents are."""
        shift, factor = self.family.latent_scale(self.pipe)
        if isinstance(shift, Tensor):
            return shift.to(latents), factor.to(latents)
        return shift, factor

    def predict(self, policy: str, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The policy's prediction in the backbone's space."""
        denoiser, dtype = self.policies.denoiser(policy), self.policies.dtype(policy)
        return self.denoise(denoiser, x_t.to(dtype), t, _cast(condition, dtype))

    def denoise(
        self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Condition, fed: float | None = None
    ) -> Tensor:
        """One call of a network, in `space`; `fed` is the guidance that it may take as an input, else training's."""
        return self.family.denoise(self.pipe, network, x_t, t, condition, self._fed if fed is None else fed)

    @torch.no_grad()
    def guided(self, x_t: Tensor, t: Tensor, condition: Condition, unconditional: Condition, scale: float) -> Tensor:
        """u + s (c - u) in the backbone's space, both asked of the pipeline's own network in one call.

        `unconditional` is one row; at s = 1 it is not asked, and nor is it by a network that is fed s as an input.
        """
        self._place(self.denoiser_part)
        x_t, condition = x_t.to(self.device, self.dtype), _cast(condition, self.dtype, self.device)
        if self.family.unconditional_rows == "none":
            return self.denoise(self.network, x_t, t, condition, fed=scale)
        if scale == 1:
            return self.denoise(self.network, x_t, t, condition)
        none = {name: value.expand(len(x_t), *value.shape[1:]) for name, value in unconditional.items()}
        both = join([_cast(none, self.dtype, self.device), condition])
        u, c = self.denoise(self.network, torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return u + scale * (c - u)

    def generate(self, generation: Generation, output: Literal["latent", "pil", "np"] = "latent") -> Any:
        """What the stock pipeline makes of this noise: latents [b, c, h, w] in the denoiser's scale, or images."""
        self._place(self.denoiser_part, *(() if output == "latent" else ("vae",)))
        height, width = generation.noise.shape[-2:]
        conditions = (_cast(c, self.dtype, self.device) for c in (generation.condition, generation.unconditional))
        made = self.pipe(
            **self.family.call_arguments(*conditions, generation.guidance_scale, self.tokens),
            latents=self.family.pack(self.pipe, generation.noise.to(self.device), self.dtype),
            generator=generation.streams,
            num_inference_steps=generation.steps,
            height=height * self.unit,
            width=width * self.unit,
            output_type=output,
        ).images
        return self.family.unpack(self.pipe, made, height, width) if output == "latent" else made

    def save(self, folder: FilePath, notes: Mapping[str, str] | None = None, whole: bool = True) -> None:
        """What was trained in the form that stock diffusers loads: adapters, or a whole pipeline folder `model/`.

        `notes` go into the adapters' file beside their rank and alpha. Several policies have a folder each. Where not
        `whole`, `model/` holds the denoiser alone.
        """
        part, base = self.denoiser_part, FilePath(self.source.model).name
        for policy, where in self._below(folder).items():
            if isinstance(self.policies, LoraPolicies):
                state, config = self.policies.state(policy), self.policies.config
                saving.save_lora(where, state, config, part, notes or {}, type(self.pipe))
            elif whole:
                rest = open_pipeline(self.source, type(self.pipe), leave_out=(part, *self.family.unused_parts))
                saving.save_full(where, rest, part, self.policies.denoiser(policy), base)
            else:
                saving.save_network(where, part, self.policies.denoiser(policy), base)

    def saved(self, folder: FilePath) -> dict[str, dict[str, Tensor]]:
        """By policy, the weights that `save` wrote, as `policies.load_state` takes them."""
        return {p: saving.read_saved(where, self.denoiser_part) for p, where in self._below(folder).items()}

    def _below(self, folder: FilePath) -> dict[str, FilePath]:
        trained = self.policies.trained
        return {policy: folder if len(trained) == 1 else folder / policy for policy in trained}

    @property
    def encoder_parts(self) -> tuple[str, ...]:
        """The text encoders' names in the pipeline."""
        return tuple(name for name in self.pipe.components if name.startswith("text_encoder"))

    @property
    def encoder_bytes(self) -> int:
        """Bytes that the text encoders take."""
        modules = [m for m in (getattr(self.pipe, name) for name in self.encoder_parts) if m is not None]
        return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())

    def release_encoders(self, keep_text: bool = False) -> None:
        """Drop text encoders and autoencoder from memory; `embed`, `encode` and `decode` are gone after this."""
        self._text_settings = self.text_settings  # while there are encoders to tell
        release(self.pipe, ("vae",) if keep_text else (*self.encoder_parts, "vae"))

    def _place(self, *parts: str) -> None:
        """Move parts to the device when they are first needed; a quantised one is there since it was loaded."""
        for name in parts:
            module = getattr(self.pipe, name)
            if module is not None and module.device != self.device and not getattr(module, "is_quantized", False):
                module.to(self.device)

    def _autoencoder(self) -> nn.Module:
        self._place("vae")
        if self.pipe.vae.dtype == torch.float16 and self.pipe.vae.config.get("force_upcast"):
            self.pipe.vae.to(torch.float32)
        return self.pipe.vae


def _cast(condition: Condition, dtype: torch.dtype, device: torch.device | None = None) -> Condition:
    """The same condition in another precision; lengths are whole numbers and stay where they are."""
    return {n: v.to(device, dtype) if v.is_floating_point() else v for n, v in condition.items()}
