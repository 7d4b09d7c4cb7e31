"""Guidance on every family: what is asked of which rows, and what comes of it, against whole networks by hand."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import aligned
import families
import pytest
import stock
import torch
from aligned import apart, in_rows
from diffusers import DiffusionPipeline
from torch import Tensor, nn

import contrapose
from contrapose.backbones.base import Backbone

EXACT = 1e-5  # of the largest value: products of adapters are rounded otherwise than those of whole weights
IMAGE = 1e-4  # the same after two steps of the sampler and its guidance scale


def _drawn(name: str, pipe: DiffusionPipeline, steps: int = 2, **guidance: Any) -> tuple[Tensor, list[int]]:
    """The latents of a user's call, guided if at all, and the rows of each forward."""
    with aligned.counted(stock.denoiser_of(pipe)) as rows, ExitStack() as block:
        if guidance:
            block.enter_context(contrapose.guide(pipe, **guidance))
        made = stock.draw(name, pipe, num_inference_steps=steps)
    return made, rows


def _untouched(network: nn.Module) -> bool:
    return "forward" not in network.__dict__ and not any(part._forward_hooks for part in network.modules())


def test_off_is_the_base(name: str, pipe: DiffusionPipeline, runs: aligned.Runs) -> None:
    """Bit for bit, and nothing else is asked; and so is everything after the block."""
    base, rows = _drawn(name, pipe)
    both = {"positive": runs.positive, "negative": runs.negative}
    off, asked = _drawn(name, pipe, **both, scale=0.0)
    assert not torch.equal(_drawn(name, pipe, **both, scale=3.0)[0], base)
    after, asked_after = _drawn(name, pipe)
    assert torch.equal(off, base)
    assert torch.equal(after, base)
    assert rows == asked == asked_after == [4 if families.of(name).twice else 2] * 2
    assert _untouched(stock.denoiser_of(pipe))


def test_pgd_of_one_is_the_aligned_model(
    name: str, pipe: DiffusionPipeline, runs: aligned.Runs, plain: Backbone
) -> None:
    """And asks it alone."""
    base, rows = _drawn(name, pipe)
    guided, asked = _drawn(name, pipe, positive=runs.positive, scale=1.0)
    network = stock.denoiser_of(pipe)
    setattr(pipe, plain.denoiser.part, runs.networks["positive"])
    expected = stock.draw(name, pipe)
    setattr(pipe, plain.denoiser.part, network)
    assert apart(guided, expected) < IMAGE
    assert apart(guided, base) > 100 * IMAGE, "the test must see the run"
    assert asked == rows


@pytest.mark.parametrize(
    ("negative", "scale", "shares"),
    [
        (False, 3.0, {"base": -2.0, "positive": 3.0}),
        (False, -0.5, {"base": 1.5, "positive": -0.5}),
        (True, 3.0, {"base": 1.0, "positive": 3.0, "negative": -3.0}),
    ],
    ids=["pgd", "pgd away", "cpgd"],
)
def test_one_step_by_hand(
    name: str, pipe: DiffusionPipeline, runs: aligned.Runs, negative: bool, scale: float, shares: dict[str, float]
) -> None:
    """On every row, so that it is linear through classifier-free guidance: CFG_base + w (CFG_pos - CFG_base)."""
    network = stock.denoiser_of(pipe)
    other = runs.negative if negative else None
    with stock.recorded(network) as calls, contrapose.guide(pipe, runs.positive, other, scale=scale):
        stock.draw(name, pipe, num_inference_steps=1)
    [call] = calls
    told = {policy: aligned.answered(net, call.inputs) for policy, net in {**runs.networks, "base": network}.items()}
    expected = sum(share * told[policy] for policy, share in shares.items())
    assert apart(in_rows(call.output), expected) < EXACT
    if not families.of(name).twice:
        return

    def through(rows: Tensor) -> Tensor:
        none, given = families.of(name).halves(rows)
        return none + stock.GUIDANCE * (given - none)

    mixed = sum(share * through(told[policy]) for policy, share in shares.items())
    assert apart(through(in_rows(call.output)), mixed) < 2 * EXACT


def test_batched_is_sequential(name: str, pipe: DiffusionPipeline, runs: aligned.Runs) -> None:
    """Adapters in one forward of three times the rows; whole networks, and what saves memory, in one each."""
    rows = 4 if families.of(name).twice else 2
    outputs = {}
    for batched in (True, False):
        with stock.recorded(stock.denoiser_of(pipe)) as calls:
            both = {"positive": runs.positive, "negative": runs.negative}
            _, asked = _drawn(name, pipe, 1, **both, scale=2.0, batched=batched)
        outputs[batched] = in_rows(calls[0].output)
        assert asked == ([3 * rows] if batched and runs.kind == "lora" else [rows] * 3)
    assert apart(outputs[True], outputs[False]) < EXACT


def test_outside_the_interval_nothing_more_is_asked(name: str, pipe: DiffusionPipeline, runs: aligned.Runs) -> None:
    with stock.recorded(stock.denoiser_of(pipe)) as calls:
        stock.draw(name, pipe, num_inference_steps=4)
    levels = stock.levels(name, calls)
    assert levels == sorted(levels, reverse=True)
    interval = ((levels[2] + levels[3]) / 2, (levels[0] + levels[1]) / 2)  # the two in the middle
    _, asked = _drawn(name, pipe, 4, positive=runs.positive, interval=interval, scale=2.5)
    rows = 4 if families.of(name).twice else 2
    inside = [2 * rows] if runs.kind == "lora" else [rows, rows]
    assert asked == [rows, *inside, *inside, rows]


@pytest.mark.parametrize("runs", ["lora"], indirect=True)
def test_strength_goes_by_the_noise_level(name: str, pipe: DiffusionPipeline, runs: aligned.Runs) -> None:
    def schedule(level: float) -> float:
        return 1.5 - level**2

    network = stock.denoiser_of(pipe)
    with stock.recorded(network) as calls, contrapose.guide(pipe, runs.positive, scale=2.0, schedule=schedule):
        stock.draw(name, pipe, num_inference_steps=3)
    call, level = calls[1], stock.levels(name, calls)[1]
    assert 0.05 < level < 0.98
    base, positive = (aligned.answered(net, call.inputs) for net in (network, runs.networks["positive"]))
    assert apart(in_rows(call.output), base + 2.0 * schedule(level) * (positive - base)) < EXACT


@pytest.mark.parametrize("runs", ["lora"], indirect=True)
def test_rescale_brings_the_bases_spread_back(name: str, pipe: DiffusionPipeline, runs: aligned.Runs) -> None:
    """Also where nothing but the aligned model is mixed."""
    network = stock.denoiser_of(pipe)
    for scale in (30.0, 1.0):
        with stock.recorded(network) as calls, contrapose.guide(pipe, runs.positive, scale=scale, rescale=1.0):
            stock.draw(name, pipe, num_inference_steps=1)
        base = aligned.answered(network, calls[0].inputs)
        spreads = [rows.flatten(1).std(1) for rows in (in_rows(calls[0].output), base)]
        torch.testing.assert_close(*spreads, rtol=1e-4, atol=0)
