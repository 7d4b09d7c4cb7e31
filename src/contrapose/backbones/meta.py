"""A backbone without weights: its parts on the meta device, made from configurations alone, with shapes but no values.

Configurations of well-known models are shipped in `configs/`, each a pipeline folder without weights; those of a local
folder or of a hub id are read where they are, and nothing else of it is.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import BY_PIPELINE
from contrapose.backbones.folders import INDEX, check_parts, class_of, is_absent, read_index
from contrapose.backbones.loading import Source, check_family, told_of_hub
from contrapose.backbones.settings import Loading
from contrapose.backbones.single_file import pipeline_of_checkpoint
from contrapose.core.group import Condition
from contrapose.errors import UserError, one_line

CONFIGS = Path(__file__).parent / "configs"
SHIPPED = tuple(sorted(folder.name for folder in CONFIGS.iterdir()))
_LAYOUT_OF = {
    "CompVis/stable-diffusion-v1-4": "sd15",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3-medium",
    "stabilityai/stable-diffusion-3.5-medium": "sd35-medium",
    "stabilityai/stable-diffusion-3.5-large": "sd35-large",
    "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": "sana-1600m",
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": "pixart-sigma",
    "black-forest-labs/FLUX.1-dev": "flux-dev",
    "black-forest-labs/FLUX.2-klein-base-4B": "flux2-klein-base-4b",
    "Qwen/Qwen-Image": "qwen-image",
    "Tongyi-MAI/Z-Image": "z-image",
}  # hub ids of the shipped configurations: neither a network nor a login is needed for these
_TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
_META = torch.device("meta")


def skeleton(model: str | Path, dtype: torch.dtype = torch.float32, loading: Loading | None = None) -> Backbone:
    """The backbone of a shipped name, a pipeline folder or a hub id on the meta device; tokenizers are left out.

    Raises `UserError` when there is no such model, or it is of no known family.
    """
    folder = _where(str(model))
    index = _index_of(folder)
    name = str(index.get("_class_name"))
    check_family(model, name, BY_PIPELINE)
    family = BY_PIPELINE[name]
    pipeline = next(p for p in family.pipelines if p.__name__ == name)
    if Path(folder).is_dir():
        check_parts(Path(folder), pipeline, (*family.unused_parts, *_TOKENIZERS), family.optional_parts)
    parts: dict[str, Any] = {}
    for part, source in index.items():
        # an index also tells its class and version, and settings that are no networks
        wanted = part in inspect.signature(pipeline.__init__).parameters and isinstance(source, (list, tuple))
        if wanted:
            is_built = not is_absent(source) and part not in family.unused_parts and not part.startswith("tokenizer")
            parts[part] = _read(partial(_build, folder, part, source, dtype), model) if is_built else None
    missing: dict[str, Any] = dict.fromkeys(p for p in _components(pipeline) if p not in parts)
    if "safety_checker" in _components(pipeline):
        # or the stock pipeline warns that the one that is left out is not there
        missing["requires_safety_checker"] = False
    pipe = _read(lambda: pipeline(**parts, **missing), model)
    return Backbone.over(family, Source(str(model), Path(folder), name), pipe, _META, loading or Loading())


def example(backbone: Backbone, rows: int, shape: tuple[int, ...], tokens: int) -> tuple[Tensor, Tensor, Condition]:
    """x_t [rows, *shape], times [rows] and texts of so many tokens for a policy's prediction, all without values."""
    denoiser = backbone.denoiser
    x_t = torch.empty(rows, *shape, dtype=denoiser.dtype, device=_META)
    t = denoiser.path.at_level(0.5, rows).to(_META)
    return x_t, t, example_text(backbone, rows, tokens)


def example_text(backbone: Backbone, rows: int, tokens: int) -> Condition:
    """What `backbone.text.embed` gives for prompts of so many tokens, without values."""
    family = backbone.family
    config = backbone.denoiser.network.config
    dtype = backbone.denoiser.dtype
    condition = {"text": torch.empty(rows, tokens, config[family.text_width], dtype=dtype, device=_META)}
    pooled = family.pooled_width(backbone.pipeline.stock, config)
    if pooled is not None:
        condition["pooled"] = torch.empty(rows, pooled, dtype=dtype, device=_META)
    if family.trims_text:
        condition["length"] = torch.full((rows,), tokens)
    return condition


