"""Walks: what a policy makes of a group's samples before anything is compared.

A walk asks its policy without gradient, step after step, and gives the group back with other states of its samples. It
needs no randomness but the normal numbers that come with each sample, so that it goes the same way however the work
is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from contrapose.core.choices import Space
from contrapose.core.group import Condition, Group, Sample, join
from contrapose.core.path import Path, per_sample
from contrapose.core.reward import at_least_single

if TYPE_CHECKING:
    from jaxtyping import Float, Num

PolicyCall = Callable[[str, Tensor, Tensor, Condition], Tensor]  # policy, x_t, t, condition -> its prediction


@runtime_checkable
class Walk(Protocol):
    """Other states of a group's samples, by a policy's own predictions."""

    @property
    def policy(self) -> str:
        """The policy that is asked."""

    @property
    def num_calls(self) -> int:
        """Predictions that it takes for each sample."""

    @property
    def num_draws(self) -> int:
        """Normal draws of each sample's own that it takes."""

    def __call__(self, group: Group, path: Path, space: Space, predict: PolicyCall) -> Group:
        """The group with these states in place of those that it had; predictions are in `space`."""


@dataclass(frozen=True)
class Inversion:
    """Noise by inversion of DDIM (Song et al. 2020, eq. 13): where the policy itself would have begun each sample.

    From data to the group's time t in n equal steps, each from time s to time u:

        e = eps(x_s, told u, c)     x_u = a(u) (x_s - s(s) e) / a(s) + s(u) e     noise = (x_t - a(t) x0) / s(t) at last

    `renoise` asks once more at the x_u that was reached and takes the mean of both e (ReNoise, Garibi et al. 2024).
    `eta` adds eta sigma z to every x_u, sigma being the deviation of DDPM's step to u from one step beyond it. At
    t = 0, where nothing has been added, a sample keeps the noise that it came with.

    Samples have noise of their own in this way, and are still at one time.
    """

    num_steps: int
    eta: float = 0.0
    renoise: bool = False
    policy: str = "trainee"

    @property
    def num_calls(self) -> int:
        return self.num_steps * (2 if self.renoise else 1)

    @property
    def num_draws(self) -> int:
        return self.num_steps if self.eta else 0

    def __call__(self, group: Group, path: Path, space: Space, predict: PolicyCall) -> Group:
        samples = list(group.samples.values())
        rows = Stacked.of(group, samples, path, space, predict)
        x0 = torch.cat([sample.latent for sample in samples])
        x = x0
        here = torch.zeros_like(rows.t)
        for number in range(1, self.num_steps + 1):
            after = _part(rows.t, number, self.num_steps)
            x = self._step(rows, x, here, after)
            if self.eta:
                deviation = self._deviation(rows, after, number)
                x = x + per_sample(deviation, x) * torch.cat([sample.draw(number - 1) for sample in samples])
            here = after
        # the one noise that takes the data straight to where the walk ended
        a, s = rows.path.coefficients(rows.t)
        inverted = (x - per_sample(a, x) * x0) / per_sample(s, x)
        came_with = torch.cat([sample.noise for sample in samples])
        noise = torch.where(per_sample(rows.t, x) == 0, came_with, inverted)
        chunks = noise.chunk(len(samples))
        moved = {}
        for (name, sample), of_sample in zip(group.samples.items(), chunks, strict=True):
            moved[name] = replace(sample, noise=of_sample)
        return replace(group, samples=moved)

    def _step(self, rows: Stacked, x: Tensor, here: Tensor, after: Tensor) -> Float[Tensor, "b ..."]:
        """x_u from x_s."""
        # told the time that is stepped to, as DDIM run backwards asks for the noise at a state that is not there yet
        eps = rows.eps(self.policy, x, here, asked_at=after)
        reached = rows.carried(x, eps, here, after)
        if not self.renoise:
            return reached
        again = rows.eps(self.policy, reached, after, asked_at=after)
        return rows.carried(x, (eps + again) / 2, here, after)

    def _deviation(self, rows: Stacked, after: Tensor, number: int) -> Float[Tensor, " b"]:
        """sigma of DDPM's step to u from v beyond: sigma^2 = s_u^2 / s_v^2 (s_v^2 - (a_v / a_u)^2 s_u^2)."""
        end = rows.path.at_level(1.0, len(after)).to(after, non_blocking=True)
        # a step that ends at pure noise has none beyond it
        beyond = torch.minimum(_part(rows.t, number + 1, self.num_steps), end)
        a_u, s_u = rows.path.coefficients(after)
        a_v, s_v = rows.path.coefficients(beyond)
        variance = (s_u / s_v).square() * (s_v.square() - (a_v / a_u * s_u).square())
        # of a step that has no length, rounding may leave less than nothing, and at t = 0 there is nothing to divide by
        return self.eta * variance.nan_to_num(0.0).clamp_min(0).sqrt()


