"""From data to noise: x_t = a(t) x0 + s(t) eps, and the four spaces in which a network may predict.

Every prediction is a mix of data and noise, p = x x0 + e eps, with (x, e) from the table below; together with x_t it
determines both, so one formula converts between any two spaces:

    p_to = alpha x_t + gamma p_from,   gamma = det(x_t, to) / det(x_t, from),   alpha = det(to, from) / det(x_t, from)

where det(p, q) = p.x q.e - p.e q.x and x_t stands for its own mix (a, s).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from contrapose.core.choices import Density, Space

if TYPE_CHECKING:
    from jaxtyping import Float, Num

Mix = tuple[Tensor, Tensor]  # the shares of x0 and of eps


def _mix(space: Space, a: Tensor, s: Tensor) -> Mix:
    """How a space's prediction is made of data and noise."""
    zeros = torch.zeros_like(a)
    ones = torch.ones_like(a)
    table: dict[Space, Mix] = {
        "x0": (ones, zeros),
        "eps": (zeros, ones),
        "v": (-s, a),  # Salimans & Ho 2022, eq. 3: v = a eps - s x0
        "velocity": (-ones, ones),  # rectified flow: dx_t / dt = eps - x0
    }
    return table[space]


def _det(p: Mix, q: Mix) -> Tensor:
    # zero where one of both tells nothing about the other: eps and x_t at pure noise, for one
    return p[0] * q[1] - p[1] * q[0]


def per_sample(value: Num[Tensor, " b"], like: Float[Tensor, "b ..."]) -> Tensor:
    """A number for each sample in the shape in which it multiplies samples."""
    return value.view(-1, *[1] * (like.ndim - 1))


