"""The tiny backbone of the Gaussians world: a conditional MLP that predicts the noise of 2-D points."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from contrapose.core.choices import Space
from contrapose.core.group import Condition
from contrapose.core.path import DiffusionPath
from contrapose.worlds.gaussians.modes import Labels, Points

if TYPE_CHECKING:
    from jaxtyping import Float

NUM_STEPS = 100


def diffusion_path() -> DiffusionPath:
    """The linear schedule of Ho et al. 2020, in a tenth of its steps."""
    betas = torch.linspace(1e-3, 0.2, NUM_STEPS, dtype=torch.float64)
    return DiffusionPath((1 - betas).cumprod(0).float())


class ToyDenoiser(nn.Module):
    """eps_theta(x_t, t, c): three hidden layers over the point, Fourier features of time and a class embedding."""

    frequencies: Tensor
    """Of the Fourier features: pi, 2 pi, ..., 16 pi."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, 16)
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(5))
        layers: list[nn.Module] = []
        # the point, sine and cosine of five frequencies, and the class
        for inputs in (2 + 10 + 16, width, width):
            layers += [nn.Linear(inputs, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x_t: Points, t: Tensor, label: Labels) -> Points:
        phase = t.float()[:, None] / NUM_STEPS * self.frequencies
        predicted: Points = self.layers(torch.cat([x_t, phase.sin(), phase.cos(), self.embedding(label)], 1))
        return predicted


class ToyBackbone:
    """Named policies of one denoiser; its condition is the class label."""

    space: Space = "eps"

    def __init__(self, reference: ToyDenoiser, **frozen: ToyDenoiser) -> None:
        self.path = diffusion_path()
        self.policies = {name: policy.requires_grad_(False) for name, policy in frozen.items()}
        self.policies |= {"reference": reference.requires_grad_(False), "trainee": copy.deepcopy(reference)}
        self.policies["trainee"].requires_grad_(True)

    @torch.no_grad()
    def follow(self, policy: str, kept: float) -> None:
        """Move a policy to the trainee, but for the share of its own weights that is kept; a new one is a copy."""
        trainee = self.policies["trainee"]
        if policy not in self.policies:
            self.policies[policy] = copy.deepcopy(trainee).requires_grad_(False)
        for moved, source in zip(self.policies[policy].parameters(), trainee.parameters(), strict=True):
            moved.copy_(torch.lerp(source, moved, kept))

    def predict(self, policy: str, x_t: Points, t: Tensor, condition: Condition) -> Points:
        return self.policies[policy](x_t, t, condition["label"])


@torch.no_grad()
def sample(
    predict: Callable[[Points, Tensor, Labels], Points], labels: Labels, random: torch.Generator, num_steps: int = 50
) -> Points:
    """Points of the given conditions by DDIM (Song et al. 2020, eq. 12 with eta 0): x_s = a_s x0hat + s_s epshat."""
    path = diffusion_path()
    x_t = torch.randn(len(labels), 2, generator=random)
    times = torch.linspace(NUM_STEPS - 1, 0, num_steps).round().long()
    # the last step, from time 0, ends at the clean point itself
    for now, after in zip(times, [*times[1:], None], strict=True):
        t = now.repeat(len(labels))
        eps = predict(x_t, t, labels)
        x0: Float[Tensor, "n 2"] = path.convert(eps, x_t, t, "eps", "x0")
        # eta is 0: the noise that was predicted is added back, at the next time's level
        x_t = x0 if after is None else path.add_noise(x0, eps, after.repeat(len(labels)))
    return x_t
