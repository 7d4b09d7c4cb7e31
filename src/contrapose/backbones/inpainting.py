"""Models made for inpainting, such as a UNet that reads mask and masked photograph beside the latents."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoPipelineForInpainting
from PIL import Image

from contrapose.backbones.coherence import check_tokenizers
from contrapose.backbones.folders import read_index
from contrapose.backbones.loading import Source, located, read_networks
from contrapose.errors import UserError, one_line
from contrapose.runs.silence import silent_libraries

_UNUSED = {"safety_checker": None, "requires_safety_checker": False}  # black images would be the worst of losers


class Inpainting:
    """A stock inpainting pipeline, one random stream an image; it cuts masks at 0.5."""

    def __init__(self, pipe: Any, device: str | torch.device):
        self.pipe = pipe.to(device)
        self._takes = inspect.signature(type(pipe).__call__).parameters
        pipe.set_progress_bar_config(disable=True)

    def paint(
        self,
        photos: Sequence[Image.Image],
        masks: Sequence[Image.Image],
        captions: Sequence[str],
        streams: Sequence[torch.Generator],
        steps: int,
        guidance_scale: float,
        strength: float = 1.0,
    ) -> list[Image.Image]:
        """The photographs, all of one size, with what is white in their masks drawn again from the captions.

        Raises `UserError` for a strength that the pipeline has no setting for, and for any other input that the
        pipeline refuses, such as a size that it cannot make.
        """
        if strength != 1 and "strength" not in self._takes:
            raise UserError(f"strength {strength:g}: {type(self.pipe).__name__} begins from noise alone; leave it at 1")
        options: dict[str, Any] = {"strength": strength} if "strength" in self._takes else {}
        width, height = photos[0].size
        try:
            return self.pipe(
                prompt=list(captions),
                image=list(photos),
                mask_image=list(masks),
                width=width,
                height=height,
                generator=list(streams),
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                **options,
            ).images
        except ValueError as error:
            raise UserError(
                f"{type(self.pipe).__name__} refuses {width}x{height} photographs: {one_line(error)}"
            ) from error


def open_inpainting(model: str, dtype: torch.dtype, device: str | torch.device) -> Inpainting:
    """The inpainting pipeline of a folder or hub id, made for inpainting or not; `UserError` where there is none."""
    folder = located(model)
    parts = read_index(folder)
    unused = _UNUSED if "safety_checker" in parts else {}
    networks = read_networks(Source(model, folder, ""), {"default": dtype}, tuple(unused))
    try:
        with silent_libraries():
            pipe = AutoPipelineForInpainting.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, trust_remote_code=False, **networks, **unused
            )
    except Exception as error:  # a broken file makes these libraries raise anything at all
        raise UserError(f"{model}: cannot be loaded for inpainting: {one_line(error)}") from error
    check_tokenizers(model, pipe)
    return Inpainting(pipe, device)