class Path(ABC):
    """A noising path; t = 0 is data and the largest t is noise."""

    @abstractmethod
    def coefficients(self, t: Num[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """a(t) and s(t) of x_t = a x0 + s eps."""

    @abstractmethod
    def level(self, t: Num[Tensor, " b"]) -> Float[Tensor, " b"]:
        """t as a share of the way from data (0) to noise (1)."""

    @abstractmethod
    def at_level(self, level: float, count: int) -> Num[Tensor, " count"]:
        """The time that lies this share of the way from data to noise, `count` times."""

    @abstractmethod
    def times(self, shares: Float[Tensor, "*grid"]) -> Num[Tensor, "*grid"]:
        """A sampler's times at these shares of its way from data (0) to noise (1)."""

    @abstractmethod
    def draw_times(self, count: int, generator: torch.Generator | None = None) -> Num[Tensor, " count"]:
        """Training times for `count` groups."""

    @abstractmethod
    def times_by(self, draws: Float[Tensor, " count"]) -> Num[Tensor, " count"]:
        """The training times that numbers between 0 and 1 pick by the path's density: uniform ones draw from it."""

    def add_noise(
        self, x0: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."], t: Num[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """x_t = a(t) x0 + s(t) eps."""
        a, s = self.coefficients(t)
        return per_sample(a, x0) * x0 + per_sample(s, x0) * eps

    def truth(
        self, x0: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."], t: Num[Tensor, " b"], space: Space
    ) -> Float[Tensor, "b ..."]:
        """What a network of this space should predict where data and noise are known."""
        of_data, of_noise = _mix(space, *self.coefficients(t))
        return per_sample(of_data, x0) * x0 + per_sample(of_noise, x0) * eps

    def convert(
        self,
        prediction: Float[Tensor, "b ..."],
        x_t: Float[Tensor, "b ..."],
        t: Num[Tensor, " b"],
        source: Space,
        to: Space,
    ) -> Float[Tensor, "b ..."]:
        """The same prediction in another space: p_to = alpha x_t + gamma p_from.

        Undefined (division by zero) where x_t does not carry what is asked for: eps at t = 0, x0 at pure noise.
        """
        # to the bit, which the formula below would not be
        if source == to:
            return prediction
        # Cramer's rule: p_to is the mix of x_t and p_from that has `want` as its shares of data and noise
        here = self.coefficients(t)
        have = _mix(source, *here)
        want = _mix(to, *here)
        gamma = _det(here, want) / _det(here, have)
        alpha = _det(want, have) / _det(here, have)
        return per_sample(alpha, x_t) * x_t + per_sample(gamma, x_t) * prediction

    def converts(self, source: Space, to: Space, t: Num[Tensor, " b"]) -> bool:
        """Whether predictions in the one space tell the other at all of these times, so that `convert` is defined."""
        here = self.coefficients(t)
        return source == to or bool((_det(here, _mix(source, *here)) != 0).all())


def _draw_share(density: Density, count: int, generator: torch.Generator | None) -> Float[Tensor, " count"]:
    """A share u of the way from data (0) to noise (1), by a density.

    uniform; logit-normal(0, 1) (Esser et al. 2024, eq. 19); linear, p(u) = 2 (1 - u), mostly near the data; sigmoid,
    p(u) ~ sigma(20 (u - 0.7)), mostly near the noise (both in DDSPO's code).
    """
    if density == "logit-normal":
        return torch.randn(count, generator=generator).sigmoid()
    return _quantile(density, torch.rand(count, generator=generator))


def _quantile(density: Density, r: Float[Tensor, " count"]) -> Float[Tensor, " count"]:
    """The u below which a share r of a density lies."""
    if density == "logit-normal":
        deviates: Tensor = torch.special.ndtri(r)
        return deviates.sigmoid()
    if density == "linear":
        return 1 - (1 - r).sqrt()
    if density == "sigmoid":
        return _sigmoid_quantile(r)
    return r


def _sigmoid_quantile(r: Float[Tensor, " count"]) -> Float[Tensor, " count"]:
    """The u below which a share r of p(u) ~ sigma(k (u - c)) lies, k = 20 and c = 0.7.

    The integral of p is softplus(k (u - c)) / k, and the inverse of softplus is log(exp(y) - 1).
    """
    steepness = 20.0
    centre = 0.7
    softplus = torch.nn.functional.softplus
    # in float64, since the lower end lies at softplus(-14), 8e-7, beside 6 at the upper one
    ends = steepness * (torch.tensor([0.0, 1.0], dtype=torch.float64) - centre)
    below, above = softplus(ends)
    integral = torch.lerp(below, above, r.double())
    return (centre + integral.expm1().log() / steepness).clamp(0, 1).float()


def shifted_table(shift: float, steps: int = 1000) -> Float[Tensor, " steps"]:
    """A flow scheduler's own times, from noise to data: t = shift u / (1 + (shift - 1) u), u = 1 ... 1 / steps.

    Esser et al. 2024, eq. 23: large images need more of their times near the noise. A scheduler with dynamic shifting
    has shift = exp(mu).
    """
    u = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    return (shift * u / (1 + (shift - 1) * u)).float()


@dataclass(frozen=True, eq=False)
class DiffusionPath(Path):
    """The discrete DDPM path: a = sqrt(abar_t), s = sqrt(1 - abar_t), integer t in 0..T-1 (Ho et al. 2020, eq. 4)."""

    alphas_cumprod: Float[Tensor, " steps"]
    density: Density = "uniform"

    def coefficients(self, t: Num[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        # or the host would wait for the device at every call, to copy a table that lies with it
        abar = self.alphas_cumprod.to(t.device, non_blocking=True)[t]
        return abar.sqrt(), (1 - abar).sqrt()

    def level(self, t: Num[Tensor, " b"]) -> Float[Tensor, " b"]:
        return t.float() / (len(self.alphas_cumprod) - 1)

    def at_level(self, level: float, count: int) -> Num[Tensor, " count"]:
        return torch.full((count,), round(level * (len(self.alphas_cumprod) - 1)))

    def times(self, shares: Float[Tensor, "*grid"]) -> Num[Tensor, "*grid"]:
        # floor(u T), with u = 1, pure noise, at the last of the T times
        steps = len(self.alphas_cumprod)
        return (shares * steps).long().clamp(max=steps - 1)

    def draw_times(self, count: int, generator: torch.Generator | None = None) -> Num[Tensor, " count"]:
        """Integers in 0..T-1, uniform in all published runs of the DPO family."""
        if self.density == "uniform":
            return torch.randint(len(self.alphas_cumprod), (count,), generator=generator)
        return self.times(_draw_share(self.density, count, generator))

    def times_by(self, draws: Float[Tensor, " count"]) -> Num[Tensor, " count"]:
        return self.times(_quantile(self.density, draws))


@dataclass(frozen=True, eq=False)
class FlowPath(Path):
    """Rectified flow: a = 1 - t, s = t, real t in 0..1.

    Times are drawn by `density`; with a `table` (a scheduler's own times, from noise to data) the draw u picks the
    entry floor(u T), as the authors' trainers do, and without one it is the time itself. Densities that tell data from
    noise count the table's entries from the data.
    """

    density: Density = "uniform"
    table: Float[Tensor, " steps"] | None = None

    def coefficients(self, t: Num[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        return 1 - t, t

    def level(self, t: Num[Tensor, " b"]) -> Float[Tensor, " b"]:
        return t

    def at_level(self, level: float, count: int) -> Num[Tensor, " count"]:
        return torch.full((count,), level)

    def times(self, shares: Float[Tensor, "*grid"]) -> Num[Tensor, "*grid"]:
        # the table goes from noise to data, and shares from data to noise
        return shares if self.table is None else self._entry(1 - shares)

    def draw_times(self, count: int, generator: torch.Generator | None = None) -> Num[Tensor, " count"]:
        return self._at(_draw_share(self.density, count, generator))

    def times_by(self, draws: Float[Tensor, " count"]) -> Num[Tensor, " count"]:
        return self._at(_quantile(self.density, draws))

    def _at(self, u: Float[Tensor, " count"]) -> Float[Tensor, " count"]:
        """The time that a draw of the density picks."""
        if self.table is None:
            return u
        is_symmetric = self.density in ("uniform", "logit-normal")
        return self._entry(u) if is_symmetric else self.times(u)

    def _entry(self, u: Float[Tensor, "*grid"]) -> Float[Tensor, "*grid"]:
        """The table's entry floor(u T)."""
        assert self.table is not None
        return self.table[(u * len(self.table)).long().clamp(max=len(self.table) - 1)]
