"""Published networks from this machine alone: a folder, or what the hub's cache holds; nothing is ever downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from contrapose.backbones.networks import read_network
from contrapose.backbones.settings import Precision
from contrapose.errors import UserError

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SMALL_FILES = ' --include "*.json" --include "*.txt"'  # to download of a model whose weights are not read
_VALUES = 64  # of each tensor that a fingerprint looks at, evenly spaced


def find(user: str, model: str, files: str = "") -> Path:
    """The folder of a model by its path or hub id; `user` is what needs it, for the message.

    Raises `UserError` with the command that gets it, or those of its `files` alone, when it is not on this machine.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except HFValidationError:
        raise UserError(f"{user}: {model}: no such model folder") from None
    except LocalEntryNotFoundError:
        raise UserError(
            f"{user}: {model} is not on this machine; run 'hf download {model}{files}' once, or name its folder"
        ) from None


@contextmanager
def reading(user: str, path: Path | str, fix: str = "download it again") -> Iterator[None]:
    """Tell in one line what goes wrong while a file or folder of weights is read."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a broken file makes these libraries raise anything at all
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{user}: {path}: cannot be loaded ({reason}); {fix}") from error


def load_network(user: str, folder: Path, kind: Any, dtype: Precision, device: str) -> Any:
    """A network of transformers' class `kind`, ready to predict.

    Raises `UserError` for files that are missing, broken or no safetensors, and for weights that are not the network's.
    """
    with reading(user, folder):
        try:
            network = read_network(kind, folder, dtype=_DTYPES[dtype], with_leftovers=True)
        except UserError as error:
            raise UserError(f"{user}: {error}") from error
        return ready(network, dtype, device)


def ready(network: torch.nn.Module, precision: Precision, device: str) -> Any:
    """The network in this precision on this device, to predict with and not to train."""
    return network.to(device, _DTYPES[precision]).eval().requires_grad_(False)


def load_tokenizer(user: str, folder: Path) -> Any:
    """The tokenizer of a folder; `UserError` where there is none, or one without words."""
    from transformers import AutoTokenizer

    with reading(user, folder):
        check_words(folder)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def check_words(folder: Path) -> None:
    """Raise ValueError for a folder without a vocabulary, from which transformers makes a tokenizer that knows none."""
    if not any(p.name == "tokenizer.json" or p.stem == "vocab" or p.suffix == ".model" for p in folder.iterdir()):
        raise ValueError("it has no vocabulary")


def load_image_processor(user: str, folder: Path) -> Any:
    """The preparation of images, by PIL wherever it runs: torchvision's differs by up to 0.015 a value."""
    from transformers import AutoImageProcessor

    with reading(user, folder):
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)


def fingerprint(*networks: torch.nn.Module) -> str:
    """A digest of weights as they compute: names, shapes, precision and 64 evenly spaced values of each tensor."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in sorted(network.state_dict().items()):
            flat = value.flatten()
            sample = flat[:: max(1, len(flat) // _VALUES)][:_VALUES].float().cpu()
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
