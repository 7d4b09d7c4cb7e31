"""From noise to data along any path: DPM-Solver++(2M) as a generator that yields where it passes.

A state is told as data and noise, x_t = a x0 + s eps, both as predicted there. So a state of a policy's own trajectory
is a sample like any other: add its eps to its x0 and x_t is back, and its *forward noise* is the policy's prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from contrapose.core.path import Path

if TYPE_CHECKING:
    from jaxtyping import Float, Num

Denoised = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> the data that is predicted there


class State(NamedTuple):
    """Where a trajectory passes, and the data that is predicted there."""

    t: Num[Tensor, " b"]
    x_t: Float[Tensor, "b ..."]
    x0: Float[Tensor, "b ..."]


def grid(num_steps: int, offsets: Float[Tensor, " b"], start: float = 1.0) -> Float[Tensor, "n b"]:
    """Shares (i + o) / n of the way from data (0) to noise (1), downwards, that do not pass `start`.

    An offset of 1 is the sampler's usual grid, whose first state is pure noise; DRO draws it from 0..1 (a grid of 20
    steps of 50 each, plus 0..49, of 1000).
    """
    steps = torch.arange(max(1, round(start * num_steps)) - 1, -1, -1)
    # [n, 1] + [b]: a grid of its own for each sample
    return (steps[:, None] + offsets) / num_steps


def trajectory(path: Path, times: Num[Tensor, "n b"], x: Float[Tensor, "b ..."], denoised: Denoised) -> Iterator[State]:
    """States from `times[0]` down to `times[-1]`; the data predicted in the last one is the sample.

    DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2): with lambda = log(a / s), h = lambda' - lambda,

        x' = (s' / s) x - a' (exp(-h) - 1) D,   D = x0 + (x0 - x0_before) h / (2 h_before),   D = x0 in the first step

    No gradient flows. Each sample has its own times.
    """
    before: tuple[Tensor, Tensor] | None = None
    with torch.no_grad():
        for here, next_time in zip(times, [*times[1:], None], strict=True):
            state = State(here, x, denoised(x, here))
            yield state
            # the data predicted at the last time is the sample, so that no step to t = 0 is taken
            if next_time is None:
                return
            a, s = path.coefficients(here)
            a_next, s_next = path.coefficients(next_time)
            h = (a_next / s_next).log() - (a / s).log()  # infinite from pure noise, a = 0, where exp(-h) is 0
            # D, to second order where there is a state before; after pure noise its h is infinite, and D is x0 again
            mixed = state.x0
            if before is not None:
                mixed = mixed + _wide(h / (2 * before[1]), x) * (state.x0 - before[0])
            shrunk = a * s_next / (s * a_next)  # exp(-h)
            x = _wide(s_next / s, x) * x + _wide(a_next * (1 - shrunk), x) * mixed
            before = (state.x0, h)


def _wide(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
