"""Pairs on disk: `pairs.yaml` says how they were made, and each shard is one file, whole or absent.

A shard is a safetensors file with `winner` and `loser` latents [k, ...] and its records as JSON in the header, so that
tensors and texts can never be out of step.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from contrapose.contents import digest_of_parts, file_digest
from contrapose.errors import UserError
from contrapose.files import replacing

MANIFEST = "pairs.yaml"


@dataclass(frozen=True)
class PairRecord:
    """One comparison: winner drawn from `prompt`, loser from `degraded`, with the same seed."""

    id: str
    prompt: str
    degraded: str
    seed: int
    preference: float = 1.0  # the winner's share: 1 decided, 0.5 a tie


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.safetensors"


def write_shard(folder: Path, index: int, records: Sequence[PairRecord], latents: dict[str, Tensor]) -> None:
    """Write one shard, aside and renamed."""
    assert all(len(value) == len(records) for value in latents.values())
    header = {"records": json.dumps([asdict(r) for r in records], ensure_ascii=False)}
    with replacing(shard_path(folder, index)) as aside:
        save_file({name: value.contiguous() for name, value in latents.items()}, aside, metadata=header)


class PairStore:
    """Read access to a folder of pairs: `len`, `records[i]`, and latents by index, read lazily.

    Raises `UserError` naming the file when the manifest or a shard is missing or broken.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            raise UserError(
                f"{self.folder}: no {MANIFEST}, so this is no folder of pairs; "
                "make one with 'contrapose pairs draw', 'pairs import' or 'pairs real'"
            )
        self.manifest = _read_manifest(manifest)
        self.shards = sorted(self.folder.glob("shard-*.safetensors"))
        if not self.shards:
            raise UserError(f"{self.folder}: holds no shards yet; run the command that began it again")
        self.records: list[PairRecord] = []
        self._shapes = [latent_shape(path) for path in self.shards]
        self._where: list[tuple[int, int]] = []
        for index, path in enumerate(self.shards):
            records = read_records(path)
            self.records += records
            self._where += [(index, row) for row in range(len(records))]
        self._open = lru_cache(maxsize=64)(_open_shard)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def settings(self) -> dict[str, Any]:
        """What the pairs were drawn, imported or made of photographs with; empty where that was not recorded."""
        return next((self.manifest[made] for made in ("draw", "import", "real") if made in self.manifest), {})

    @property
    def digest(self) -> str:
        """A digest of all pairs, wherever the folder lies and whatever it is called."""
        return digest_of_parts(f"{shard.name} {file_digest(shard)}" for shard in self.shards)

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of one record's latents, the same for its winner and its loser."""
        return self._shapes[self._where[index][0]]

    @property
    def usual_shape(self) -> tuple[int, ...]:
        """The shape that most records have."""
        counts = Counter(self.shape(index) for index in range(len(self)))
        return counts.most_common(1)[0][0]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The distinct shapes of all latents."""
        return sorted(set(self._shapes))

    def latent(self, field: str, index: int) -> Tensor:
        """The latent `winner` or `loser` of one record."""
        shard, row = self._where[index]
        return self._open(self.shards[shard]).get_slice(field)[row]

    def latents(self) -> Iterator[tuple[int, str, Tensor]]:
        """Every stored latent, with its record's number and field."""
        for index in range(len(self)):
            for field in ("winner", "loser"):
                yield index, field, self.latent(field, index)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        manifest = None
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: broken; delete the folder and run the command that made it again")
    return manifest


def _open_shard(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: truncated or broken ({error}); delete it and run the command that made it again"
        ) from None


def read_records(path: Path) -> list[PairRecord]:
    """The records in a shard's header; `UserError` when the shard is truncated or no shard of pairs."""
    header = _open_shard(path).metadata() or {}
    try:
        return [PairRecord(**record) for record in json.loads(header["records"])]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: has no records in its header; it was not written by Contrapose") from None


def latent_shape(path: Path) -> tuple[int, ...]:
    """The shape of every latent in a shard; `UserError` when it has no winners and losers of one shape."""
    shard = _open_shard(path)
    shapes = {tuple(shard.get_slice(name).get_shape()[1:]) for name in shard.keys() if name in ("winner", "loser")}  # noqa: SIM118
    if len(shapes) != 1:
        raise UserError(f"{path}: winners and losers have different shapes; it was not written by Contrapose")
    return shapes.pop()


class Latents(Protocol):
    """Whatever gives latents by field and record."""

    def latent(self, field: str, index: int) -> Tensor: ...


def stack(store: Latents, field: str, indices: Sequence[int]) -> Tensor:
    """Latents of several records of one shape, [b, ...]."""
    return torch.stack([store.latent(field, index) for index in indices])
