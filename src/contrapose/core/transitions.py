"""A sampler's stochastic steps, each of which is a sample with a noise of its own: what SPO, TailorPO and D3PO compare.

A step from x_t at time t to x' at an earlier time t' draws

    x' ~ N(a' x0 + c eps, d^2),   x0 and eps the data and the noise that a policy predicts in x_t

so that its mean is linear in the prediction p of whatever space: A x_t + B p. Let p* be the prediction of which x' is
the mean itself, the one that *the step implies*. With errors that are means over elements, up to a constant,

    log q(x' | x_t) = -(1 / 2) mse(x', A x_t + B p) / d^2 = -(k / 2) mse(p*, p),   k = B^2 / d^2

and of two policies log q_theta - log q_ref = (k / 2) (mse(p*, p_ref) - mse(p*, p_theta)): the implicit reward
(reward.py) at beta = k, of a sample whose truth is p*. As data and noise p* is

    a x0* + s eps* = x_t,   a' x0* + c eps* = x'

a sample like any other: noised to t it is x_t, and its truth is the step's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from contrapose.core.choices import Space
from contrapose.core.path import Path, per_sample

if TYPE_CHECKING:
    from jaxtyping import Float, Num

Predicted = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x_t, t) -> data and noise as predicted there
Draw = Callable[[int], Tensor]  # k -> k normal draws for each trajectory, [b, k, ...]
Choose = Callable[[int], Tensor]  # k -> one of k places for each trajectory, [b]


class Step(NamedTuple):
    """One stochastic step of each of `b` samples: x' ~ N(a' x0 + c eps, d^2)."""

    data: Float[Tensor, " b"]
    """a', what the mean takes of the predicted data."""
    noise: Float[Tensor, " b"]
    """c, what the mean takes of the predicted noise."""
    deviation: Float[Tensor, " b"]
    """d, above 0."""

    def mean(self, x0: Float[Tensor, "b ..."], eps: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """a' x0 + c eps."""
        return per_sample(self.data, x0) * x0 + per_sample(self.noise, x0) * eps


def ddim_step(path: Path, t: Num[Tensor, " b"], after: Num[Tensor, " b"], eta: float) -> Step:
    """DDIM's step from t to an earlier time (Song et al. 2020, eq. 12 and 16), on any path.

    d = eta (s' / s) sqrt(s^2 - (a / a')^2 s'^2), c = sqrt(s'^2 - d^2); with eta = 1 it is DDPM's step.
    """
    a, s = path.coefficients(t)
    a_after, s_after = path.coefficients(after)
    added = s.square() - (a / a_after * s_after).square()
    deviation = eta * s_after / s * added.sqrt()
    # with eta = 1 from pure noise all of the noise is new, where rounding may leave less than nothing
    kept = (s_after.square() - deviation.square()).clamp_min(0).sqrt()
    return Step(a_after, kept, deviation)


def implied(
    path: Path, step: Step, t: Num[Tensor, " b"], x_t: Float[Tensor, "b ..."], x_after: Float[Tensor, "b ..."]
) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
    """Data x0* and noise eps* of the prediction that a step implies: the two equations above, by Cramer's rule."""
    a, s = path.coefficients(t)
    # x_t = a x0 + s eps and x' = a' x0 + c eps: two equations, two unknowns
    determinant = a * step.noise - step.data * s
    x0 = per_sample(step.noise / determinant, x_t) * x_t - per_sample(s / determinant, x_t) * x_after
    eps = per_sample(a / determinant, x_t) * x_after - per_sample(step.data / determinant, x_t) * x_t
    return x0, eps


def reward_scale(path: Path, step: Step, t: Num[Tensor, " b"], space: Space) -> Float[Tensor, " b"]:
    """k = B^2 / d^2, what a difference of errors in this space counts in the logarithm of the ratio of densities.

    B is what a unit of the prediction moves the mean by.
    """
    unit = torch.ones(len(t), 1, dtype=step.deviation.dtype, device=step.deviation.device)
    state = torch.zeros_like(unit)
    # the mean is linear in the prediction: at x_t = 0 it is B p, here of p = 1
    moved = step.mean(path.convert(unit, state, t, space, "x0"), path.convert(unit, state, t, space, "eps"))
    return (moved[:, 0] / step.deviation).square()


class Fork(NamedTuple):
    """Where each of `b` trajectories took a step: its state, and k candidates for the next one."""

    t: Num[Tensor, " b"]
    x_t: Float[Tensor, "b ..."]
    step: Step
    after: Num[Tensor, " b"]
    candidates: Float[Tensor, "b k ..."]
    x0: Float[Tensor, "b k ..."]
    """The data that are predicted in each of the candidates, which tell what it leads to."""


def forks(
    path: Path,
    times: Num[Tensor, "n b"],
    x: Float[Tensor, "b ..."],
    predicted: Predicted,
    eta: float,
    widths: list[int],
    draw: Draw,
    choose: Choose,
) -> Iterator[Fork]:
    """Trajectories from `times[0]` down to `times[-1]` by stochastic DDIM, with `widths[i]` candidates for step i.

    One of the candidates goes on. A candidate is predicted once: what tells where it leads is what the next step is
    taken from. No gradient flows. `predicted` is asked about `k b` rows, the k candidates of the first trajectory
    before those of the second. Where the path's last time has noise in it, the data predicted there are the sample.
    """
    with torch.no_grad():
        x0, eps = predicted(x, times[0])
        for width, here, after in zip(widths, times[:-1], times[1:], strict=True):
            step = ddim_step(path, here, after, eta)
            mean = step.mean(x0, eps)
            spread = per_sample(step.deviation, mean)[:, None]
            # one mean for all candidates: they differ in the step's own noise alone
            candidates = mean[:, None] + spread * draw(width)
            x0_flat, eps_flat = predicted(candidates.flatten(0, 1), after.repeat_interleave(width))
            x0_all = x0_flat.view_as(candidates)
            eps_all = eps_flat.view_as(candidates)
            yield Fork(here, x, step, after, candidates, x0_all)
            rows = torch.arange(len(x), device=x.device)
            chosen = choose(width)
            x = candidates[rows, chosen]
            x0 = x0_all[rows, chosen]
            eps = eps_all[rows, chosen]
