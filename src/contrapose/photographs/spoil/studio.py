"""What every kind of spoiling works with: a model, its text embeddings, and what is loaded once for all photographs.

All photographs of one call have one size. Every image has a random stream of its own, so that what becomes of it does
not depend on those beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contrapose.backbones.base import Backbone
from contrapose.backbones.coherence import check_space
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.generation import Generation
from contrapose.core.solver import grid, trajectory
from contrapose.pixels import to_pixels, to_tensor
from contrapose.seeds import generator, starting_noise

T = TypeVar("T")
Streams = list[torch.Generator]


class Studio:
    """A model with its sampling settings; steps and guidance scale are the family's usual ones where not given."""

    def __init__(
        self,
        backbone: Backbone,
        embeddings: Embeddings,
        steps: int | None = None,
        guidance_scale: float | None = None,
    ):
        self.backbone = backbone
        self.embeddings = embeddings
        self.steps = backbone.sampler.steps if steps is None else steps
        self.guidance_scale = backbone.sampler.guidance_scale if guidance_scale is None else guidance_scale
        self._kept: dict[tuple[Any, ...], Any] = {}

    def streams(self, captions: Sequence[str], seeds: Sequence[int]) -> Streams:
        """The random stream of each image, by its caption and its seed alone."""
        return [generator(caption, seed) for caption, seed in zip(captions, seeds, strict=True)]

    def encode(self, photos: Sequence[Image.Image]) -> Tensor:
        """Latents [b, c, h, w] of photographs, float32; `UserError` for a size that the model cannot make."""
        self.shape_of(photos[0])
        pixels = np.stack([np.asarray(photo) for photo in photos])
        return self.backbone.images.encode(to_tensor(pixels)).float().to(self.backbone.device)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """RGB images of latents."""
        images = self.backbone.images.decode(latents).float().cpu()
        return [Image.fromarray(pixels) for pixels in to_pixels(images)]

    def shape_of(self, photo: Image.Image) -> tuple[int, ...]:
        """The shape of a photograph's latent; `UserError` for a size that the model cannot make."""
        return self.backbone.images.shape_for(f"{photo.width}x{photo.height}")

    def walk(
        self,
        data: Tensor,
        captions: Sequence[str | None],
        streams: Streams,
        share: float,
        scale: float,
        steps: int | None = None,
        amend: Callable[[Tensor], Tensor] = lambda x0: x0,
    ) -> Tensor:
        """Latents with noise added up to this share of the way (0 data, 1 noise), walked back down to data.

        The model denoises under the captions (None is no caption) with DPM-Solver++(2M), and `amend` changes what it
        takes the data to be. The share is rounded to a whole number of the steps, of which so many are taken.
        """
        backbone = self.backbone
        shape = data.shape[1:]
        path = backbone.denoiser.noising(shape)
        # only the steps below the share are taken, of a grid that goes all the way
        shares = grid(self.steps if steps is None else steps, torch.ones(len(data)), share)
        times = path.times(shares).to(data.device)
        check_space(backbone.denoiser, "x0", times.flatten())
        noise = starting_noise(streams, shape).to(data.device)
        condition = self.embeddings(captions)
        unconditional = self.embeddings.unconditional()

        def denoised(x_t: Tensor, t: Tensor) -> Tensor:
            predicted = backbone.sampler.guided(x_t, t, condition, unconditional, scale).float()
            return amend(path.convert(predicted, x_t, t, backbone.denoiser.space, "x0"))

        *_, last = trajectory(path, times, path.add_noise(data, noise, times[0]), denoised)
        return last.x0

    def draw(self, captions: Sequence[str], streams: Streams, shape: tuple[int, ...]) -> Tensor:
        """Latents [b, c, h, w] that the stock pipeline draws from the captions."""
        condition = self.embeddings(captions)
        unconditional = self.embeddings.unconditional()
        noise = starting_noise(streams, shape)
        generation = Generation(condition, unconditional, noise, streams, self.steps, self.guidance_scale)
        return self.backbone.sampler.generate(generation).float()

    def once(self, load: Callable[..., T], *arguments: Any) -> T:
        """What `load` makes of these arguments, made when it is first asked for and kept."""
        key = (load, *arguments)
        if key not in self._kept:
            self._kept[key] = load(*arguments)
        return cast(T, self._kept[key])
