"""An aligned run's adapters as one file of kohya's form, which ComfyUI and AUTOMATIC1111 read.

A layer is `STEM.lora_down.weight`, `STEM.lora_up.weight` and `STEM.alpha`; readers add alpha / rank * up @ down to it.
diffusers' `convert_state_dict_to_kohya` is not used: it writes the rank as alpha, and names no transformer's layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from contrapose import __version__
from contrapose.errors import UserError
from contrapose.runs.adapter_files import AdapterFile, usual_rank
from contrapose.runs.folder import RunFolder
from contrapose.runs.names import FULL_FOLDER, PEFT_FILE
from contrapose.tensors import save_tensors

# What kohya's trainers write for the width of the text that a UNet attends to.
_BY_TEXT_WIDTH = {
    768: {"ss_base_model_version": "sd_v1", "ss_v2": "False", "modelspec.architecture": "stable-diffusion-v1/lora"},
    1024: {"ss_base_model_version": "sd_v2", "ss_v2": "True"},  # 512 or 768 pixels: its adapters do not tell
    2048: {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    },
}
_FLUX = {"ss_base_model_version": "flux1", "modelspec.architecture": "flux-1/lora"}
_WITH_TWO_ENCODERS = (_BY_TEXT_WIDTH[2048], _FLUX)


def convert(folder: Path, out: Path, dtype: torch.dtype = torch.float16) -> int:
    """Write the adapters of a run, another folder or a file to `out` and return the number of layers.

    Text encoders' are written too. Raises `UserError` for what is missing or holds no adapters, and for weights that
    `dtype` cannot hold.
    """
    stored = _read(RunFolder(folder))
    tensors: dict[str, Tensor] = {}
    for part, layers in stored.parts.items():
        for name, one in layers.items():
            stem = _stem(stored, part, name)
            for half, value in (("lora_down", one.down), ("lora_up", one.up)):
                cast = value.to(dtype)
                if not cast.isfinite().all():
                    raise UserError(f"{folder}: {name} has weights that {dtype} cannot hold; use another --dtype")
                tensors[f"{stem}.{half}.weight"] = cast
            tensors[f"{stem}.alpha"] = torch.tensor(one.alpha)  # float32 whatever the weights are: 5.3 is no fp16
    save_tensors(out, tensors, _header(stored, out.stem))
    return len(tensors) // 3


def _read(run: RunFolder) -> AdapterFile:
    run.check_exists()
    if run.has_adapters:
        run.check_origin()
        return run.read()
    if (run.weights / FULL_FOLDER).is_dir():
        raise UserError(f"{run}: was trained in full, so it has no adapters; its {FULL_FOLDER}/ is the model")
    raise run.lacks("adapters")


def _stem(stored: AdapterFile, part: str, name: str) -> str:
    """What the readers call a layer."""
    if part.startswith("text_encoder"):
        several = len(stored.parts) > 2 or part != "text_encoder" or _base_model(stored) in _WITH_TWO_ENCODERS
        number = int(part.removeprefix("text_encoder").removeprefix("_") or 1)
        own = name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"
        return f"lora_te{number if several else ''}_{own.replace('.', '_')}"
    if stored.path.name == PEFT_FILE and part == "transformer":  # of PixArt, whose own names ComfyUI looks up
        return f"transformer.{name}"
    # UNets' layers have kohya's names and transformers' OneTrainer's, but in Z-Image ComfyUI looks up neither.
    if any("_blocks." in layer for layer in stored.parts[part]):
        return f"lora_{part}_{name.replace('.', '_')}"
    return f"diffusion_model.{name}"


def _header(stored: AdapterFile, title: str) -> dict[str, str]:
    """What kohya's tools, AUTOMATIC1111 and Stability's ModelSpec look for, and what Contrapose knows of the run."""
    known = dict(_base_model(stored))
    rank, alpha = usual_rank(stored.parts[stored.denoiser])
    if "modelspec.architecture" in known:
        known |= {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.implementation": "diffusers",
            "modelspec.title": title,
        }
    notes = {name: value for name, value in stored.notes.items() if name in ("base", "method")}
    if "base" in notes:
        known["ss_sd_model_name"] = notes["base"]
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_output_name": title,
        **known,
        **notes,
        "contrapose": __version__,
    }


def _base_model(stored: AdapterFile) -> Mapping[str, str]:
    """What the layers tell of the model; nothing where they could be of several."""
    for name, one in stored.parts[stored.denoiser].items():
        if stored.denoiser == "unet" and name.endswith("attn2.to_k"):
            return _BY_TEXT_WIDTH.get(one.down.shape[1], {})
        if name.startswith("single_transformer_blocks."):
            return _FLUX
    return {}