@dataclass(frozen=True)
class Descent:
    """Data as a policy predicts them some steps down its own way, to be predicted from a noisier state (Self-NPO).

    From the next of `num_grid` equally spaced times at or above t, `num_steps` steps of DDIM lead downwards, at most to
    the data. The state x' reached there, at time t', is noised to a later time u, uniform in (t', 1]:

        x_u = a(u) / a(t') x' + sqrt(s(u)^2 - (a(u) s(t') / a(t'))^2) z

    The group is at u then, with x0(x', t') for its data and the noise that makes x_u of them.
    """

    num_steps: int
    num_grid: int
    policy: str
    slot: str = "prompt"
    """The prompt that is walked under."""

    @property
    def num_calls(self) -> int:
        return self.num_steps + 1  # and what is predicted at the end

    @property
    def num_draws(self) -> int:
        return 2  # z, and a number that says u

    def __call__(self, group: Group, path: Path, space: Space, predict: PolicyCall) -> Group:
        samples = list(group.samples.values())
        end = path.at_level(1.0, len(group.t)).to(group.t, non_blocking=True)
        start, stride = self._grid(group.t, end)
        rows = Stacked.of(replace(group, t=start), samples, path, space, predict, self.slot)
        latents = torch.cat([sample.latent for sample in samples])
        x = path.add_noise(latents, torch.cat([sample.noise for sample in samples]), rows.t)
        here = rows.t
        strides = stride.repeat(len(samples))
        for _ in range(self.num_steps):
            after = (here - strides).clamp_min(0)
            # DDIM without chance: the data and the noise that are seen here, put together for the earlier time
            x = path.add_noise(*rows.seen(self.policy, x, here), after)
            here = after
        x0, _ = rows.seen(self.policy, x, here)
        # a group's samples are all at one time: the first sample's rows tell it, and its draw the later one
        later = self._later(here[: len(end)], end, samples[0].draw(1))
        noise = self._noise(path, x, x0, here, later.repeat(len(samples)), [sample.draw(0) for sample in samples])
        moved = {}
        chunks = zip(group.samples.items(), x0.chunk(len(samples)), noise.chunk(len(samples)), strict=True)
        for (name, sample), latent, of_sample in chunks:
            moved[name] = replace(sample, latent=latent, noise=of_sample)
        return replace(group, samples=moved, t=later)

    def _grid(self, t: Num[Tensor, " b"], end: Num[Tensor, " b"]) -> tuple[Num[Tensor, " b"], Num[Tensor, " b"]]:
        """The grid's time at or above t, and the length of its steps; whole times are the last of each step's."""
        if t.is_floating_point():
            stride = end / self.num_grid
            return torch.minimum(((t / stride).floor() + 1) * stride, end), stride
        # whole times count from 0, so that a step ends one before a multiple of its length
        stride = ((end + 1) // self.num_grid).clamp_min(1)
        return torch.minimum((t // stride + 1) * stride - 1, end), stride

    @staticmethod
    def _later(here: Num[Tensor, " b"], end: Num[Tensor, " b"], draw: Float[Tensor, "b ..."]) -> Num[Tensor, " b"]:
        """A time after this one, uniformly; the draw is normal, and Phi of a normal number is uniform."""
        share: Tensor = torch.special.ndtr(draw.flatten(1)[:, 0])
        beyond = share * (end - here)
        if here.is_floating_point():
            return here + beyond.to(here)
        # Phi of a far draw rounds to 1, which would lead beyond the end
        return torch.minimum(here + 1 + beyond.long(), end)

    @staticmethod
    def _noise(
        path: Path, x: Tensor, x0: Tensor, here: Tensor, later: Tensor, draws: Sequence[Tensor]
    ) -> Float[Tensor, "b ..."]:
        """The noise that makes x_u of the data."""
        a_here, s_here = path.coefficients(here)
        a, s = path.coefficients(later)
        kept = a / a_here
        # where the time is hardly later, rounding may leave less than nothing
        added = (s.square() - (kept * s_here).square()).clamp_min(0).sqrt()
        noisier = per_sample(kept, x) * x + per_sample(added, x) * torch.cat(list(draws))
        return (noisier - per_sample(a, x) * x0) / per_sample(s, x)


@dataclass(frozen=True, eq=False)
class Stacked:
    """Several samples of each group, one after the other, as one batch that is asked step after step."""

    path: Path
    space: Space
    predict: PolicyCall
    t: Num[Tensor, " b"]
    """The groups' time, once for each sample."""
    condition: Condition

    @staticmethod
    def of(
        group: Group, samples: Sequence[Sample], path: Path, space: Space, predict: PolicyCall, slot: str = "prompt"
    ) -> Stacked:
        """These samples of the groups, under this prompt slot."""
        condition = join([group.prompts[slot]] * len(samples))
        return Stacked(path, space, predict, group.t.repeat(len(samples)), condition)

    def eps(self, policy: str, x: Tensor, at: Tensor, asked_at: Tensor) -> Float[Tensor, "b ..."]:
        """The noise that a policy predicts in states of the times `at`, where it is told other ones."""
        answer = at_least_single(self.predict(policy, x, asked_at, self.condition))
        return self.path.convert(answer, x, at, self.space, "eps")

    def seen(self, policy: str, x: Tensor, at: Tensor) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
        """Data and noise as a policy predicts them at states of these times."""
        answer = at_least_single(self.predict(policy, x, at, self.condition))
        x0 = self.path.convert(answer, x, at, self.space, "x0")
        return x0, self.path.convert(answer, x, at, self.space, "eps")

    def carried(self, x: Tensor, eps: Tensor, here: Tensor, after: Tensor) -> Float[Tensor, "b ..."]:
        """DDIM's step without chance: the same data and noise at another time."""
        x0 = self.path.convert(eps, x, here, "eps", "x0")
        return self.path.add_noise(x0, eps, after)


def _part(t: Num[Tensor, " b"], number: int, of: int) -> Num[Tensor, " b"]:
    """number / of of the way from data to t; whole where t is."""
    return t * number / of if t.is_floating_point() else t * number // of
