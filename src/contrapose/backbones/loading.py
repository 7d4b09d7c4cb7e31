"""From a folder or hub id to a pipeline, with one clear line when something is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from contrapose.errors import UserError

LORA_FILE = "pytorch_lora_weights.safetensors"
FULL_FOLDER = "model"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# What diffusers, transformers and peft raise for files that are missing, broken or do not fit.
_UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError)

# Pipeline class named in model_index.json -> the class that loads it.
FAMILIES: dict[str, type[DiffusionPipeline]] = {"StableDiffusionPipeline": StableDiffusionPipeline}


def best_device() -> str:
    """The fastest device of this machine: cuda, then mps, then cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def reads_too_little(tokenizer: PreTrainedTokenizerBase, prompts: Iterable[str]) -> list[str]:
    """Those prompts that are longer than the text encoder reads."""
    limit = tokenizer.model_max_length
    return [p for p in prompts if len(tokenizer(p, truncation=False, verbose=False).input_ids) > limit]


def load_tokenizer(model: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, without its networks."""
    try:
        return AutoTokenizer.from_pretrained(str(model), subfolder="tokenizer")
    except (OSError, ValueError) as error:
        raise UserError(f"{model}: its tokenizer cannot be loaded: {_one_line(error)}") from error


def load_pipeline(model: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> DiffusionPipeline:
    """The pipeline of a model, whole or not at all.

    Raises `UserError` for a folder that is no pipeline, an unknown family, or a missing or broken part.
    """
    pipe = _open(model, dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _open(model: str | Path, dtype: torch.dtype) -> DiffusionPipeline:
    folder = Path(model)
    if folder.exists():
        _check_parts(folder)
    elif str(model).startswith((".", "/", "~")) or str(model).count("/") > 1:
        raise UserError(f"{model}: no such model folder")
    options = {} if not folder.exists() else {"local_files_only": True}
    try:
        return StableDiffusionPipeline.from_pretrained(
            str(model), dtype=dtype, safety_checker=None, requires_safety_checker=False, use_safetensors=True, **options
        )
    except _UNREADABLE as error:
        raise UserError(f"{model}: cannot be loaded as a diffusers pipeline: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 300 else text[:300] + " ..."


def _check_parts(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder}: no model_index.json, so this is no diffusers pipeline folder")
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        parts = None
    if not isinstance(parts, dict):
        raise UserError(f"{index}: not valid JSON; download the model again")
    family = parts.get("_class_name")
    if family not in FAMILIES:
        raise UserError(f"{folder}: a {family} is not supported yet (known: {', '.join(FAMILIES)})")
    for part, source in parts.items():
        needed = isinstance(source, list) and source[0] and part not in ("safety_checker", "feature_extractor")
        if needed and not any(p for p in (folder / part).glob("*") if p.suffix in (".json", ".safetensors", ".txt")):
            raise UserError(f"{folder}: its part {part}/ is missing; download the model again")


def apply_adapter(pipe: DiffusionPipeline, adapter: Path) -> None:
    """Put an aligned run's weights on top; `UserError` when there are none, or they do not fit."""
    if not adapter.exists():
        raise UserError(f"{adapter}: no such run")
    full = (adapter / FULL_FOLDER / "unet").is_dir()
    if not full and not (adapter / LORA_FILE).is_file():
        raise UserError(f"{adapter}: holds neither {LORA_FILE} nor {FULL_FOLDER}/; has the run finished?")
    try:
        if full:
            unet = UNet2DConditionModel.from_pretrained(adapter / FULL_FOLDER / "unet", dtype=pipe.unet.dtype)
            pipe.unet = unet.to(pipe.device)
        else:
            pipe.load_lora_weights(adapter, weight_name=LORA_FILE)
    except _UNREADABLE as error:
        raise UserError(f"{adapter}: its weights are broken or do not fit this model: {_one_line(error)}") from error


def fingerprint(*modules: nn.Module) -> str:
    """A short digest of weights: names, shapes and up to 64 evenly spaced values of each tensor, read as float32."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            flat = value.detach().flatten()
            sample = flat[:: max(1, len(flat) // 64)][:64].float().cpu()
            digest.update(f"{name}{tuple(value.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def model_fingerprint(pipe: DiffusionPipeline) -> str:
    """Which denoiser and autoencoder these are; LoRA layers on top do not count, so take it before loading them."""
    return fingerprint(pipe.unet, pipe.vae)
