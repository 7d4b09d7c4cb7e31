"""A negative prompt is read as the stock pipeline reads it: the same images."""

from __future__ import annotations

import families
import stock
import torch
from diffusers import DiffusionPipeline
from pytest import mark

from contrapose.backbones.base import Backbone
from contrapose.backbones.generation import Generation

NEGATIVE = "a green star above"


@mark.parametrize("name", [*families.names(twice=True), "qwen-image"])
def test_in_place_of_no_prompt(name: str, pipe: DiffusionPipeline, plain: Backbone) -> None:
    ours = {"conditions": plain.text.embed(stock.PROMPTS), "streams": [torch.Generator() for _ in stock.PROMPTS]}
    scale = stock.GUIDANCE + 1 - families.of(name).cfg_off  # some pipelines count from 0

    def made(negative: str | None) -> torch.Tensor:
        none, start = plain.text.unconditional(negative), stock.noise(name, pipe)
        drawn = plain.sampler.generate(Generation(ours["conditions"], none, start, ours["streams"], 2, scale))
        return stock.as_called(name, drawn)

    for negative in (NEGATIVE, ""):
        expected = stock.draw(name, pipe, negative_prompt=[negative] * 2, guidance_scale=stock.GUIDANCE)
        torch.testing.assert_close(made(negative), expected, atol=1e-4, rtol=1e-3)
    none = stock.draw(name, pipe, guidance_scale=stock.GUIDANCE)
    torch.testing.assert_close(made(None), none, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(made(NEGATIVE), none, atol=1e-3)
    assert torch.allclose(made(""), none, atol=1e-3) == families.of(name).empty_is_none
