"""Pairs on disk: `pairs.yaml` says how they were made, and each shard is one file, whole or absent.

A shard is a safetensors file with `winner` and `loser` latents [k, ...] and its records as JSON in the header, so that
tensors and texts can never be out of step. Disks and people change files: all that a header tells is checked when a
folder is opened, and a latent when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from contrapose.contents import digest_of_parts, file_digest
from contrapose.errors import UserError
from contrapose.files import is_writable
from contrapose.store.manifest import MADE, MANIFEST, read_manifest
from contrapose.tensors import save_tensors

_SIDES = ["loser", "winner"]
_DTYPES = ("F16", "BF16", "F32")  # as safetensors names them
_AGAIN = "delete it and run the command that made it again"


@dataclass(frozen=True)
class PairRecord:
    """One comparison: winner drawn from `prompt`, loser from `degraded`, with the same seed."""

    id: str
    prompt: str
    degraded: str
    seed: int
    preference: float = 1.0  # the winner's share: 1 decided, 0.5 a tie


_FIELDS = tuple(PairRecord.__dataclass_fields__)


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.safetensors"


def write_shard(folder: Path, index: int, records: Sequence[PairRecord], latents: dict[str, Tensor]) -> None:
    """Write one shard, aside and renamed."""
    assert all(len(value) == len(records) for value in latents.values())
    header = {"records": json.dumps([asdict(r) for r in records], ensure_ascii=False)}
    save_tensors(shard_path(folder, index), latents, header)


def count_and_digest(records: Iterable[PairRecord]) -> tuple[int, str]:
    """How many records there are, and a digest of them in the order of their shards: `pairs.yaml` knows them by it."""
    num, digest = 0, hashlib.sha256()
    for record in records:
        digest.update(json.dumps(list(vars(record).values())).encode() + b"\n")
        num += 1
    return num, digest.hexdigest()[:16]


class Shard(NamedTuple):
    """One file of pairs: its records in their order, and the shape of each of their latents."""

    path: Path
    records: list[PairRecord]
    shape: tuple[int, ...]


class PairStore:
    """Read access to a folder of pairs: `len`, `records[i]`, and latents by index, read lazily.

    Raises `UserError` naming the file when the manifest or a shard is missing or broken, and when these are not all the
    pairs that the manifest tells of; `complete=False` opens such a folder, and `flaw` says what is the matter.
    """

    def __init__(self, folder: Path, complete: bool = True):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        # by length first, or the hundred thousandth would stand before the second
        self.shards = sorted(self.folder.glob("shard-*.safetensors"), key=lambda path: (len(path.name), path.name))
        if not self.shards:
            raise UserError(f"{self.folder}: holds no shards yet; run the command that began it again")
        self.records: list[PairRecord] = []
        self._shapes: list[tuple[int, ...]] = []
        self._where: list[tuple[int, int]] = []
        for index, path in enumerate(self.shards):
            shard = read_shard(path)
            self.records += shard.records
            self._shapes.append(shard.shape)
            self._where += [(index, row) for row in range(len(shard.records))]
        self._open = lru_cache(maxsize=64)(_open_shard)
        self.flaw = self._compared()
        if complete and self.flaw:
            raise UserError(f"{self.folder}: {self.flaw}")

    def _compared(self) -> str | None:
        """In what the pairs differ from those that the manifest tells of; None when they are the same."""
        planned = self.manifest["num_pairs"]
        if len(self) < planned:
            return f"holds {len(self)} of {planned} pairs; run the command that made them again"
        if len(self) > planned:
            return (
                f"holds {len(self)} pairs, where {MANIFEST} tells of {planned}; take away the shards of other pairs "
                f"(the last one is {self.shards[-1].name})"
            )
        digest = self.manifest.get("pairs_digest")
        if digest is not None and digest != count_and_digest(self.records)[1]:
            return (
                f"holds other pairs than {MANIFEST} tells of; delete the folder and run the command that made it again"
            )
        return None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def settings(self) -> dict[str, Any]:
        """What the pairs were drawn, imported or made of photographs with; empty where that was not recorded."""
        return next((self.manifest[made] for made in MADE if made in self.manifest), {})

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
        """The latent `winner` or `loser` of one record; raises `UserError` when it holds values that are not finite."""
        latent = self._stored(field, index)
        if not latent.isfinite().all():
            path = self.shards[self._where[index][0]]
            raise UserError(
                f"{path}: record {self.records[index].id}: its {field} holds values that are not finite; "
                f"'contrapose pairs check {self.folder}' names all of them"
            )
        return latent

    def latents(self) -> Iterator[tuple[int, str, Tensor]]:
        """Every stored latent as it is, with its record's number and field."""
        for index in range(len(self)):
            for field in ("winner", "loser"):
                yield index, field, self._stored(field, index)

    def _stored(self, field: str, index: int) -> Tensor:
        shard, row = self._where[index]
        return self._open(self.shards[shard]).get_slice(field)[row]


