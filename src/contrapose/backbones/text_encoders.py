"""Which text encoders these are, as they compute: with all that was put on them since they were read, such as adapters.

Their files do not tell that, so this looks at the networks themselves. It is quick enough for every batch of prompts:
one number of each row of each weight is read, which sees a new word, an adapter, and one that was fused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

_TEXTS = (".json", ".txt", ".model")  # of tokenizers: configurations and vocabularies


def encoders_digest(encoders: Mapping[str, nn.Module]) -> str:
    """A digest of text encoders by their names in the pipeline, wherever they are."""
    digest = hashlib.sha256()
    for name, encoder in sorted(encoders.items()):
        digest.update(f"{name} {type(encoder).__name__}".encode())
        for line in _adapters_of(encoder):
            digest.update(line.encode())
        digest.update(_sample_of(encoder))
    return digest.hexdigest()[:16]


def tokenizers_digest(folder: Path, tokenizers: Mapping[str, Any]) -> str:
    """A digest of the tokenizers of a pipeline's folder, and of how many words they know by now."""
    digest = hashlib.sha256()
    for place in sorted(folder.glob("tokenizer*")):
        for path in sorted(file for file in place.iterdir() if file.suffix in _TEXTS):
            digest.update(path.read_bytes())
    digest.update(str({name: len(tokenizers[name]) for name in sorted(tokenizers)}).encode())
    return digest.hexdigest()[:16]


def _adapters_of(encoder: nn.Module) -> Iterator[str]:
    """How the adapters of each layer act, beside their weights."""
    for name, layer in encoder.named_modules():
        if isinstance(layer, BaseTunerLayer):
            acting = [] if layer.disable_adapters else layer.active_adapters
            scaling = sorted(getattr(layer, "scaling", {}).items())
            yield f"{name} {acting} {layer.merged_adapters} {scaling}"


@torch.no_grad()
def _sample_of(encoder: nn.Module) -> bytes:
    """Names, shapes and kinds of all tensors, and one number of each row of each."""
    lines = []
    samples = []
    for name, value in encoder.state_dict().items():
        lines.append(f"{name} {tuple(value.shape)} {value.dtype}")
        if not value.is_meta:  # of a network without weights its shapes are all there is to tell
            samples.append(_one_a_row(value).float())
    # Together, so that a device is waited for once.
    numbers = torch.cat(samples).cpu().numpy().tobytes() if samples else b""
    return "\n".join(lines).encode() + numbers


def _one_a_row(value: Tensor) -> Tensor:
    if value.ndim < 2 or not value.numel():
        return value.flatten()
    rows = value.flatten(1)
    number = torch.arange(len(rows), device=value.device)
    return rows[number, number % rows.shape[1]]
