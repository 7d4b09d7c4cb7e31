"""FLUX, whose pipelines make one call with the prompt and one with the negative prompt: guidance on each by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aligned
import numpy as np
import pytest
import stock
import torch
from aligned import apart
from diffusers import DiffusionPipeline, FluxImg2ImgPipeline
from PIL import Image
from torch import Tensor, nn

import contrapose
from contrapose.core.guidance import CHATSGuidance
from contrapose.errors import UserError

EXACT = 1e-5  # of the largest value
SCALE = 2.5
TRUE_CFG = {"negative_prompt": ["a green star", "two"], "true_cfg_scale": SCALE}


@pytest.fixture
def pipe(stocked: Callable[[str], DiffusionPipeline]) -> DiffusionPipeline:
    return stocked("flux")


@pytest.fixture(params=["lora", "full"])
def runs(request: pytest.FixtureRequest, aligned_runs: Callable[..., Any]) -> tuple[Path, Path, dict[str, nn.Module]]:
    return aligned_runs("flux", request.param)


def _inputs(pipe: DiffusionPipeline) -> list[dict[str, Any]]:
    """What the stock pipeline asks in a step, with the prompt and without."""
    with stock.recorded(pipe.transformer) as calls:
        stock.draw("flux", pipe, num_inference_steps=1, **TRUE_CFG)
    assert len(calls) == 2
    return [call.inputs for call in calls]


def _through(given: Tensor, none: Tensor, pipe: DiffusionPipeline) -> Tensor:
    """The image of one step from noise to data: x - velocity, with the velocity guided by hand."""
    return stock.packed(stock.noise("flux", pipe)) - (none + SCALE * (given - none))


@pytest.mark.parametrize("with_positive", [True, False])
def test_npo(pipe: DiffusionPipeline, runs: Any, with_positive: bool) -> None:
    """neg(null) + s (pos(c) - neg(null)), or the base in place of the positive; two calls, as many as the base has."""
    positive, negative, networks = runs
    given, none = _inputs(pipe)
    policy = networks["positive"] if with_positive else pipe.transformer
    expected = _through(aligned.answered(policy, given), aligned.answered(networks["negative"], none), pipe)
    options = {"positive": positive if with_positive else None, "negative": negative, "method": "npo"}
    with aligned.counted(pipe.transformer) as rows, contrapose.guide(pipe, **options):
        image = stock.draw("flux", pipe, num_inference_steps=1, **TRUE_CFG)
    assert apart(image, expected) < 10 * EXACT
    swapped = _through(aligned.answered(networks["negative"], given), aligned.answered(policy, none), pipe)
    assert apart(image, swapped) > 100 * EXACT, "the test must see which one"
    assert rows == [2, 2]


def test_chats(pipe: DiffusionPipeline, runs: Any) -> None:
    positive, negative, networks = runs
    given, none = _inputs(pipe)
    names = ("encoder_hidden_states", "pooled_projections")
    proxied = none | {name: 1.3 * none[name] - 0.3 * given[name] for name in names}
    lose, plain = (aligned.answered(networks["negative"], inputs) for inputs in (proxied, none))
    assert apart(lose, plain) > 10 * EXACT, "the test must see the proxy"
    with contrapose.guide(pipe, positive, negative, CHATSGuidance(proxy=0.3)):
        image = stock.draw("flux", pipe, num_inference_steps=1, **TRUE_CFG)
    assert apart(image, _through(aligned.answered(networks["positive"], given), lose, pipe)) < 10 * EXACT


@pytest.mark.parametrize("method", ["pgd", "cpgd"])
def test_on_both_calls_alike(pipe: DiffusionPipeline, runs: Any, method: str) -> None:
    """CFG_base + w (CFG_positive - CFG_other), other being the base or the negative."""
    positive, negative, networks = runs
    known = networks | {"base": pipe.transformer}
    told = {policy: [aligned.answered(net, inputs) for inputs in _inputs(pipe)] for policy, net in known.items()}
    image = {policy: _through(*answers, pipe) for policy, answers in told.items()}
    other = "base" if method == "pgd" else "negative"
    expected = image["base"] + 3.0 * (image["positive"] - image[other])
    with contrapose.guide(pipe, positive, negative if method == "cpgd" else None, scale=3.0):
        guided = stock.draw("flux", pipe, num_inference_steps=1, **TRUE_CFG)
    assert apart(guided, expected) < 20 * EXACT


@pytest.mark.parametrize("method", ["npo", "chats", "cpgd"])
def test_off_and_batched(pipe: DiffusionPipeline, aligned_runs: Callable[..., Any], method: str) -> None:
    """Also where nothing without a prompt is asked: strength 0 asks for nothing."""
    positive, negative, _ = aligned_runs("flux", "lora")
    for options in (TRUE_CFG, {}):
        base = stock.draw("flux", pipe, **options)
        with contrapose.guide(pipe, positive, negative, method, scale=0.0):
            assert torch.equal(stock.draw("flux", pipe, **options), base)
    made = []
    for batched in (True, False):
        with contrapose.guide(pipe, positive, negative, method, scale=0.5, batched=batched):
            made.append(stock.draw("flux", pipe, **TRUE_CFG))
    assert apart(*made) < 10 * EXACT


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_without_true_guidance(pipe: DiffusionPipeline, aligned_runs: Callable[..., Any], steps: int) -> None:
    """Told by the end of the block at the latest, in one line, and the pipeline is as it was."""
    positive, negative, _ = aligned_runs("flux", "lora")
    guided = contrapose.guide(pipe, positive, negative, "npo")
    with pytest.raises(UserError, match=r"negative_prompt and a true_cfg_scale above 1$") as told, guided:
        stock.draw("flux", pipe, num_inference_steps=steps)
    assert "\n" not in str(told.value)
    assert "forward" not in pipe.transformer.__dict__


def test_several_images_in_one_block(pipe: DiffusionPipeline, aligned_runs: Callable[..., Any]) -> None:
    positive, negative, _ = aligned_runs("flux", "lora")
    with contrapose.guide(pipe, positive, negative, "npo"):
        first, again = (stock.draw("flux", pipe, num_inference_steps=3, **TRUE_CFG) for _ in range(2))
    assert torch.equal(first, again)


def test_within_an_interval(pipe: DiffusionPipeline, aligned_runs: Callable[..., Any]) -> None:
    """Calls outside do not stand for the partner of one inside."""
    positive, negative, _ = aligned_runs("flux", "lora")
    with contrapose.guide(pipe, positive, negative, "npo", interval=(0.3, 0.9)):
        inside = stock.draw("flux", pipe, num_inference_steps=4, **TRUE_CFG)
    assert apart(inside, stock.draw("flux", pipe, num_inference_steps=4, **TRUE_CFG)) > 100 * EXACT


def test_a_picture_to_begin_with(pipe: DiffusionPipeline, runs: Any) -> None:
    """Another pipeline of the family, which names neither of its calls."""
    positive, negative, networks = runs
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    other = FluxImg2ImgPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    call = {"image": picture, "strength": 0.9, "num_inference_steps": 3, "height": 16, "width": 16}

    options = {"output_type": "latent", "generator": torch.Generator().manual_seed(0), **TRUE_CFG}
    options["negative_prompt"] = "a star"
    with stock.recorded(pipe.transformer) as calls, contrapose.guide(other, positive, negative, "npo"):
        other("a red circle", **call, **options)
    assert len(calls) % 2 == 0
    for number, made in enumerate(calls):
        policy = networks["negative" if number % 2 else "positive"]
        assert apart(made.output, aligned.answered(policy, made.inputs)) < EXACT
