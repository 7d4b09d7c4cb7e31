"""Guidance beside everything else that a pipeline may have: other pipelines of the family, schedulers, hooks, LoRAs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aligned
import numpy as np
import pytest
import stock
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from aligned import apart
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image
from torch import Tensor, nn

import contrapose
from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError

IMAGE = 1e-4  # of the largest value, after two steps
Draw = Callable[[DiffusionPipeline], Tensor]


@pytest.fixture
def fresh(stocked: Callable[[str], DiffusionPipeline]) -> DiffusionPipeline:
    """A pipeline that the test may change."""
    return stock.with_own_denoiser(stocked("sd"))


@pytest.fixture
def runs(aligned_runs: Callable[[str, str], Any]) -> tuple[Path, Path]:
    return aligned_runs("sd", "lora")[:2]


@pytest.fixture(scope="module")
def smallest(smallest_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DiffusionPipeline, Path, Path]:
    """A pipeline and two runs of few layers, since compilers go through each of them at every change."""
    plain, folder = load_backbone(smallest_model), tmp_path_factory.mktemp("smallest")
    positive, negative = (aligned.write_run(plain, "lora", seed, folder / str(seed)) for seed in (0, 1))
    return stock.load("sd", smallest_model), positive, negative


def _draw(pipe: DiffusionPipeline, **options: Any) -> Tensor:
    return stock.draw("sd", pipe, **options)


def _is_the_aligned_model(pipe: DiffusionPipeline, run: Path, part: str, draw: Draw) -> None:
    """PGD at 1 draws what the pipeline draws with the run's weights; the base draws another image, before and after."""
    base = draw(pipe)
    with contrapose.guide(pipe, run, scale=1.0):
        guided = draw(pipe)
    assert torch.equal(draw(pipe), base)
    network = getattr(pipe, part)
    setattr(pipe, part, aligned.network_of(network, run, part))
    expected = draw(pipe)
    setattr(pipe, part, network)
    assert apart(guided, expected) < IMAGE
    assert apart(guided, base) > 10 * IMAGE


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DDIMScheduler])
def test_another_scheduler(fresh: DiffusionPipeline, runs: tuple[Path, Path], scheduler: Any) -> None:
    fresh.scheduler = scheduler.from_config(fresh.scheduler.config)
    _is_the_aligned_model(fresh, runs[0], "unet", _draw)


_PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sd", StableDiffusionImg2ImgPipeline, {}),
        ("sd", StableDiffusionInpaintPipeline, {"mask_image": Image.new("L", (16, 16), 255)}),
        ("sd3", StableDiffusion3Img2ImgPipeline, {}),
        ("flux", FluxImg2ImgPipeline, {}),
    ],
    ids=["img2img", "inpaint", "sd3 img2img", "flux img2img"],
)
def test_a_picture_to_begin_with(
    name: str,
    kind: type[DiffusionPipeline],
    options: dict[str, Any],
    stocked: Callable[[str], DiffusionPipeline],
    loaded: Callable[[str], Backbone],
    aligned_runs: Callable[..., Any],
) -> None:
    extra = {"requires_safety_checker": False} if name == "sd" else {}
    pipe = kind(**stocked(name).components, **extra)
    pipe.set_progress_bar_config(disable=True)

    def draw(pipe: DiffusionPipeline) -> Tensor:
        call = {"image": _PICTURE, "strength": 0.9, "num_inference_steps": 3, "height": 16, "width": 16, **options}
        return pipe("a red circle", output_type="latent", generator=torch.Generator().manual_seed(0), **call).images

    _is_the_aligned_model(pipe, aligned_runs(name, "lora")[0], loaded(name).denoiser.part, draw)


@pytest.mark.parametrize("how", ["whole", "in place", "blocks"])
def test_torch_compile(smallest: tuple[DiffusionPipeline, Path, Path], how: str) -> None:
    """What was compiled before the block does not know its adapters, and what is compiled in it must forget them."""
    torch.compiler.reset()
    stocked, positive, negative = smallest
    fresh = stock.with_own_denoiser(stocked)
    base = _draw(fresh)
    guidance = {"positive": positive, "negative": negative, "scale": 3.0, "batched": False}
    with contrapose.guide(fresh, **guidance):
        expected = _draw(fresh)
    if how == "whole":
        fresh.unet = torch.compile(fresh.unet, backend="eager")
    elif how == "in place":
        fresh.unet.compile(backend="eager")
    else:
        fresh.unet.compile_repeated_blocks(backend="eager")
    compiled = fresh.unet._compiled_call_impl
    assert torch.equal(_draw(fresh), base)
    with contrapose.guide(fresh, **guidance):
        assert apart(_draw(fresh), expected) < 1e-5
    with contrapose.guide(fresh, **guidance | {"batched": True}):
        assert apart(_draw(fresh), expected) < IMAGE
    assert torch.equal(_draw(fresh), base)
    assert fresh.unet._compiled_call_impl is compiled


