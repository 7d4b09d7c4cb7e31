"""Which backbone a model is; one line a family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from transformers import AutoTokenizer

from contrapose.backbones.adapters import apply_adapter
from contrapose.backbones.base import Backbone
from contrapose.backbones.families.flux import FLUX
from contrapose.backbones.families.flux_2 import FLUX_2_KLEIN
from contrapose.backbones.families.pixart import PIXART_SIGMA
from contrapose.backbones.families.qwen_image import QWEN_IMAGE
from contrapose.backbones.families.sana import SANA
from contrapose.backbones.families.stable_diffusion import STABLE_DIFFUSION, STABLE_DIFFUSION_XL
from contrapose.backbones.families.stable_diffusion_3 import STABLE_DIFFUSION_3
from contrapose.backbones.families.z_image import Z_IMAGE
from contrapose.backbones.family import Family
from contrapose.backbones.folders import parts_taken
from contrapose.backbones.loading import (
    Source,
    check_device,
    find,
    open_pipeline,
    quantization,
    tokenizer_folder,
    why_unreadable,
)
from contrapose.backbones.settings import Loading
from contrapose.errors import UserError
from contrapose.runs.folder import RunFolder

FAMILIES: tuple[Family, ...] = (
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION_3,
    SANA,
    PIXART_SIGMA,
    FLUX,
    Z_IMAGE,
    QWEN_IMAGE,
    FLUX_2_KLEIN,
)
KOHYA_LAYOUTS = tuple(layout for family in FAMILIES for layout in family.kohya)
Unread = Literal["denoiser", "text_encoders"]  # what a command may do without
IMAGES_ALONE: tuple[Unread, ...] = ("denoiser", "text_encoders")  # of what only encodes or decodes images
BY_PIPELINE = {pipeline.__name__: family for family in FAMILIES for pipeline in family.pipelines}


def load_backbone(
    model: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    adapter: Path | None = None,
    loading: Loading | None = None,
    network_dtype: torch.dtype | None = None,
    without_values: Collection[Unread] = (),
) -> Backbone:
    """The backbone of a model folder, hub id or checkpoint file, with an aligned run's weights on top.

    Parts move to `device` when they are first used. `network_dtype` is the denoiser's precision where it differs from
    the other parts'. Parts `without_values` have their parameters on the meta device, and are not read. Raises
    `UserError` when the model is of no known family, or a part of it or of the run is missing.
    """
    loading = loading or Loading()
    check_device(device)
    source = find(model, BY_PIPELINE, loading.variant)
    family = BY_PIPELINE[source.pipeline]
    if loading.text_length is not None and family.text_length is None:
        raise UserError(f"text_length: {model} reads a fixed number of tokens; leave the setting out")
    part = family.denoiser_part
    dtypes = {"default": dtype, part: network_dtype or dtype}
    if loading.quantize != "none" and source.path.is_file():
        raise UserError(f"quantize: {model} is one file, which diffusers does not quantise; use a model folder")
    quantized = {} if loading.quantize == "none" else {part: quantization(loading.quantize, dtype)}
    run = None if adapter is None else RunFolder(adapter)
    if run is not None:  # before gigabytes are read for a run that is not there, or another model's
        run.check(part, source)
    pipeline = pipeline_of(source)
    unread = [part] if "denoiser" in without_values else []
    if "text_encoders" in without_values:
        unread += [name for name in parts_taken(pipeline) if name.startswith("text_encoder")]
    pipe = open_pipeline(source, pipeline, dtypes, family.unused_parts, quantized, unread)
    if run is not None:
        apply_adapter(pipe, part, run)
    return Backbone.over(family, source, pipe, device, loading)


def pipeline_of(source: Source) -> type[DiffusionPipeline]:
    """The stock pipeline's class of a model that was found."""
    return next(p for p in BY_PIPELINE[source.pipeline].pipelines if p.__name__ == source.pipeline)


def family_of(pipe: DiffusionPipeline) -> Family:
    """The family of a pipeline: its own class, or one that has the same network, such as its inpainting.

    Raises `UserError` for a pipeline of no known family, such as a later one of a like name with another network.
    """
    family = BY_PIPELINE.get(type(pipe).__name__)
    if family is not None:
        return family
    stems = {name.removesuffix("Pipeline"): known_family for name, known_family in BY_PIPELINE.items()}
    matching = [stem for stem in stems if type(pipe).__name__.startswith(stem) and _has_network(pipe, stems[stem])]
    if not matching:
        raise UserError(f"a {type(pipe).__name__} is not supported (known: {', '.join(BY_PIPELINE)})")
    return stems[max(matching, key=len)]  # StableDiffusionXL before StableDiffusion


def _has_network(pipe: DiffusionPipeline, family: Family) -> bool:
    """Whether a pipeline predicts with a network of the class that the family's stock pipeline takes."""
    part = family.denoiser_part
    network = getattr(pipe, part, None)
    bare = getattr(network, "_orig_mod", network)  # what torch.compile was given
    return isinstance(bare, parts_taken(family.pipelines[0])[part])


def source_of(pipe: DiffusionPipeline) -> Source | None:
    """The folder that a pipeline was read from; None for one of a hub id, or put together from parts."""
    folder = Path(pipe.config.get("_name_or_path") or "")
    if not (folder / family_of(pipe).denoiser_part).is_dir() or not (folder / "vae").is_dir():
        return None
    return Source(str(folder), folder, type(pipe).__name__)


@dataclass(frozen=True)
class PromptReader:
    """What the largest text encoder reads of a prompt: `limit` tokens as `count` counts them; the rest is cut."""

    count: Callable[[str], int]
    limit: int

    def __call__(self, prompts: Iterable[str]) -> list[str]:
        """The prompts of which something is cut."""
        return [prompt for prompt in prompts if self.count(prompt) > self.limit]


def prompt_reader(model: str | Path, loading: Loading | None = None) -> PromptReader:
    """The reader of a model of which no network is loaded.

    Raises `UserError` when the model, or its tokenizer, cannot be found.
    """
    loading = loading or Loading()
    source = find(model, BY_PIPELINE, loading.variant)
    try:
        folder = tokenizer_folder(source, pipeline_of(source))
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a broken file makes these libraries raise anything at all
        raise UserError(f"{model}: its tokenizer cannot be loaded: {why_unreadable(source.path, error)}") from error
    return _reader(BY_PIPELINE[source.pipeline], tokenizer, loading)


def reader_of(backbone: Backbone) -> PromptReader:
    """The reader of a model that is loaded."""
    tokenizers = backbone.pipeline.tokenizers
    return _reader(backbone.family, tokenizers[max(tokenizers)], backbone.pipeline.loading)


def _reader(family: Family, tokenizer: Any, loading: Loading) -> PromptReader:
    set_limit = loading.text_length or family.text_length
    limit = min(filter(None, (set_limit, tokenizer.model_max_length)))
    return PromptReader(partial(family.count, tokenizer), limit)
