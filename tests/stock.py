"""Stock pipelines as witnesses: how each is called, what its denoiser was asked, and what that means here.

Nothing of `contrapose.backbones` is used: what a family's inputs mean is written down a second time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from peft import PeftModel
from torch import Tensor, nn

PROMPTS = ["a red circle", "two blue squares above a green star"]
SIZES = {"sana": (32, 64)}  # width and height; others draw 16x24
GUIDANCE = 3.5  # what FLUX's network is fed in training


@dataclass
class Call:
    """One call of a denoiser: its arguments by name, and its answer."""

    inputs: dict[str, Any]
    output: Any


def load(name: str, folder: Path, **options: Any) -> DiffusionPipeline:
    """The stock pipeline of a family's folder."""
    parts = {**tiny.LOAD.get(name, {}), **({"safety_checker": None} if name.startswith("sd-") else {}), **options}
    pipe = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_run(name: str, folder: Path, run: Path) -> DiffusionPipeline:
    """The stock pipeline of an aligned run, as a user would load it: adapters on the folder's model, or a whole one."""
    full = (run / "model").is_dir()
    pipe = load(name, run / "model" if full else folder)
    if hasattr(pipe, "unet"):
        pipe.unet.set_attn_processor(AttnProcessor())  # as ours on the CPU: fused attention rounds otherwise
    if full:
        return pipe
    if name == "pixart":
        pipe.transformer = PeftModel.from_pretrained(pipe.transformer, run).get_base_model()
    else:
        pipe.load_lora_weights(run)
    return pipe


def denoiser_of(pipe: DiffusionPipeline) -> nn.Module:
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def size(name: str) -> tuple[int, int]:
    """Width and height of the images that a test draws, not square."""
    return SIZES.get(name, (16, 24))


def noise(name: str, pipe: DiffusionPipeline, rows: int = 2) -> Tensor:
    """Starting noise [b, c, h, w]."""
    width, height = size(name)
    channels = denoiser_of(pipe).config.in_channels // (4 if name == "flux" else 1)
    shape = (rows, channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def draw(name: str, pipe: DiffusionPipeline, prompts: list[str] | None = None, **options: Any) -> Any:
    """What a user's call draws from the noise above."""
    prompts = PROMPTS if prompts is None else prompts
    width, height = size(name)
    start = noise(name, pipe, len(prompts))
    call = {"num_inference_steps": 2, "guidance_scale": GUIDANCE, "output_type": "latent", **tiny.CALL.get(name, {})}
    call |= {"height": height, "width": width, "latents": packed(start) if name == "flux" else start, **options}
    return pipe(list(prompts), **call).images


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


def packed(latents: Tensor) -> Tensor:
    """FLUX's rows: 2x2 pixels of one patch become channels, [b, (h / 2) (w / 2), 4 c]."""
    rows, channels, height, width = latents.shape
    patches = latents.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(rows, height * width // 4, 4 * channels)


def unpacked(rows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `packed`."""
    count, _, features = rows.shape
    patches = rows.reshape(count, height // 2, width // 2, features // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(count, features // 4, height, width)


Meaning = tuple[Tensor, Tensor, dict[str, Tensor], Tensor]


def _unet(call: Call) -> Meaning:
    told = call.inputs
    condition = {"text": told["encoder_hidden_states"]}
    if told.get("added_cond_kwargs"):
        condition["pooled"] = told["added_cond_kwargs"]["text_embeds"]
    rows = len(told["sample"])
    return told["sample"], told["timestep"].expand(rows), condition, call.output


def _sd3(call: Call) -> Meaning:
    told = call.inputs
    condition = {"text": told["encoder_hidden_states"], "pooled": told["pooled_projections"]}
    return told["hidden_states"], told["timestep"] / 1000, condition, call.output


def _masked(told: dict[str, Any]) -> dict[str, Tensor]:
    mask = told["encoder_attention_mask"].long()
    assert torch.equal(mask, mask.cummin(1).values), "text is what comes before the padding"
    return {"text": told["encoder_hidden_states"], "length": mask.sum(1)}


def _sana(call: Call) -> Meaning:
    told = call.inputs
    return told["hidden_states"], told["timestep"] / 1000, _masked(told), call.output


def _pixart(call: Call) -> Meaning:
    noise, _learned_sigma = call.output.chunk(2, dim=1)
    return call.inputs["hidden_states"], call.inputs["timestep"], _masked(call.inputs), noise


def _flux(call: Call) -> Meaning:
    told = call.inputs
    assert (told["guidance"] == GUIDANCE).all()
    height, width = (2 * int(side) for side in told["img_ids"][:, 1:].max(0).values + 1)
    condition = {"text": told["encoder_hidden_states"], "pooled": told["pooled_projections"]}
    x_t, answer = (unpacked(rows, height, width) for rows in (told["hidden_states"], call.output))
    return x_t, told["timestep"], condition, answer


def _z_image(call: Call) -> Meaning:
    told = call.inputs
    texts = told["cap_feats"]
    text = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    condition = {"text": text, "length": torch.tensor([len(row) for row in texts])}
    return torch.cat(told["x"], 1).transpose(0, 1), 1 - told["t"], condition, -torch.cat(call.output, 1).transpose(0, 1)


MEANING: dict[str, Callable[[Call], Meaning]] = {
    "sd": _unet,
    "sd-v": _unet,
    "sdxl": _unet,
    "sd3": _sd3,
    "sd3-no-t5": _sd3,
    "sana": _sana,
    "pixart": _pixart,
    "flux": _flux,
    "z-image": _z_image,
}
"""x_t, t, condition and answer of a stock call, as `Backbone.predict` takes and gives them."""