def test_compiled_within_the_block(smallest: tuple[DiffusionPipeline, Path, Path]) -> None:
    torch.compiler.reset()
    stocked, positive, _ = smallest
    fresh = stock.with_own_denoiser(stocked)
    base = _draw(fresh)
    fresh.unet.compile_repeated_blocks(backend="eager")
    with contrapose.guide(fresh, positive, scale=3.0, interval=(0.0, 0.6)):  # the first step is the base's, compiled
        assert apart(_draw(fresh), base) > 10 * IMAGE
    assert torch.equal(_draw(fresh), base)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_half_precision(tiny_model: Path, aligned_runs: Callable[..., Any], kind: str) -> None:
    positive, negative, _ = aligned_runs("sd", kind)
    whole, half = (stock.load("sd", tiny_model, torch_dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    made = []
    for pipe in (whole, half):
        with contrapose.guide(pipe, positive, negative, scale=2.0):
            made.append(_draw(pipe, num_inference_steps=1, latents=stock.noise("sd", pipe).to(pipe.dtype)))
    assert made[1].dtype == torch.bfloat16
    assert apart(made[1].float(), made[0]) < 0.05
    with contrapose.guide(whole, positive, negative, scale=-2.0):
        assert apart(_draw(whole, num_inference_steps=1), made[0]) > 0.1, "rounding must not hide the runs"


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_offloading(fresh: DiffusionPipeline, aligned_runs: Callable[..., Any], kind: str) -> None:
    """accelerate's hooks, which put a forward of theirs on the network, still move its inputs and outputs."""
    moved = []

    class Hook(AlignDevicesHook):
        def pre_forward(self, module: nn.Module, *inputs: Any, **named: Any) -> Any:
            moved.append(len(inputs[0]))
            return super().pre_forward(module, *inputs, **named)

    positive, negative, _ = aligned_runs("sd", kind)
    with contrapose.guide(fresh, positive, negative, scale=2.0):
        expected = _draw(fresh)
    add_hook_to_module(fresh.unet, Hook(execution_device="cpu", io_same_device=True, offload=kind == "lora"))
    hooked = fresh.unet.__dict__["forward"]
    with contrapose.guide(fresh, positive, negative, scale=2.0):
        assert torch.equal(_draw(fresh), expected)
    assert moved == [12 if kind == "lora" else 4] * 2
    assert fresh.unet.__dict__["forward"] is hooked


def test_another_lora(
    fresh: DiffusionPipeline, runs: tuple[Path, Path], loaded: Callable[[str], Backbone], tmp_path: Path
) -> None:
    """One that the user has loaded acts on all policies: w + (style + positive - style) is the sum of both."""
    style = aligned.write_run(loaded("sd"), "lora", 7, tmp_path)
    plain = fresh.unet
    summed = aligned.network_of(aligned.network_of(plain, style, "unet"), runs[0], "unet")
    fresh.unet = summed
    both = _draw(fresh)
    fresh.unet = plain
    fresh.load_lora_weights(style)
    styled = _draw(fresh)
    with contrapose.guide(fresh, runs[0], scale=1.0):
        assert apart(_draw(fresh), both) < IMAGE
    with contrapose.guide(fresh, runs[0], runs[0], scale=3.0):
        assert apart(_draw(fresh), styled) < IMAGE, "on the base, the positive and the negative alike"
    assert apart(styled, both) > 10 * IMAGE
    assert torch.equal(_draw(fresh), styled)


@pytest.mark.parametrize(
    "options",
    [
        {"negative_prompt": ["a blue star", ""]},
        {"guidance_rescale": 0.7},
        {"num_images_per_prompt": 2, "latents": torch.randn(4, 4, 12, 8, generator=torch.Generator().manual_seed(0))},
        {"guidance_scale": 1.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_a_call_takes(fresh: DiffusionPipeline, runs: tuple[Path, Path], options: dict[str, Any]) -> None:
    _is_the_aligned_model(fresh, runs[0], "unet", lambda pipe: _draw(pipe, **options))


def test_a_generator_draws_the_same_again(fresh: DiffusionPipeline, runs: tuple[Path, Path]) -> None:
    def draw(seed: int) -> Tensor:
        with contrapose.guide(fresh, *runs, scale=2.0):
            return _draw(fresh, latents=None, generator=torch.Generator().manual_seed(seed))

    first = draw(1)
    assert torch.equal(draw(1), first)
    assert not torch.equal(draw(2), first)


def test_an_exception_leaves_the_pipeline_as_it_was(fresh: DiffusionPipeline, runs: tuple[Path, Path]) -> None:
    base = _draw(fresh)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), contrapose.guide(fresh, *runs, scale=2.0):
        _draw(fresh, callback_on_step_end=stop)
    assert "forward" not in fresh.unet.__dict__
    assert not any(part._forward_hooks for part in fresh.unet.modules())
    assert torch.equal(_draw(fresh), base)


def test_one_block_at_a_time(fresh: DiffusionPipeline, runs: tuple[Path, Path]) -> None:
    """The inner one's rows would be taken for the outer one's."""
    with contrapose.guide(fresh, runs[0], scale=2.0):
        expected = _draw(fresh)
        with pytest.raises(UserError, match="is being guided already"), contrapose.guide(fresh, runs[1]):
            pass
        assert torch.equal(_draw(fresh), expected)
    with contrapose.guide(fresh, runs[0], scale=2.0):
        assert torch.equal(_draw(fresh), expected)


def test_fused_projections_are_refused(fresh: DiffusionPipeline, runs: tuple[Path, Path]) -> None:
    """Their layers are one, which adapters of the three would not reach."""
    fresh.fuse_qkv_projections()
    with pytest.raises(UserError, match="unfuse_qkv_projections"), contrapose.guide(fresh, *runs):
        pass
