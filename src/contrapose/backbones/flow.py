"""What the flow-matching families share: velocity, times in 0..1, and the scheduler's shift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contrapose.backbones.times import FLOW_STEPS, flow_path, shift_of, why_no_flow
from contrapose.core.choices import Density, Space
from contrapose.core.path import Path

JOINT_PROJECTIONS = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
)  # fmt: skip
"""Layers of attention where image and text attend to each other, each by projections of its own."""


@dataclass(frozen=True)
class Flow:
    """A network that predicts the velocity eps - x0 of x_t = (1 - t) x0 + t eps."""

    shift: Callable[[Any, int], float] = shift_of
    """The shift of its times for images of so many tokens, (scheduler, tokens)."""

    def misfit(self, scheduler: Any) -> str | None:
        return why_no_flow(scheduler)

    def space(self, scheduler: Any) -> Space:
        return "velocity"

    def path(self, scheduler: Any, num_tokens: int, density: Density, shifted: bool) -> Path:
        return flow_path(density, self.shift(scheduler, num_tokens) if shifted else None)


def shifted_scale(pipe: Any) -> tuple[Any, Any]:
    """With the autoencoder's shift, where it has one; the stock pipelines add it even where it is null."""
    config = pipe.vae.config
    return config.get("shift_factor", 0.0), config.scaling_factor


def projected_width(pipe: Any, config: Any) -> int | None:
    """Width of the pooled texts, where the network's configuration names it."""
    width: int | None = config.pooled_projection_dim
    return width


def timestep(t: Tensor, x_t: Tensor) -> Tensor:
    """Time as schedulers count it, 0..1000, in float32: half precision would round it."""
    return t.to(x_t.device, torch.float32) * FLOW_STEPS


def level_of(time: float, config: Any) -> float:
    """The noise level of a time as schedulers count it."""
    return time / FLOW_STEPS


def same_level(time: float, config: Any) -> float:
    """That of a network that counts from data, 0, to noise, 1."""
    return time