def read_shard(path: Path) -> Shard:
    """What a shard's header tells; no latent is read.

    Raises `UserError` naming the file, and the record, when it is truncated or no shard of pairs.
    """
    file = _open_shard(path)
    records = _records(path, file.metadata() or {})
    names = sorted(file.keys())
    if names != _SIDES:
        raise UserError(f"{path}: holds the tensors {', '.join(names) or 'none'}, not {' and '.join(_SIDES)}; {_AGAIN}")
    sides = [file.get_slice(name) for name in names]
    (num, *shape), *others = [side.get_shape() or [0] for side in sides]
    if [[num, *shape]] != others:
        raise UserError(f"{path}: its winners and losers have different shapes; {_AGAIN}")
    if num != len(records):
        raise UserError(f"{path}: holds {num} latents of each side for {len(records)} records; {_AGAIN}")
    if not shape or 0 in shape:
        raise UserError(f"{path}: holds latents of shape {shape}, which are none; {_AGAIN}")
    for name, side in zip(names, sides, strict=True):
        if side.get_dtype() not in _DTYPES:
            raise UserError(f"{path}: its {name}s are {side.get_dtype()}, not {', '.join(_DTYPES)}; {_AGAIN}")
    return Shard(path, records, tuple(shape))


def _open_shard(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or broken ({error}); {_AGAIN}") from None


def _records(path: Path, header: dict[str, str]) -> list[PairRecord]:
    try:
        raw = json.loads(header["records"])
    except (KeyError, ValueError, RecursionError):
        raw = None
    if not isinstance(raw, list) or not raw:
        raise UserError(f"{path}: has no records in its header; {_AGAIN}")
    records = []
    for number, entry in enumerate(raw, start=1):
        try:
            records.append(_record(entry))
        except ValueError as error:
            raise UserError(f"{path}: record {number}: {error}; {_AGAIN}") from None
    return records


def _record(entry: Any) -> PairRecord:
    """One record; raises `ValueError` for fields and values that no command writes."""
    if not isinstance(entry, dict) or set(entry) != set(_FIELDS):
        raise ValueError(f"is not an object of {', '.join(_FIELDS)}")
    record = PairRecord(**entry)
    for name in ("id", "prompt", "degraded"):
        text = getattr(record, name)
        if not isinstance(text, str):
            raise ValueError(f"its {name} is {_shown(text)}, where a text is wanted")
        if not is_writable(text):
            raise ValueError(f"its {name} holds a NUL or half of a surrogate pair")
    if type(record.seed) is not int or not 0 <= record.seed < 2**63:
        raise ValueError(f"its seed is {_shown(record.seed)}, where a whole number from 0 to 2**63 - 1 is wanted")
    if type(record.preference) not in (int, float) or not 0 <= record.preference <= 1:
        raise ValueError(f"its preference is {_shown(record.preference)}, where a share from 0 to 1 is wanted")
    return record


def _shown(value: Any) -> str:
    return repr(value)[:100]


class Latents(Protocol):
    """Whatever gives latents by field and record."""

    def latent(self, field: str, index: int) -> Tensor: ...


def stack(store: Latents, field: str, indices: Sequence[int]) -> Tensor:
    """Latents of several records of one shape, [b, ...]."""
    return torch.stack([store.latent(field, index) for index in indices])
