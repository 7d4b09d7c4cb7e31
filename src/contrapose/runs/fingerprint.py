"""Which weights these are: short digests of files, without loading a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from contrapose.errors import UserError

_VALUES = 64  # looked at in each tensor, evenly spaced


def weights_fingerprint(model: Path, parts: Iterable[str], variant: str | None = None) -> str:
    """A digest of the weights of these parts of a pipeline folder as they are stored, not as they are cast later.

    Names, shapes and up to 64 evenly spaced values of each tensor count, however the file is sharded; one checkpoint
    file counts whole.
    """
    files = _files(model, parts, variant)
    return _digest(tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files))


def stored_fingerprints(model: Path, parts: Iterable[str]) -> set[str]:
    """The digests of every variant of these parts in a pipeline folder, the plain one and such as fp16.

    One checkpoint file has one.
    """
    parts = list(parts)
    if model.is_file():
        return {weights_fingerprint(model, parts)}
    ends = {f.name.split(".")[1].split("-")[0] for part in parts for f in (model / part).glob("*.*.safetensors")}
    return {weights_fingerprint(model, parts, variant) for variant in (None, *sorted(ends))}


def _files(model: Path, parts: Iterable[str], variant: str | None) -> list[Path]:
    if model.is_file():
        return [model]
    weights = [f for part in sorted(parts) for f in sorted((model / part).glob("*.safetensors"))]
    if variant:
        return [f for f in weights if f".{variant}." in f.name or f".{variant}-" in f.name] or weights
    return [f for f in weights if f.name.count(".") == 1] or weights


@lru_cache(maxsize=16)
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    """The digest, remembered for this process as long as the files stay as they are."""
    lines = [line for path, *_ in files for line in _tensors(Path(path))]
    return hashlib.sha256(b"".join(sorted(lines))).hexdigest()[:16]


def _tensors(path: Path) -> list[bytes]:
    lines = []
    try:
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                value = tensors.get_tensor(name)
                flat = value.flatten()
                sample = flat[:: max(1, len(flat) // _VALUES)][:_VALUES].float()
                lines.append(f"{path.parent.name}.{name}{tuple(value.shape)}".encode() + sample.numpy().tobytes())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or broken ({error}); download the model again") from error
    return lines
