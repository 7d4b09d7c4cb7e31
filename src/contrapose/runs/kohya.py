"""An aligned run's adapters as one file of kohya's form, which ComfyUI and AUTOMATIC1111 read.

A layer is `STEM.lora_down.weight`, `STEM.lora_up.weight` and `STEM.alpha`; readers add alpha / rank * up @ down to it.
Other kinds have LyCORIS's names: a `dora_scale` beside these, or `lokr_w1` and so on, or `hada_w1_a` and so on.
diffusers' `convert_state_dict_to_kohya` is not used: it writes the rank as alpha, and names no transformer's layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from contrapose import __version__
from contrapose.errors import UserError
from contrapose.runs.adapter_files import Adapter, AdapterFile, usual_rank
from contrapose.runs.adapter_layers import HALVES, OTHER_ENDS, LayerAdapter
from contrapose.runs.folder import RunFolder
from contrapose.runs.names import FULL_FOLDER, PEFT_FILE
from contrapose.runs.steps import kept_steps
from contrapose.tensors import save_tensors

_OPTIMISATION = {
    "ss_learning_rate": "learning_rate",
    "ss_lr_scheduler": "schedule",
    "ss_lr_warmup_steps": "warmup",
    "ss_max_train_steps": "train_steps",
    "ss_total_batch_size": "batch_size",
    "ss_optimizer": "optimizer",
}
_THEIR_ENDS = {end: other for other, end in OTHER_ENDS.items()}


@dataclass(frozen=True, eq=False)
class Layout:
    """How other tools know adapters of one family of models: by a layer, and what their trainers write of it."""

    layer: str
    """Pattern of the name of a layer of the denoiser."""
    header: Mapping[str, str]
    width: int | None = None
    """Width of what that layer reads, where its name alone does not tell."""
    text_encoders: int = 1
    stem: str | None = None
    """What the names of the denoiser's layers begin with, where its readers look up names as they are."""

    def fits(self, layers: Adapter) -> bool:
        """Whether adapters of these layers are of this family."""
        return any(
            re.match(self.layer, name) and self.width in (None, adapter.inputs) for name, adapter in layers.items()
        )


def convert(folder: Path, out: Path, layouts: Iterable[Layout], dtype: torch.dtype = torch.float16) -> int:
    """Write the adapters of a run, another folder or a file to `out` and return the number of layers.

    Text encoders' are written too. The first of `layouts` that fits says how the file names its model. Raises
    `UserError` for a path that is missing or holds no adapters, and for weights that `dtype` cannot hold.
    """
    run = RunFolder(folder)
    stored = _read(run)
    denoiser = stored.parts[stored.denoiser]
    layout = next((layout for layout in layouts if layout.fits(denoiser)), None)
    tensors: dict[str, Tensor] = {}
    count = 0
    for part, layers in stored.parts.items():
        for name, adapter in layers.items():
            stem = _stem(stored, part, name, layout)
            for end, value in _named(adapter).items():
                # float32 for alpha whatever the weights are: 5.3 is no fp16
                cast = value if end == "alpha" else value.to(dtype)
                if not cast.isfinite().all():
                    raise UserError(f"{folder}: {name} has weights that {dtype} cannot hold; use another --precision")
                tensors[f"{stem}.{end}"] = cast
            count += 1
    save_tensors(out, tensors, _header(stored, out.stem, layout) | _training(run))
    return count


def _named(adapter: LayerAdapter) -> dict[str, Tensor]:
    """A layer's tensors by the ends of their names in this form, and its alpha."""
    tensors = adapter.tensors()
    products = [end for end in tensors if end.endswith("_b")]
    if adapter.kind == "lokr" and not products:
        # both factors whole: readers take such a LoKr for one of scale 1, whatever its alpha is
        tensors["lokr_w1"] = tensors["lokr_w1"] * adapter.scale
    named = {_THEIR_ENDS.get(end, end): value for end, value in tensors.items()}
    if "dora_scale" in named:
        outputs = named["dora_scale"].numel()
        kernel = [1] * (tensors[HALVES[0]].ndim - 1)
        named["dora_scale"] = named["dora_scale"].reshape(outputs, *kernel)
    return {**named, "alpha": torch.tensor(adapter.scale * adapter.rank)}


def _read(run: RunFolder) -> AdapterFile:
    run.check_exists()
    if run.has_adapters:
        run.check_origin()
        return run.read()
    if (run.weights / FULL_FOLDER).is_dir():
        raise UserError(f"{run}: was trained in full, so it has no adapters; its {FULL_FOLDER}/ is the model")
    raise run.lacks("adapters")


def _stem(stored: AdapterFile, part: str, name: str, layout: Layout | None) -> str:
    """What the readers call a layer."""
    if part.startswith("text_encoder"):
        of_several = layout is not None and layout.text_encoders > 1
        several = of_several or len(stored.parts) > 2 or part != "text_encoder"
        number = int(part.removeprefix("text_encoder").removeprefix("_") or 1)
        full_name = name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"
        return f"lora_te{number if several else ''}_{full_name.replace('.', '_')}"
    if layout is not None and layout.stem is not None:
        return f"{layout.stem}{name}"
    if stored.path.name == PEFT_FILE and part == "transformer":  # whose names ComfyUI looks up as they are
        return f"transformer.{name}"
    # UNets' layers have kohya's names and transformers' OneTrainer's; without blocks, ComfyUI looks up neither.
    if any("_blocks." in layer for layer in stored.parts[part]):
        return f"lora_{part}_{name.replace('.', '_')}"
    return f"diffusion_model.{name}"


def _header(stored: AdapterFile, title: str, layout: Layout | None) -> dict[str, str]:
    """What kohya's tools, AUTOMATIC1111 and Stability's ModelSpec look for, and what Contrapose knows of the run."""
    header = dict(layout.header) if layout is not None else {}
    layers = stored.parts[stored.denoiser]
    rank, alpha = usual_rank(layers)
    is_plain = all(adapter.kind == "lora" for adapter in layers.values())
    if "modelspec.architecture" in header:
        header |= {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.implementation": "diffusers",
            "modelspec.title": title,
        }
    notes = {name: value for name, value in stored.notes.items() if name in ("base", "method")}
    if "base" in notes:
        header["ss_sd_model_name"] = notes["base"]
    return {
        "format": "pt",
        "ss_network_module": "networks.lora" if is_plain else "lycoris.kohya",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_output_name": title,
        **header,
        **notes,
        "contrapose": __version__,
    }


def _training(run: RunFolder) -> dict[str, str]:
    """What files of kohya's trainer say of how they were trained, of a run that tells it."""
    if run.home is None:
        return {}
    settings = RunFolder(run.home).settings()
    optimisation = settings.get("optimisation")
    if not isinstance(optimisation, dict):
        return {}
    header = {key: str(optimisation[name]) for key, name in _OPTIMISATION.items() if name in optimisation}
    if "seed" in settings:
        header["ss_seed"] = str(settings["seed"])
    weights = run.weights
    kept = [step for step, place in kept_steps(run.home).items() if place in (weights, weights.parent)]
    taken_at = kept[0] if kept else run.planned
    return header if taken_at is None else header | {"ss_steps": str(taken_at)}
