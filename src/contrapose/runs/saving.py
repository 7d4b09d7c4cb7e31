"""What was trained, in the forms that stock diffusers and peft load, and read back to the bit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from diffusers import ConfigMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file
from torch import Tensor, nn

from contrapose.files import replacing
from contrapose.runs.adapter_files import NUM_LAYERS
from contrapose.runs.adapter_layers import ENDS
from contrapose.runs.names import FULL_FOLDER, LORA_FILE, PEFT_CONFIG, PEFT_FILE
from contrapose.runs.silence import silent_libraries
from contrapose.tensors import save_tensors

_ENDS = "|".join(map(re.escape, ENDS))
_PEFT = "base_model.model."  # before the names of peft's files


class PartAdapters(NamedTuple):
    """Adapters on one part of a pipeline, by peft's names, and peft's settings of them."""

    state: Mapping[str, Tensor]
    config: PeftConfig


def save_lora(
    folder: Path,
    parts: Mapping[str, PartAdapters],
    notes: Mapping[str, str],
    pipeline: type[DiffusionPipeline],
) -> None:
    """Write adapters with rank, alpha and `notes` in the header: for the pipeline's `load_lora_weights`, or for peft.

    `parts` has the denoiser first. Keys are `unet.*` or `transformer.*`, and `text_encoder.*` where there are some. A
    pipeline without `load_lora_weights` (PixArt), and kinds that it does not read (LoKr, LoHa), get peft's own files,
    for `PeftModel.from_pretrained(pipe.transformer, folder)`.
    """
    state, config = next(iter(parts.values()))
    num_layers = len({re.sub(rf"\.({_ENDS})$", "", name) for name in state})
    notes = {**notes, NUM_LAYERS: str(num_layers)}
    if not hasattr(pipeline, "load_lora_weights") or not isinstance(config, LoraConfig):
        save_tensors(folder / PEFT_FILE, {f"{_PEFT}{n}": v for n, v in state.items()}, {"format": "pt", **notes})
        with replacing(folder / PEFT_CONFIG) as aside:
            aside.write_text(_json(config.to_dict()), encoding="utf-8")
        return
    tensors: dict[str, Tensor] = {}
    settings: dict[str, object] = {}
    for part, (of_part, config_of_part) in parts.items():
        tensors |= {f"{part}.{name}": value for name, value in of_part.items()}
        settings |= {f"{part}.{name}": value for name, value in config_of_part.to_dict().items()}
    header = {"lora_adapter_metadata": _json(settings)}
    save_tensors(folder / LORA_FILE, tensors, {"format": "pt", **header, **notes})


def tell_no_folders(pipe: DiffusionPipeline, base: str) -> None:
    """Name `base` as what every part was read from, where diffusers would write down a folder of this machine."""
    for component in (pipe, *pipe.components.values()):
        if isinstance(component, ConfigMixin):
            component.register_to_config(_name_or_path=base)


def save_full(folder: Path, pipe: DiffusionPipeline, part: str, network: nn.Module, base: str) -> None:
    """Write a whole pipeline folder `model/` (safetensors, sharded where large) with this network as its denoiser."""
    setattr(pipe, part, network)
    pipe.register_modules(**{part: network})
    tell_no_folders(pipe, base)
    with replacing(folder / FULL_FOLDER) as aside, silent_libraries():
        pipe.save_pretrained(aside)


def save_network(folder: Path, part: str, network: nn.Module, base: str) -> None:
    """Write this network alone where `save_full` puts it."""
    network.register_to_config(_name_or_path=base)  # type: ignore[operator]
    with silent_libraries():
        network.save_pretrained(folder / FULL_FOLDER / part)  # type: ignore[operator]


def read_saved(folder: Path, part: str, several: bool = False) -> dict[str, Tensor]:
    """The tensors that one of these wrote, by the names that they were given; of several parts with these in front."""
    for file, prefix in ((LORA_FILE, "" if several else f"{part}."), (PEFT_FILE, _PEFT)):
        if (folder / file).is_file():
            return {name.removeprefix(prefix): value for name, value in load_file(folder / file).items()}
    tensors: dict[str, Tensor] = {}
    for shard in sorted((folder / FULL_FOLDER / part).glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def _json(values: Mapping[str, object]) -> str:
    def plain(value: object) -> object:
        # peft keeps target modules as a set, whose order is another in each process
        return sorted(value) if isinstance(value, set) else str(value)

    return json.dumps(values, indent=1, sort_keys=True, default=plain)
