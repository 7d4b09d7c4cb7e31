"""The part of a backbone that makes images: the stock pipeline, asked with embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from contrapose.backbones.denoiser import Denoiser
from contrapose.backbones.generation import Generation
from contrapose.backbones.pipeline import LoadedPipeline, cast
from contrapose.backbones.precision import precision_of
from contrapose.core.group import Condition, join
from contrapose.errors import UserError

Settings = TypeVar("Settings", bound=Any)  # a dataclass with `steps`, `guidance_scale` and `precision`


class Sampler:
    """The stock pipeline, which asks its own network, whatever is loaded on it."""

    def __init__(self, pipeline: LoadedPipeline, denoiser: Denoiser):
        self._pipeline = pipeline
        self._denoiser = denoiser

    @property
    def stock(self) -> DiffusionPipeline:
        """The stock pipeline itself, for what works on any."""
        return self._pipeline.stock

    @property
    def scheduler(self) -> str:
        """The class of the stock pipeline's scheduler, by name."""
        return type(self._pipeline.stock.scheduler).__name__

    @property
    def steps(self) -> int:
        """Usual sampling steps."""
        return self._pipeline.family.steps

    @property
    def guidance_scale(self) -> float:
        """Usual guidance scale."""
        return self._pipeline.family.guidance_scale

    def checked_scale(self, asked: float | None) -> float:
        """The guidance scale that is asked for, or the usual one; `UserError` for one that the pipeline does not take.

        Stock pipelines guide at a scale above 1 alone, so that one between 0 and 1 would be drawn as 1 is, but for
        those that feed it to the network.
        """
        scale = self.guidance_scale if asked is None else asked
        family = self._pipeline.family
        model = self._pipeline.source.model
        if family.unguided(self._pipeline.stock) and scale not in (0, 1, self.guidance_scale):
            raise UserError(f"guidance scale {scale:g}: {model} takes no guidance; leave the setting out")
        if 0 < scale < 1 and family.unconditional_rows != "none":
            raise UserError(
                f"guidance scale {scale:g}: {model} is guided above 1 alone, and would be drawn without guidance; take "
                "1 for that"
            )
        return scale

    def with_usual(self, settings: Settings) -> Settings:
        """The settings of a sampler with steps, guidance scale and precision, the model's own where they are unset.

        Raises `UserError` as `checked_scale` does, and for one step of a scheduler that ends at a time of its own.
        """
        steps = self.steps if settings.steps is None else settings.steps
        scale = self.checked_scale(settings.guidance_scale)
        if steps == 1 and self._pipeline.stock.scheduler.config.get("shift_terminal"):
            # times are stretched by the way from the first to the last, which is no way at all
            raise UserError(f"steps 1: {self._pipeline.source.model} has a scheduler that needs two steps or more")
        precision = settings.precision or precision_of(self._pipeline.dtype)
        return replace(settings, steps=steps, guidance_scale=scale, precision=precision)

    def generate(self, generation: Generation, output: Literal["latent", "pil", "np"] = "latent") -> Any:
        """What the stock pipeline makes of this noise: latents [b, c, h, w] in the denoiser's scale, or images."""
        pipeline = self._pipeline
        family = pipeline.family
        pipeline.place(self._denoiser.part)
        if output != "latent":
            pipeline.place("vae")
        height, width = generation.noise.shape[-2:]
        condition = cast(generation.condition, pipeline.dtype, pipeline.device)
        unconditional = cast(generation.unconditional, pipeline.dtype, pipeline.device)
        stock: Any = pipeline.stock  # each family's pipeline has a signature of its own
        images = stock(
            **family.call_arguments(condition, unconditional, generation.guidance_scale, pipeline.tokens),
            latents=family.pack(stock, generation.noise.to(pipeline.device), pipeline.dtype),
            generator=generation.streams,
            num_inference_steps=generation.steps,
            height=height * pipeline.unit,
            width=width * pipeline.unit,
            output_type=output,
        ).images
        return family.unpack(stock, images, height, width) if output == "latent" else images

    @torch.no_grad()
    def guided(self, x_t: Tensor, t: Tensor, condition: Condition, unconditional: Condition, scale: float) -> Tensor:
        """What the stock pipeline makes of u and c, mostly u + s (c - u), both asked of its own network in one call.

        `unconditional` is one row; at s = 1 it is not asked, and nor is it by a network that is fed s as an input.
        """
        pipeline = self._pipeline
        denoiser = self._denoiser
        network = denoiser.network
        pipeline.place(denoiser.part)
        x_t = x_t.to(pipeline.device, pipeline.dtype)
        condition = cast(condition, pipeline.dtype, pipeline.device)
        if pipeline.family.unconditional_rows == "none":
            return denoiser.denoise(network, x_t, t, condition, fed=scale)
        if scale == 1:
            return denoiser.denoise(network, x_t, t, condition)
        none = {name: value.expand(len(x_t), *value.shape[1:]) for name, value in unconditional.items()}
        # those without a prompt first, as they are taken apart again below
        both = join([cast(none, pipeline.dtype, pipeline.device), condition])
        u, c = denoiser.denoise(network, torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return pipeline.family.combine(pipeline.stock, u, c, scale)
