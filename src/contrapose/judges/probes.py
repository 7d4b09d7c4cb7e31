"""Judges that need no network but the model's own: its latents are noised again, and it is asked what it sees.

Such a judge looks at latents where they are of its own model, and at images through that model's autoencoder elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contrapose.backbones.base import Backbone
from contrapose.backbones.pipeline import cast
from contrapose.core.choices import Space
from contrapose.core.group import Condition, join
from contrapose.core.objective import Predict
from contrapose.core.path import Path
from contrapose.core.reward import at_least_single, mean_square
from contrapose.errors import UserError
from contrapose.judges.judge import Decode, Marks
from contrapose.pixels import to_tensor
from contrapose.seeds import generator, starting_noise
from contrapose.store.prompts import Prompt


@dataclass(frozen=True, eq=False)
class AskedModel:
    """A model as such a judge asks it."""

    predict: Predict
    space: Space
    """What it predicts, where errors are measured."""
    noising: Callable[[Sequence[int]], Path]
    """The noising path of latents of a shape."""
    read: Callable[[Sequence[str]], Condition]
    """What it reads of prompts."""
    encode: Callable[[Tensor], Tensor]
    """Latents of images [b, 3, H, W] in -1..1."""
    side: int
    """Images' sides are multiples of this."""
    device: torch.device

    @classmethod
    def of(cls, backbone: Backbone, predict: Predict) -> AskedModel:
        """A loaded model, by the predictions of policies on it."""
        images = backbone.images
        denoiser = backbone.denoiser

        def read(texts: Sequence[str]) -> Condition:
            return cast(backbone.text.embed(texts), denoiser.dtype, backbone.device)

        side = images.unit * images.patch
        return cls(predict, denoiser.space, denoiser.noising, read, images.encode, side, backbone.device)

    def latents(self, image: Image.Image) -> Tensor:
        """The latent [1, ...] of an image, whose sides are brought to the nearest multiples of `side`."""
        width, height = (max(1, round(length / self.side)) * self.side for length in image.size)
        fitted = image.convert("RGB")
        if fitted.size != (width, height):
            fitted = fitted.resize((width, height), Image.Resampling.LANCZOS)
        return self.encode(to_tensor(np.array(fitted))[None].to(self.device))


@dataclass(frozen=True, eq=False)
class Probes:
    """`num` noises at each of some times, two by two each other's opposites, which depend on the prompt alone.

    So the samples of one prompt are looked at under the same noises.
    """

    shares: Tensor
    """The times, as shares of the way from data (0) to noise (1)."""
    num: int
    rows: int
    """Of one batch of the model's."""

    @torch.no_grad()
    def errors(self, model: AskedModel, policies: Sequence[str], latent: Tensor, text: str) -> Tensor:
        """mse(truth, policy) [policies, times, num] of one latent, in float64 on the CPU."""
        path = model.noising(latent.shape)
        num_times = len(self.shares)
        half = [generator("probe", text, number) for number in range(num_times * self.num // 2)]
        noise = starting_noise(half, tuple(latent.shape)).unflatten(0, (num_times, -1))
        # [times, num, ...], a time's noises and then their opposites, as rows one after the other
        noise = torch.cat([noise, -noise], 1).flatten(0, 1).to(model.device)
        t = path.times(self.shares.repeat_interleave(self.num)).to(model.device)
        condition = model.read([text])
        errors: list[Tensor] = []
        for eps, at in zip(noise.split(self.rows), t.split(self.rows), strict=True):
            x0 = latent.to(model.device, eps.dtype).expand(len(at), *latent.shape)
            x_t = path.add_noise(x0, eps, at)
            truth = path.truth(x0, eps, at, model.space)
            seen = join([condition] * len(at))
            answers = [at_least_single(model.predict(policy, x_t, at, seen)) for policy in policies]
            errors.append(torch.stack([mean_square(truth - answer) for answer in answers]))
        return torch.cat(errors, 1).double().cpu().unflatten(1, (num_times, self.num))


@dataclass(frozen=True, eq=False)
class ProbingJudge:
    """A judge of one number, the larger the better, made of what a model's probes come to."""

    name: str
    version: str
    model: AskedModel
    policies: tuple[str, ...]
    probes: Probes
    measure: Callable[[Tensor, Tensor], Tensor]
    """The number, of errors [policies, times, num] and the times' noise levels [times]."""
    knows_latents: bool
    """Whether the latents that it is given are of its own model."""

    @property
    def higher_is_better(self) -> dict[str, bool]:
        return {self.name: True}

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        return self._marks([self.model.latents(image)[0] for image in images], prompts)

    def of_latents(self, latents: Tensor, prompts: Sequence[Prompt], decode: Decode) -> dict[str, Marks]:
        return self._marks(list(latents), prompts) if self.knows_latents else self(decode(latents), prompts)

    def _marks(self, latents: Sequence[Tensor], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        numbers: list[float] = []
        for latent, prompt in zip(latents, prompts, strict=True):
            path = self.model.noising(latent.shape)
            levels = path.level(path.times(self.probes.shares)).double()
            errors = self.probes.errors(self.model, self.policies, latent, prompt.text)
            numbers.append(float(self.measure(errors, levels)))
        if not np.isfinite(numbers).all():
            raise UserError(f"{self.name}: a score is not a number; use precision fp32")
        return {self.name: Marks(np.array(numbers))}
