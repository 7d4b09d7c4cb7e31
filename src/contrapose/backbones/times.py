"""Noising paths and prediction spaces from the schedulers that pipelines come with."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from contrapose.core.choices import Density, Space
from contrapose.core.path import DiffusionPath, FlowPath, shifted_table

FLOW_STEPS = 1000  # that every published flow-matching network counts its time in
_TRIED = 4  # steps: more than the highest order of a solver
_SPACES: dict[str, Space] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def diffusion_path(scheduler: Any, density: Density) -> DiffusionPath:
    """The discrete path with the scheduler's betas."""
    return DiffusionPath(DDPMScheduler.from_config(scheduler.config).alphas_cumprod, density)


def why_no_diffusion(scheduler: Any) -> str | None:
    """Why a scheduler does not walk the discrete path that its betas make; None for one that does."""
    if is_flow(scheduler):
        return "it walks the straight path of flow matching, on which this network was not trained"
    if getattr(scheduler, "alphas_cumprod", None) is None:
        return "it has no betas, so its noise levels are not those of this network"
    if "Inverse" in type(scheduler).__name__:
        return "it walks from images to noise"
    kind = scheduler.config.get("prediction_type")
    if kind not in list(_SPACES):
        return f"it says that the network predicts {kind} (known: {', '.join(_SPACES)})"
    try:
        usual = DDPMScheduler.from_config(scheduler.config).alphas_cumprod
    except (NotImplementedError, TypeError, ValueError) as error:
        return f"its betas cannot be made ({error})"
    return _why_no_path(usual, torch.as_tensor(scheduler.alphas_cumprod))


def _why_no_path(usual: Tensor, scheduled: Tensor) -> str | None:
    """The same of the abar [T] that a scheduler's betas make, and those that it has."""
    if usual.ndim != 1 or not (
        usual.isfinite().all() and (usual >= 0).all() and (usual <= 1).all() and (usual.diff() <= 0).all()
    ):
        return "its betas do not lead from data to noise"
    # where abar is to end at exactly 0, schedulers that divide by it have 2^-24
    if scheduled.shape != usual.shape or not torch.allclose(scheduled.float(), usual.float(), atol=1e-5):
        return "its noise levels are not those of its betas"
    return None


def why_no_flow(scheduler: Any) -> str | None:
    """Why a scheduler does not walk the straight path of flow matching; None for one that does."""
    config = scheduler.config
    if not is_flow(scheduler):
        return "it does not walk the straight path from data to noise on which this network was trained"
    if config.get("prediction_type", "flow_prediction") != "flow_prediction":
        return f"it takes the network's velocity for a prediction of type {config.prediction_type}"
    if config.get("invert_sigmas"):
        return "it counts its times from noise to data"
    if config.get("num_train_timesteps") != FLOW_STEPS:
        return f"it counts {config.get('num_train_timesteps')} times where the network knows {FLOW_STEPS}"
    return _why_no_shift(config)


def _why_no_shift(config: Any) -> str | None:
    """The same of the shift of its times, which is a number or, going by image size, has two ends."""
    if any(config.get(name) is not None and not config[name] > 0 for name in ("shift", "flow_shift")):
        return "its shift is not above 0"
    ends = [config.get(name, 1) for name in ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len")]
    unset = () if config.get("use_dynamic_shifting") else (type(None),)
    if not all(isinstance(end, (int, float, *unset)) for end in ends):
        return "the ends of its shift are not all numbers"
    return None


def why_no_sampling(scheduler: Any, steps: int) -> str | None:
    """Why a scheduler cannot take so many steps, of which a few are tried on nothing; None for one that can."""
    fresh = type(scheduler).from_config(scheduler.config)
    count = scheduler.config.num_train_timesteps
    options = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    try:
        fresh.set_timesteps(steps, **options)
        times = torch.as_tensor(fresh.timesteps).float()
        latents = torch.zeros(1, 4, 2, 2)
        with torch.random.fork_rng(devices=[]):  # some add noise
            for time in fresh.timesteps[:_TRIED]:
                if hasattr(fresh, "scale_model_input"):
                    fresh.scale_model_input(latents, time)
                latents = fresh.step(torch.zeros_like(latents), time, latents, return_dict=False)[0]
    except Exception as error:  # settings that are never looked at before make these raise anything at all
        return f"it cannot take a step ({' '.join(str(error).split()):.200})"
    if not ((times >= 0).all() and (times <= count).all()):
        return f"its times reach from {times.min():g} to {times.max():g}, where the network knows 0 to {count}"
    return None


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is of flow matching: made for it, or told to walk its straight path."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))


def diffusion_space(scheduler: Any) -> Space:
    """What the network predicts, by a scheduler that `why_no_diffusion` has nothing against."""
    return _SPACES[scheduler.config.prediction_type]


def flow_path(density: Density, shift: float | None) -> FlowPath:
    """Rectified flow with times from a scheduler's table of this shift, or without one."""
    return FlowPath(density, None if shift is None else shifted_table(shift))


def shift_of(scheduler: Any, num_tokens: int) -> float:
    """The shift of a flow scheduler for images of so many tokens.

    Static schedulers say it. Dynamic ones go by image size: mu is linear in the tokens between the two ends that their
    configuration names, and the shift is exp(mu), or mu itself where their time shift is linear.
    """
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return float(config.get("flow_shift") or config.get("shift") or 1.0)
    low = config.get("base_image_seq_len", 256)
    high = config.get("max_image_seq_len", 4096)
    start = config.get("base_shift", 0.5)
    end = config.get("max_shift", 1.15)
    mu = start + (end - start) * (num_tokens - low) / (high - low)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)
