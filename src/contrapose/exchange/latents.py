"""Latents that another program drew: checked, and stored as they are.

The files do not say which model drew them. The user names one; the latents' shape is checked against that model, and
the manifest notes that the rest is the user's word.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from contrapose.backbones.base import Backbone
from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.places import Place
from contrapose.containers.spool import apart
from contrapose.containers.stored import Stored, stored_from_json, stored_to_json
from contrapose.errors import UserError
from contrapose.exchange.listings import Listed
from contrapose.seeds import seed_of
from contrapose.store.prompts import prompt_id
from contrapose.store.records import GroupRecord

NOTE = "ddspo latents, taken as they are; that this model drew them is not recorded with them"
Shape = tuple[int, ...]


class Ready(NamedTuple):
    """One pair of latents to store."""

    record: GroupRecord
    files: tuple[Stored, Stored]
    size: Shape
    mask: None = None
    """Latents come without."""

    def to_json(self) -> list[Any]:
        """All of it in what JSON holds."""
        return [self.record.to_json(), [stored_to_json(file) for file in self.files], self.size]

    @classmethod
    def from_json(cls, said: list[Any]) -> Ready:
        """The pair of which this was said."""
        record, (winner, loser), size = said
        return cls(GroupRecord.from_json(record), (stored_from_json(winner), stored_from_json(loser)), tuple(size))


def plan_latents(
    listed: Sequence[Listed], backbone: Backbone, seed: int, progress: Callable[[int], None]
) -> tuple[Sequence[Ready], list[LeftOut]]:
    """The pairs that can be stored, in order, and the others with their reason; every file is read once.

    Raises `UserError` for a latent that the model cannot have drawn.
    """
    repeats: Counter[str] = Counter()
    tried = (attempt(pair.name, _ready, pair, backbone, seed, repeats) for pair in listed)
    return apart(tried, Ready.to_json, Ready.from_json, progress)


def read_pairs(pairs: Sequence[Ready]) -> Tensor:
    """Latents [b, 2, ...] of pairs of one shape, winners first."""
    latents = []
    try:
        for pair in pairs:
            latents.append(torch.stack([_latent(file) for file in pair.files]))
    except Skip as skip:  # it could be read a moment ago
        raise UserError(f"{pairs[0].files[0].path.parent}: {skip}; run the same command again") from None
    return torch.stack(latents)


def _ready(pair: Listed, backbone: Backbone, seed: int, repeats: Counter[str]) -> Ready:
    winner, loser = (_latent(file) for file in (pair.winner, pair.loser))
    for file, latent in ((pair.winner, winner), (pair.loser, loser)):
        _check_fits(file.path, tuple(latent.shape), backbone)
        if not latent.isfinite().all():
            raise Skip(f"{file.name}: holds values that are not finite")
    if winner.shape != loser.shape:
        raise Skip(f"winner and loser have different shapes, {list(winner.shape)} and {list(loser.shape)}")
    if bool((winner == loser).all()):
        raise Skip("winner and loser are the same latent")
    # by the values in fp32, so that the file's precision and header make no other pair of it
    digests = (hashlib.sha256(latent.numpy().tobytes()).hexdigest() for latent in (winner, loser))
    name = prompt_id("\0".join((pair.prompt, pair.degraded, *digests)))
    record = GroupRecord.pair(f"{name}-{repeats[name]}", pair.prompt, pair.degraded, seed_of(seed, name))
    repeats[name] += 1
    return Ready(record, (pair.winner, pair.loser), tuple(winner.shape))


def _latent(file: Stored) -> Tensor:
    """The file's `latent`, [c, h, w] in fp32."""
    try:
        latent = load(file.read()).get("latent")
    except (SafetensorError, OSError, ValueError) as error:
        raise Skip(f"{file.name}: is cut short or no safetensors file ({type(error).__name__})") from None
    if latent is None:
        raise Skip(f"{file.name}: holds no tensor `latent`")
    if not latent.is_floating_point() or latent.element_size() < 2:
        kind = str(latent.dtype).removeprefix("torch.")
        raise Skip(f"{file.name}: its latent is of {kind}; fp16, bf16 and fp32 are taken")
    return latent.float()


def _check_fits(path: Place, shape: Shape, backbone: Backbone) -> None:
    channels, *sides = backbone.images.latent_shape
    patch = backbone.images.patch
    if len(shape) != 1 + len(sides) or shape[0] != channels or any(side % patch for side in shape[1:]):
        raise UserError(
            f"{path}: a latent of shape {list(shape)} was not drawn by {backbone.source.model}, whose latents are "
            f"{[channels, *('*' for _ in sides)]} with sides in multiples of {patch}; name the --model that drew it"
        )
