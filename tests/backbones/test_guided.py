"""The guided prediction is what the stock pipeline makes of its network's answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import families
import pytest
import stock
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from contrapose.backbones.base import Backbone


def _guided(name: str, calls: list[stock.Call]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """x_t and t of each step of the stock pipeline, and what it makes of its network's answers."""
    family = families.of(name)
    meanings = [family.meaning(call) for call in calls]
    partners = (
        [meanings.pop(number) for number in range(1, len(calls) // 2 + 1)] if family.unconditional == "own" else []
    )
    for number, (x_t, t, _, answer) in enumerate(meanings):
        if family.twice:
            yield x_t, t, family.combined(*family.halves(answer), stock.GUIDANCE)
        else:
            yield x_t, t, family.combined(partners[number][-1], answer, stock.GUIDANCE) if partners else answer


def test_it_is_guided_as_by_the_stock_pipeline(name: str, plain: Backbone, pipe: DiffusionPipeline) -> None:
    with stock.recorded(stock.denoiser_of(pipe)) as calls:
        stock.draw(name, pipe, guidance_scale=families.of(name).scale(stock.GUIDANCE))
    condition, unconditional = plain.text.embed(stock.PROMPTS), plain.text.unconditional()
    for x_t, t, expected in _guided(name, calls):
        made = plain.sampler.guided(x_t[:2], t[:2], condition, unconditional, stock.GUIDANCE)
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(made, plain.sampler.guided(x_t[:2], t[:2], condition, unconditional, 1.0), atol=1e-4)


def test_without_guidance_the_prompt_alone_is_asked(name: str, plain: Backbone, pipe: DiffusionPipeline) -> None:
    x_t, condition = stock.noise(name, pipe), plain.text.embed(stock.PROMPTS)
    t = plain.denoiser.noising(x_t.shape[1:]).times(torch.full((2,), 0.5))
    with stock.recorded(plain.denoiser.network) as calls:
        made = plain.sampler.guided(x_t, t, condition, plain.text.unconditional(), 1.0)
    assert len(calls) == 1 and not made.requires_grad
    if families.of(name).unconditional != "none":
        with torch.no_grad():
            assert torch.equal(made, plain.denoiser.denoise(plain.denoiser.network, x_t, t, condition))


@pytest.mark.parametrize("name", ["flux"])
def test_what_training_feeds_is_left_alone(plain: Backbone, pipe: DiffusionPipeline, loaded: Callable) -> None:
    x_t, condition = stock.noise("flux", pipe), plain.text.embed(stock.PROMPTS)
    with stock.recorded(plain.denoiser.network) as calls:
        plain.sampler.guided(x_t, torch.full((2,), 0.5), condition, plain.text.unconditional(), 6.0)
        with torch.no_grad():
            plain.denoiser.denoise(plain.denoiser.network, x_t, torch.full((2,), 0.5), condition)
    assert [float(call.inputs["guidance"][0]) for call in calls] == [6.0, stock.GUIDANCE]
