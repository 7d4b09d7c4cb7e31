"""The tiny pipelines load and draw as the real ones do, so that a test of theirs says something of those."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import tiny
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

PROMPTS = ("a red circle", "two blue squares above a green star")
STRANGE = ("", "Été à l'œuvre: 一只红色的猫 🦊 \n\t <s>", "word " * 2000)


@pytest.fixture(scope="module")
def load(tiny_family: Callable[[str], Path]) -> Callable[[str], DiffusionPipeline]:
    """A family's pipeline out of its folder, which all tests draw with and none changes."""

    def load(name: str) -> DiffusionPipeline:
        pipe = DiffusionPipeline.from_pretrained(tiny_family(name), use_safetensors=True, **families.of(name).load)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return cache(load)


@cache
def _built(name: str) -> DiffusionPipeline:
    return families.of(name).build()


def _draw(name: str, pipe: DiffusionPipeline, prompts: tuple[str, ...] = PROMPTS, **options: Any) -> Any:
    call = {"num_inference_steps": 2, "output_type": "np", **families.of(name).call, **options}
    return pipe(prompt=list(prompts), generator=torch.Generator().manual_seed(0), **call).images


def _guided(name: str, scale: float) -> dict[str, Any]:
    if families.of(name).unconditional != "none":
        return families.of(name).guidance(scale, 2)
    return {"true_cfg_scale": scale, "negative_prompt": ["", ""]}


@pytest.mark.parametrize("name", families.NAMES)
def test_draws(name: str, load: Callable[[str], DiffusionPipeline]) -> None:
    pipe = load(name)
    assert type(pipe) is type(_built(name))
    images = _draw(name, pipe)
    side = families.of(name).call.get("height", 16)
    assert images.shape == (2, side, side, 3)
    assert np.isfinite(images).all()
    assert images.std() > 0.05
    latents = _draw(name, pipe, output_type="latent")
    assert 0.1 < latents.std() < 10


@pytest.mark.parametrize("name", families.NAMES)
def test_reacts_to_the_prompt_and_to_guidance(name: str, load: Callable[[str], DiffusionPipeline]) -> None:
    pipe = load(name)
    plain = _draw(name, pipe, output_type="latent")
    others = {
        "prompt": _draw(name, pipe, ("a blue square", "a red circle"), output_type="latent"),
        "guidance": _draw(name, pipe, output_type="latent", **_guided(name, 6.0)),
        "more guidance": _draw(name, pipe, output_type="latent", **_guided(name, 9.0)),
    }
    for what, other in others.items():
        assert torch.isfinite(other).all(), what
        assert (other - plain).norm() / plain.norm() > 0.01, what
    assert torch.equal(_draw(name, pipe, output_type="latent"), plain)


@pytest.mark.parametrize("name", families.NAMES)
def test_reads_any_text(name: str, load: Callable[[str], DiffusionPipeline]) -> None:
    pipe = load(name)
    assert np.isfinite(_draw(name, pipe, STRANGE, num_inference_steps=1)).all()
    built = _built(name)
    for part, tokenizer in pipe.components.items():
        if part.startswith("tokenizer") and tokenizer is not None:
            options = {"padding": "max_length", "max_length": 20, "truncation": True}
            saved, fresh = (
                tokenizer([*PROMPTS, *STRANGE], **options),
                getattr(built, part)([*PROMPTS, *STRANGE], **options),
            )
            assert saved["input_ids"] == fresh["input_ids"]
            assert saved["attention_mask"] == fresh["attention_mask"]
            assert saved["attention_mask"][0][0] == 1, "not padded on the right"


@pytest.mark.parametrize("name", families.NAMES)
def test_gradients_are_the_same_when_checkpointed(name: str, load: Callable[[str], DiffusionPipeline]) -> None:
    pipe = load(name)
    drawing = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    denoiser = copy.deepcopy(drawing)
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = drawing.register_forward_pre_hook(lambda _, args, options: seen.append((args, options)), with_kwargs=True)
    _draw(name, pipe, num_inference_steps=1)
    hook.remove()

    def gradients() -> list[torch.Tensor | None]:
        denoiser.zero_grad()
        args, options = seen[0]
        output = denoiser(*args, **options)[0]
        sum(part.square().mean() for part in output).backward()
        return [parameter.grad for parameter in denoiser.parameters()]

    denoiser.train()
    plain = gradients()
    denoiser.enable_gradient_checkpointing()
    torch.testing.assert_close(gradients(), plain)
    reached = [gradient is not None and bool(gradient.any()) for gradient in plain]
    assert np.mean(reached) > 0.8


def test_builds_the_same_weights_each_time_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    for family in families.FAMILIES:
        weights, again = _weights(_built(family.name)), _weights(family.build())
        assert weights.keys() == again.keys()
        assert all(torch.equal(weights[name], again[name]) for name in weights), family.name
    assert torch.equal(torch.get_rng_state(), before)


def test_the_chat_template_can_leave_thinking_out(load: Callable[[str], DiffusionPipeline]) -> None:
    name, *_ = families.names(chat=True)
    tokenizer = load(name).tokenizer
    options = {"tokenize": False, "add_generation_prompt": True}
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "a red circle"}], **options)
    assert asked == "<|im_start|>user\na red circle<|im_end|>\n<|im_start|>assistant\n"
    turns = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], enable_thinking=False, **options)
    assert turns.endswith("assistant\n<think>\n\n</think>\n\n")
    assert len(tokenizer("<|im_start|><|im_end|>").input_ids) == 2


def test_a_folder_is_small(tiny_family: Callable[[str], Path]) -> None:
    for name in families.NAMES:
        folder = tiny_family(name)
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 2e6, name


def test_a_single_file_gives_the_same_weights(tmp_path: Path) -> None:
    folder = tiny.save("sd", tmp_path / "sd")
    path = tiny.save_single_file(folder, tmp_path / "sd.safetensors")
    pipe = StableDiffusionPipeline.from_single_file(path, config=str(folder), local_files_only=True)
    expected, weights = _weights(StableDiffusionPipeline.from_pretrained(folder)), _weights(pipe)
    assert expected.keys() == weights.keys()
    assert all(torch.equal(expected[key], weights[key]) for key in expected)


def _weights(pipe: DiffusionPipeline) -> dict[str, torch.Tensor]:
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": tensor for name, part in modules.items() for key, tensor in part.state_dict().items()}
