"""Pipelines that make one call with the prompt and one with the negative prompt: guidance on each by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aligned
import families
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


@pytest.fixture(params=["flux", "qwen-image"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["lora", "full"])
def runs(
    request: pytest.FixtureRequest, name: str, aligned_runs: Callable[..., Any]
) -> tuple[Path, Path, dict[str, nn.Module]]:
    return aligned_runs(name, request.param)


def _inputs(name: str, pipe: DiffusionPipeline) -> list[dict[str, Any]]:
    """What the stock pipeline asks in a step, with the prompt and without."""
    with stock.recorded(pipe.transformer) as calls:
        stock.draw(name, pipe, num_inference_steps=1, **TRUE_CFG)
    assert len(calls) == 2
    return [call.inputs for call in calls]


def _through(name: str, given: Tensor, none: Tensor, pipe: DiffusionPipeline) -> Tensor:
    """The image of one step from noise to data: x - velocity, with the velocity guided by hand."""
    start = stock.noise(name, pipe)
    velocities = (stock.as_images(name, pipe, rows, start) for rows in (none, given))
    return stock.as_called(name, start - families.of(name).combined(*velocities, SCALE))


@pytest.mark.parametrize("with_positive", [True, False])
def test_npo(name: str, pipe: DiffusionPipeline, runs: Any, with_positive: bool) -> None:
    """neg(null) + s (pos(c) - neg(null)), or the base in place of the positive; two calls, as many as the base has."""
    positive, negative, networks = runs
    given, none = _inputs(name, pipe)
    policy = networks["positive"] if with_positive else pipe.transformer
    expected = _through(name, aligned.answered(policy, given), aligned.answered(networks["negative"], none), pipe)
    options = {"positive": positive if with_positive else None, "negative": negative, "method": "npo"}
    with aligned.counted(pipe.transformer) as rows, contrapose.guide(pipe, **options):
        image = stock.draw(name, pipe, num_inference_steps=1, **TRUE_CFG)
    assert apart(image, expected) < 10 * EXACT
    swapped = _through(name, aligned.answered(networks["negative"], given), aligned.answered(policy, none), pipe)
    assert apart(image, swapped) > 100 * EXACT, "the test must see which one"
    assert rows == [2, 2]


def _proxied(name: str, none: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Texts of CHATS' proxy: what is masked goes on with its end."""
    if not families.of(name).masked:
        names = ("encoder_hidden_states", "pooled_projections")
        return none | {name: 1.3 * none[name] - 0.3 * given[name] for name in names}
    mask = "encoder_hidden_states_mask"
    texts = []
    for inputs in (none, given):
        text = inputs["encoder_hidden_states"]
        valid = torch.ones(text.shape[:2]) if inputs[mask] is None else inputs[mask]
        texts.append([row[present.bool()] for row, present in zip(text, valid, strict=True)])
    assert len({len(row) for rows in texts for row in rows}) > 1
    rows = []
    for empty, prompt in zip(*texts, strict=True):
        length = max(len(empty), len(prompt))
        ends = [torch.cat([row, row[-1:].expand(length - len(row), -1)]) for row in (empty, prompt)]
        rows.append(1.3 * ends[0] - 0.3 * ends[1])
    lengths = torch.tensor([len(row) for row in rows])
    text = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return none | {"encoder_hidden_states": text, mask: torch.arange(text.shape[1])[None] < lengths[:, None]}


def test_chats(name: str, pipe: DiffusionPipeline, runs: Any) -> None:
    positive, negative, networks = runs
    given, none = _inputs(name, pipe)
    proxied = _proxied(name, none, given)
    lose, plain = (aligned.answered(networks["negative"], inputs) for inputs in (proxied, none))
    assert apart(lose, plain) > 10 * EXACT, "the test must see the proxy"
    with contrapose.guide(pipe, positive, negative, CHATSGuidance(proxy=0.3)):
        image = stock.draw(name, pipe, num_inference_steps=1, **TRUE_CFG)
    assert apart(image, _through(name, aligned.answered(networks["positive"], given), lose, pipe)) < 10 * EXACT


@pytest.mark.parametrize("method", ["pgd", "cpgd"])
def test_on_both_calls_alike(name: str, pipe: DiffusionPipeline, runs: Any, method: str) -> None:
    """CFG of base + w (positive - other), other being the base or the negative."""
    positive, negative, networks = runs
    known = networks | {"base": pipe.transformer}
    told = {policy: [aligned.answered(net, inputs) for inputs in _inputs(name, pipe)] for policy, net in known.items()}
    other = "base" if method == "pgd" else "negative"
    calls = zip(told["base"], told["positive"], told[other], strict=True)
    expected = _through(name, *(base + 3.0 * (positive - negative) for base, positive, negative in calls), pipe)
    with contrapose.guide(pipe, positive, negative if method == "cpgd" else None, scale=3.0):
        guided = stock.draw(name, pipe, num_inference_steps=1, **TRUE_CFG)
    assert apart(guided, expected) < 20 * EXACT


@pytest.mark.parametrize("method", ["npo", "chats", "cpgd"])
def test_off_and_batched(name: str, pipe: DiffusionPipeline, aligned_runs: Callable[..., Any], method: str) -> None:
    """Also where nothing without a prompt is asked: strength 0 asks for nothing."""
    positive, negative, _ = aligned_runs(name, "lora")
    for options in (TRUE_CFG, {}):
        base = stock.draw(name, pipe, **options)
        with contrapose.guide(pipe, positive, negative, method, scale=0.0):
            assert torch.equal(stock.draw(name, pipe, **options), base)
    made = []
    for batched in (True, False):
        with contrapose.guide(pipe, positive, negative, method, scale=0.5, batched=batched):
            made.append(stock.draw(name, pipe, **TRUE_CFG))
    assert apart(*made) < 10 * EXACT


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_without_true_guidance(
    name: str, pipe: DiffusionPipeline, aligned_runs: Callable[..., Any], steps: int
) -> None:
    """Told by the end of the block at the latest, in one line, and the pipeline is as it was."""
    positive, negative, _ = aligned_runs(name, "lora")
    guided = contrapose.guide(pipe, positive, negative, "npo")
    with pytest.raises(UserError, match=r"negative_prompt and a true_cfg_scale above 1$") as told, guided:
        stock.draw(name, pipe, num_inference_steps=steps)
    assert "\n" not in str(told.value)
    assert "forward" not in pipe.transformer.__dict__


def test_several_images_in_one_block(name: str, pipe: DiffusionPipeline, aligned_runs: Callable[..., Any]) -> None:
    positive, negative, _ = aligned_runs(name, "lora")
    with contrapose.guide(pipe, positive, negative, "npo"):
        first, again = (stock.draw(name, pipe, num_inference_steps=3, **TRUE_CFG) for _ in range(2))
    assert torch.equal(first, again)


def test_within_an_interval(name: str, pipe: DiffusionPipeline, aligned_runs: Callable[..., Any]) -> None:
    """Calls outside do not stand for the partner of one inside."""
    positive, negative, _ = aligned_runs(name, "lora")
    with contrapose.guide(pipe, positive, negative, "npo", interval=(0.3, 0.9)):
        inside = stock.draw(name, pipe, num_inference_steps=4, **TRUE_CFG)
    assert apart(inside, stock.draw(name, pipe, num_inference_steps=4, **TRUE_CFG)) > 100 * EXACT


@pytest.mark.parametrize("name", ["flux"])
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
