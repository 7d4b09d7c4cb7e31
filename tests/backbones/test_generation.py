"""Our embeddings make the stock pipeline ask its denoiser what a user's prompts make it ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import families
import pytest
import stock
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from contrapose.backbones.base import Backbone
from contrapose.backbones.generation import Generation
from contrapose.errors import UserError


def _calls(name: str, pipe: DiffusionPipeline, scale: float, draw: Callable[[], Any]) -> list[stock.Call]:
    with stock.recorded(stock.denoiser_of(pipe)) as calls:
        draw()
    assert len(calls) == (4 if families.of(name).unconditional == "own" and scale > 1 else 2)
    return calls


def _tensors(value: Any, where: str = "") -> dict[str, Tensor]:
    """Every tensor in the arguments of a call, by its place."""
    if isinstance(value, Tensor):
        return {where: value}
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {k: v for place, inner in places for k, v in _tensors(inner, f"{where}.{place}").items()}


def _without_padding(inputs: dict[str, Any]) -> dict[str, Any]:
    """Zeros for text that the mask hides, which need not be the same."""
    mask = inputs.get("encoder_attention_mask")
    if mask is None:
        return inputs
    return inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"] * mask[..., None]}


@pytest.mark.parametrize("scale", [stock.GUIDANCE, 1.0])
def test_the_denoiser_is_asked_the_same(
    name: str,
    scale: float,
    plain: Backbone,
    pipe: DiffusionPipeline,
    generation: Callable[..., Generation],
) -> None:
    """Texts, pooled texts, masks, padding, sizes and times; with guidance, and without."""
    prompts = [*stock.PROMPTS, "", "猫 on a mat 🎨 Été\n\t<s>", "word " * 600]
    asked = generation(plain, scale, prompts)
    ours = _calls(name, plain.sampler.stock, scale, lambda: plain.sampler.generate(asked))
    users = families.of(name).scale(scale)
    theirs = _calls(name, pipe, scale, lambda: stock.draw(name, pipe, prompts, guidance_scale=users))
    for our, their in zip(ours, theirs, strict=True):
        got, expected = (_tensors(_without_padding(call.inputs)) for call in (our, their))
        assert got.keys() == expected.keys()
        for where, value in expected.items():
            assert got[where].dtype == value.dtype, where
            assert got[where].shape == value.shape, where
            torch.testing.assert_close(got[where], value, atol=1e-5, rtol=0, msg=where)


def _in_rows(name: str, call: stock.Call) -> Any:
    """What a call predicts from, an entry a row; packed latents are rows as they are."""
    return call.inputs["hidden_states"] if families.of(name).packed else families.of(name).meaning(call)[0]


def test_guidance_has_a_row_for_no_prompt(name: str, plain: Backbone, generation: Callable[..., Generation]) -> None:
    """Twice the rows or calls with guidance and once without, as everywhere; FLUX has guidance as an input."""
    rows = {}
    for scale in (1.0, 2.0):
        asked = generation(plain, scale)
        calls = _calls(name, plain.sampler.stock, scale, lambda asked=asked: plain.sampler.generate(asked))
        rows[scale] = [len(_in_rows(name, call)) for call in calls]
    with_guidance = {"none": [2] * 2, "own": [2] * 4}.get(families.of(name).unconditional, [4] * 2)
    assert rows == {1.0: [2, 2], 2.0: with_guidance}


@pytest.mark.parametrize("output", ["latent", "np"])
def test_the_images_are_the_stock_pipelines(
    name: str, output: Any, plain: Backbone, pipe: DiffusionPipeline, generation: Callable[..., Generation]
) -> None:
    made = torch.as_tensor(plain.sampler.generate(generation(plain), output))
    scale = families.of(name).scale(stock.GUIDANCE)
    expected = stock.draw(name, pipe, guidance_scale=scale, output_type=output)
    if output == "latent":
        expected = stock.as_images(name, pipe, expected, made)
    torch.testing.assert_close(made, torch.as_tensor(expected), atol=3e-5, rtol=1e-5)


def test_an_image_depends_on_its_own_noise(name: str, plain: Backbone, generation: Callable[..., Generation]) -> None:
    together = plain.sampler.generate(generation(plain))
    asked = generation(plain, prompts=stock.PROMPTS[1:])
    alone = plain.sampler.generate(
        Generation(asked.condition, asked.unconditional, *_second(generation(plain)), 2, 3.5)
    )
    torch.testing.assert_close(alone, together[1:], atol=3e-5, rtol=1e-5)


def _second(asked: Generation) -> tuple[Tensor, list[torch.Generator]]:
    return asked.noise[1:], asked.streams[1:]


@dataclass(frozen=True)
class Settings:
    steps: int | None = None
    guidance_scale: float | None = None
    precision: str | None = None


def test_what_is_left_to_the_model_is_spelled_out(plain: Backbone) -> None:
    usual = Settings(plain.sampler.steps, plain.sampler.guidance_scale, "fp32")
    assert plain.sampler.with_usual(Settings()) == usual
    assert plain.sampler.with_usual(Settings(3, 0.0, "bf16")) == Settings(3, 0.0, "bf16")


def test_the_usual_shape(name: str, plain: Backbone, pipe: DiffusionPipeline) -> None:
    """Of the image that the stock pipeline draws when no size is asked for."""
    unit = stock.unit(name, pipe)
    side = families.of(name).usual or stock.denoiser_of(pipe).config.sample_size * unit
    channels = stock.noise(name, pipe).shape[1]
    assert plain.images.latent_shape == (channels, side // unit, side // unit)
    assert plain.images.shape_for(None) == plain.images.latent_shape
    assert plain.images.shape_for(f"{side}x{side}") == plain.images.latent_shape


def test_other_shapes(name: str, plain: Backbone, pipe: DiffusionPipeline) -> None:
    """Width first, as one writes it; height first, as tensors have it."""
    width, height = stock.size(name)
    assert plain.images.shape_for(f"{width}x{height}") == tuple(stock.noise(name, pipe).shape[1:])
    assert width != height


@pytest.mark.parametrize(
    "size",
    [
        "", "16", "16x", "16 x 16", "16X16", "-16x16", "0x16", "16x15", "1.5x16", "16x16x16", "99999992x99999992",
        f"16x{'9' * 5000}",
    ],
)  # fmt: skip
def test_wrong_sizes(size: str, plain: Backbone) -> None:
    with pytest.raises(UserError, match=f"^size {size}:") as caught:
        plain.images.shape_for(size)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["sd3"])
def test_a_size_beyond_the_networks_positions(plain: Backbone, pipe: DiffusionPipeline) -> None:
    largest = pipe.transformer.config.pos_embed_max_size * 2 * pipe.vae_scale_factor
    assert plain.images.shape_for(f"{largest}x16")[2] == largest // pipe.vae_scale_factor
    with pytest.raises(UserError, match=f"^size 16x{2 * largest}: .*{largest}"):
        plain.images.shape_for(f"16x{2 * largest}")
