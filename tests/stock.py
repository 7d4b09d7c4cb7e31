"""Stock pipelines as witnesses: how each is called, and what its denoiser was asked."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import families
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from meanings import GUIDANCE, Call, packed, patches, unpacked
from peft import PeftModel
from torch import Tensor, nn

PROMPTS = ["a red circle", "two blue squares above a green star"]
__all__ = ["GUIDANCE", "Call", "packed", "unpacked"]


def load(name: str, folder: Path, **options: Any) -> DiffusionPipeline:
    """The stock pipeline of a family's folder."""
    parts = {**families.of(name).load, **options}
    pipe = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_run(name: str, folder: Path, run: Path, **parts: Any) -> DiffusionPipeline:
    """The stock pipeline of an aligned run, as a user would load it: adapters on the folder's model, or a whole one."""
    full = (run / "model").is_dir()
    pipe = load(name, run / "model" if full else folder, **parts)
    if hasattr(pipe, "unet"):
        pipe.unet.set_attn_processor(AttnProcessor())  # as ours on the CPU: fused attention rounds otherwise
    if full:
        return pipe
    if families.of(name).adapters == "peft":
        pipe.transformer = PeftModel.from_pretrained(pipe.transformer, run).get_base_model()
    else:
        pipe.load_lora_weights(run)
    return pipe


def denoiser_of(pipe: DiffusionPipeline) -> nn.Module:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def rest_of(pipe: DiffusionPipeline) -> dict[str, Any]:
    """All parts but the denoiser: where `load` is given them, it reads the denoiser alone."""
    return {name: part for name, part in pipe.components.items() if part is not denoiser_of(pipe)}


def with_own_denoiser(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """A pipeline whose denoiser is a copy, over the other one's further parts."""
    [part] = {"unet", "transformer"} & pipe.components.keys()
    fresh = copy.copy(pipe)
    setattr(fresh, part, copy.deepcopy(getattr(pipe, part)))
    return fresh


def remembering(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The pipeline, with text encoders that read a text once: reading takes half of a tiny call's time.

    Of a pipeline whose encoders stay as they are; a copy of an encoder would answer as the first one.
    """
    for name, part in pipe.components.items():
        if name.startswith("text_encoder") and part is not None:
            part.forward = _remembered(part.forward)
    return pipe


def _remembered(forward: Callable[..., Any]) -> Callable[..., Any]:
    answers: dict[Any, Any] = {}

    @functools.wraps(forward)
    def answer(*inputs: Any, **named: Any) -> Any:
        key = tuple(_content(value) for value in (*inputs, *sorted(named.items())))
        if key not in answers:
            answers[key] = forward(*inputs, **named)
        return answers[key]

    return answer


def _content(value: Any) -> Any:
    """What tells one argument from another: a tensor's numbers, or the name and value of a named one."""
    if isinstance(value, tuple):
        return tuple(_content(part) for part in value)
    return (value.shape, value.dtype, value.numpy().tobytes()) if isinstance(value, Tensor) else value


def size(name: str) -> tuple[int, int]:
    """Width and height of the images that a test draws, not square."""
    return families.of(name).drawn


def unit(name: str, pipe: DiffusionPipeline) -> int:
    """Pixels of an image's side for each of a latent's."""
    return pipe.vae_scale_factor * (2 if families.of(name).patched else 1)


def noise(name: str, pipe: DiffusionPipeline, rows: int = 2) -> Tensor:
    """Starting noise [b, c, h, w]."""
    width, height = size(name)
    channels = denoiser_of(pipe).config.in_channels // (4 if families.of(name).packed else 1)
    shape = (rows, channels, height // unit(name, pipe), width // unit(name, pipe))
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def as_called(name: str, latents: Tensor) -> Tensor:
    """Latents [b, c, h, w] as the pipeline's call takes them."""
    return packed(latents) if families.of(name).packed else latents


def as_images(name: str, pipe: DiffusionPipeline, latents: Tensor, like: Tensor) -> Tensor:
    """The inverse, for what a call gives back, of images as large as `like`."""
    if families.of(name).patched:
        return families.of(name).autoencoder.latents(pipe.vae, patches(latents))
    return unpacked(latents, *like.shape[-2:]) if families.of(name).packed else latents


def draw(name: str, pipe: DiffusionPipeline, prompts: list[str] | None = None, **options: Any) -> Any:
    """What a user's call draws from the noise above."""
    prompts = PROMPTS if prompts is None else prompts
    width, height = size(name)
    start = noise(name, pipe, len(prompts))
    family = families.of(name)
    scale = options.pop("guidance_scale", family.usual_guidance)
    call = {"num_inference_steps": 2, "output_type": "latent", **family.call, **family.guidance(scale, len(prompts))}
    call |= {"height": height, "width": width, "latents": as_called(name, start), **options}
    return pipe(prompt=list(prompts), **call).images


@contextmanager
def recorded(denoiser: nn.Module) -> Iterator[list[Call]]:
    """The denoiser's calls inside the block."""
    calls: list[Call] = []
    names = inspect.signature(denoiser.forward)

    def note(_: nn.Module, args: Any, options: Any, output: Any) -> None:
        calls.append(Call(dict(names.bind(*args, **options).arguments), output[0]))

    hook = denoiser.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def levels(name: str, calls: list[Call]) -> list[float]:
    """Noise levels of calls, from what the family's times mean."""
    times = [float(families.of(name).meaning(call)[1].flatten()[0]) for call in calls]
    return [time / 999 if max(times) > 1 else time for time in times]
