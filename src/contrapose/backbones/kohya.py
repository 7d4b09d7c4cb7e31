"""An aligned run's adapters as one file of kohya's form, which ComfyUI and AUTOMATIC1111 read.

A layer is `STEM.lora_down.weight`, `STEM.lora_up.weight` and `STEM.alpha`; readers add alpha / rank * up @ down to it.
diffusers' `convert_state_dict_to_kohya` is not used: it writes the rank as alpha, and names no transformer's layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from contrapose import __version__
from contrapose.backbones.loading import FULL_FOLDER, LORA_FILE, PEFT_CONFIG, PEFT_FILE
from contrapose.errors import UserError
from contrapose.tensors import save_tensors

_HALVES = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
_PARTS = ("unet", "transformer")
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


class Layer(NamedTuple):
    """One half of one layer's adapter: the network's part, the layer's name in it, and `lora_A.weight` or B."""

    part: str
    module: str
    half: str


class Adapters(NamedTuple):
    """A run's adapters with one rank and alpha for all layers, and the notes of the run."""

    tensors: dict[Layer, Tensor]
    rank: int
    alpha: float
    notes: Mapping[str, str]
    prefix: str
    """What the readers put before a layer's name; the name keeps its dots after a dot, and loses them otherwise."""


def convert(folder: Path, out: Path, dtype: torch.dtype = torch.float16) -> int:
    """Write a run's adapters to `out` and return the number of layers.

    Raises `UserError` for a folder that is missing or holds no adapters, and for weights that `dtype` cannot hold.
    """
    adapters = _read(folder)
    tensors: dict[str, Tensor] = {}
    for layer, value in adapters.tensors.items():
        cast = value.to(dtype)
        if not cast.isfinite().all():
            raise UserError(f"{folder}: {layer.module} has weights that {dtype} cannot hold; use another --dtype")
        stem = adapters.prefix + (layer.module if adapters.prefix[-1] == "." else layer.module.replace(".", "_"))
        tensors[f"{stem}.{_HALVES[layer.half]}"] = cast
        tensors[f"{stem}.alpha"] = torch.tensor(adapters.alpha)  # float32 whatever the weights are: 5.3 is no fp16
    save_tensors(out, tensors, _header(adapters, out.stem))
    return len(tensors) // 3


def _read(folder: Path) -> Adapters:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run; name a folder made by 'contrapose align'")
    try:
        if (folder / LORA_FILE).is_file():
            return _read_pipeline_file(folder / LORA_FILE)
        if (folder / PEFT_FILE).is_file():
            return _read_peft_files(folder)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: its adapters are broken ({error}); delete its finished.json and run 'contrapose align' again"
        ) from error
    if (folder / FULL_FOLDER).is_dir():
        raise UserError(f"{folder}: was trained in full, so it has no adapters; use its {FULL_FOLDER}/ as the model")
    raise UserError(f"{folder}: holds no adapters; has the run finished?")


def _read_pipeline_file(path: Path) -> Adapters:
    header, tensors = _open(path)
    layers = dict(_layers(tensors))
    parts = {layer.part for layer in layers}
    if len(parts) != 1 or not parts <= set(_PARTS):
        raise ValueError(f"layers of {', '.join(sorted(parts)) or 'nothing'}")
    part = parts.pop()
    config = json.loads(header["lora_adapter_metadata"])
    # UNets' layers have kohya's names and transformers' OneTrainer's, but in Z-Image ComfyUI looks up neither.
    known = any("_blocks." in layer.module for layer in layers)
    prefix = f"lora_{part}_" if known else "diffusion_model."
    return Adapters(layers, config[f"{part}.r"], float(config[f"{part}.lora_alpha"]), header, prefix)


def _read_peft_files(folder: Path) -> Adapters:
    """peft's own files, which only PixArt has; in it ComfyUI looks up diffusers' own names."""
    header, tensors = _open(folder / PEFT_FILE)
    config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
    renamed = {f"transformer.{name.removeprefix('base_model.model.')}": value for name, value in tensors.items()}
    return Adapters(dict(_layers(renamed)), config["r"], float(config["lora_alpha"]), header, "transformer.")


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _layers(tensors: Mapping[str, Tensor]) -> Iterator[tuple[Layer, Tensor]]:
    for name, value in tensors.items():
        half = next((half for half in _HALVES if name.endswith(f".{half}")), None)
        if half is None:
            raise ValueError(f"{name} is no part of a LoRA")
        part, _, module = name.removesuffix(f".{half}").partition(".")
        yield Layer(part, module, half), value


def _header(adapters: Adapters, title: str) -> dict[str, str]:
    """What kohya's tools, AUTOMATIC1111 and Stability's ModelSpec look for, and what Contrapose knows of the run."""
    known = _base_model(adapters.tensors.items())
    if "modelspec.architecture" in known:
        known |= {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.implementation": "diffusers",
            "modelspec.title": title,
        }
    notes = {name: value for name, value in adapters.notes.items() if name in ("base", "method")}
    if "base" in notes:
        known["ss_sd_model_name"] = notes["base"]
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(adapters.rank),
        "ss_network_alpha": f"{adapters.alpha:g}",
        "ss_output_name": title,
        **known,
        **notes,
        "contrapose": __version__,
    }


def _base_model(layers: Iterable[tuple[Layer, Tensor]]) -> dict[str, str]:
    """What the layers tell of the model; nothing where they could be of several."""
    for layer, value in layers:
        if layer.part == "unet" and layer.module.endswith("attn2.to_k") and layer.half == "lora_A.weight":
            return dict(_BY_TEXT_WIDTH.get(value.shape[1], {}))
        if layer.module.startswith("single_transformer_blocks."):
            return dict(_FLUX)
    return {}