def encoding(backbone: Backbone, shape: tuple[int, ...]) -> tuple[Callable[[], object], list[Callable[[], object]]]:
    """Calls without values: one that encodes an image whose latent has this shape, and one a text encoder.

    The text encoders read one prompt at their full length.
    """
    pipeline = backbone.pipeline
    vae = pipeline.stock.vae
    sides = [side * pipeline.unit for side in shape[1:]]
    image = torch.empty(1, 3, *sides, dtype=vae.dtype, device=_META)
    prompts: list[Callable[[], object]] = []
    for encoder in pipeline.encoders.values():
        is_clip = type(encoder).__name__.startswith("CLIP")
        length = encoder.config.max_position_embeddings if is_clip else pipeline.tokens
        prompts.append(partial(encoder, torch.zeros(1, length, dtype=torch.long, device=_META)))
    return partial(backbone.family.encode, vae, image), prompts


def decoding(backbone: Backbone, shape: tuple[int, ...]) -> Callable[[], object]:
    """A call without values that decodes one image from a latent of this shape."""
    vae = backbone.pipeline.stock.vae
    latent = torch.empty(1, *shape, dtype=vae.dtype, device=_META)
    return partial(backbone.family.decode, vae, latent)


def num_parameters(backbone: Backbone) -> dict[str, int]:
    """Weights of each network of the pipeline, by its name."""
    counts: dict[str, int] = {}
    for name, part in backbone.pipeline.stock.components.items():
        if isinstance(part, nn.Module):
            counts[name] = sum(weight.numel() for weight in part.parameters())
    return counts


def _where(model: str) -> str:
    """What the libraries read configurations from: a folder, or a hub id; a folder goes before a shipped layout."""
    if (Path(model) / INDEX).is_file():
        return model
    if model in SHIPPED:
        return str(CONFIGS / model)
    if Path(model).is_dir():
        return model
    if model in _LAYOUT_OF:
        return str(CONFIGS / _LAYOUT_OF[model])
    if Path(model).is_file():
        pipeline_of_checkpoint(Path(model), BY_PIPELINE)  # which refuses what is no model
        raise UserError(f"{model}: one file says too little; name its layout, which is one of {', '.join(SHIPPED)}")
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise UserError(
            f"{model}: no such model; name a folder of a diffusers pipeline, a hub id or one of {', '.join(SHIPPED)}"
        )
    return model


def _index_of(folder: str) -> dict[str, Any]:
    if Path(folder).is_dir():
        return read_index(Path(folder))
    with told_of_hub(folder):
        return read_index(Path(hf_hub_download(folder, INDEX)).parent)


def _components(pipeline: Any) -> list[str]:
    """The arguments without a default, and the optional parts."""
    parameters = inspect.signature(pipeline.__init__).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.name != "self" and p.kind != p.VAR_KEYWORD]
    return list(dict.fromkeys([*required, *getattr(pipeline, "_optional_components", [])]))


def _build(folder: str, part: str, source: Sequence[str], dtype: torch.dtype) -> Any:
    """One part of the pipeline; the scheduler is a real one."""
    cls: Any = class_of(Path(folder), part, source)
    if issubclass(cls, transformers.PreTrainedModel):
        config = transformers.AutoConfig.from_pretrained(folder, subfolder=part, trust_remote_code=False)
        with _META:
            return cls._from_config(config).to(dtype)
    config = cls.load_config(folder, subfolder=part)
    if part == "scheduler":
        return cls.from_config(config)
    with _META:
        return nn.Module.to(cls.from_config(config), dtype)


def _read(load: Callable[[], Any], model: str | Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the hub's client warns of its own caller
            return load()
    except UserError:
        raise
    except Exception as error:  # a broken file makes these libraries raise anything at all
        raise UserError(f"{model}: its configuration cannot be read: {one_line(error)}") from error
