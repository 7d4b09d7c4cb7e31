"""Aligned runs merged into weights: the first-order version of guidance by them, at the base's own cost.

    theta' = theta + w (theta_pos - theta_neg),   with theta itself for theta_neg where there is no negative

First order in how far the runs are from the base: for changes of size e, the predictions of a merge and of guidance
differ by O(e^2) at any w; a small w alone does not make them agree.

Adapters give adapters, exactly: w (s_p B_p A_p - s_n B_n A_n) = [w s_p B_p, -w s_n B_n] [A_p; A_n], whose rank is the
sum of theirs. Networks that were trained whole give a whole pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional

from contrapose.backbones.adapters import state_of, whole_network
from contrapose.backbones.base import Backbone
from contrapose.backbones.digests import model_digest
from contrapose.backbones.families.table import BY_PIPELINE, load_backbone
from contrapose.backbones.loading import Source, find
from contrapose.backbones.meta import skeleton
from contrapose.backbones.settings import Loading
from contrapose.contents import digest_of, digest_of_parts
from contrapose.documents import dump_yaml, load_yaml
from contrapose.errors import UserError
from contrapose.files import one_writer, replacing
from contrapose.guiding.settings import Merge
from contrapose.runs.adapter_files import Adapter, LowRank, add_to
from contrapose.runs.fingerprint import weights_fingerprint
from contrapose.runs.names import BASE_NOTE
from contrapose.runs.saving import save_lora, tell_no_folders

NOTE = "merge.yaml"
_NOTHING = 1e-24  # of the factors' squared norm: what is left of adapters that cancel is rounding


class Merged(NamedTuple):
    """What was written: a whole pipeline or adapters, their rank, and the share of their squared norm that is kept."""

    whole: bool
    rank: int | None
    kept: float = 1.0
    already: bool = False
    """Whether it was there before, made by the same merge."""


def merge(settings: Merge, out: Path) -> Merged:
    """Write the merged adapters, as `align` writes a run's, or a whole pipeline folder, with the settings beside them.

    Does nothing where `out` is what the same merge made of the same base and runs. Raises `UserError` for runs of
    another model, a merge that changes nothing, a rank that there is not, and an `out` that holds something else.
    """
    with one_writer(out, beside=True):
        if out.is_dir() and (out / NOTE).is_file():
            return _made_before(settings, out)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: is there already, and no empty folder; choose another --out")
        return _merge(settings, out)


def _made_before(settings: Merge, out: Path) -> Merged:
    """What the folder says that it holds; `UserError` where that was not made of this, or has changed since."""
    note = load_yaml(out / NOTE, "choose another --out")
    if not isinstance(note, dict) or note.get("made_of") != _digest(settings):
        raise UserError(f"{out}: already holds a merge of other settings or other runs; choose another --out")
    if note.get("holds") != digest_of(out, skip=out / NOTE):
        raise UserError(f"{out}: has changed since it was merged; choose another --out, or delete the folder")
    return Merged(note["whole"], note["rank"], note["kept"], already=True)


def _digest(settings: Merge) -> str:
    """A digest of all that decides a merge: what its base and its runs hold, and the other settings."""
    runs = [(run.digest, share) for run, share in settings.shares]
    base = model_digest(settings.base, Loading(variant=settings.variant))
    return digest_of_parts([base, runs, settings.rank, settings.whole])


def _merge(settings: Merge, out: Path) -> Merged:
    source = find(settings.base, BY_PIPELINE, settings.variant)
    part = BY_PIPELINE[source.pipeline].denoiser_part
    origin = _origin(settings, source, part)
    in_full = [run for run, _ in settings.shares if not run.has_adapters]
    if in_full and settings.rank is not None:
        raise UserError(f"rank {settings.rank}: {in_full[0]} was trained in full and has none; leave --rank out")
    with replacing(out) as aside:
        aside.mkdir()
        if in_full or settings.whole:
            merged = _write_whole(aside, settings, source, part)
        else:
            merged = _write_adapters(aside, settings, source, part, origin)
        result = {"whole": merged.whole, "rank": merged.rank, "kept": merged.kept}
        content = {"made_of": _digest(settings), "holds": digest_of(aside)}
        note = _told(settings) | {"base_fingerprint": origin} | result | content
        (aside / NOTE).write_text(dump_yaml(note), encoding="utf-8")
    return merged


def stacked(adapters: Sequence[tuple[Adapter, float]]) -> dict[str, LowRank]:
    """sum_i c_i s_i B_i A_i on every layer as one adapter of scale 1, [c_1 s_1 B_1, ...] [A_1; ...].

    All layers get the sum of the ranks; where a layer is in some of the adapters only, the rest is zero.
    """
    rank = sum(max(one.rank for one in adapter.values()) for adapter, _ in adapters)
    found = {}
    for layer in sorted({layer for adapter, _ in adapters for layer in adapter}):
        held = [(adapter[layer], share) for adapter, share in adapters if layer in adapter]
        up = torch.cat([one.up * (one.scale * share) for one, share in held], 1)
        found[layer] = _padded(LowRank(torch.cat([one.down for one, _ in held]), up, 1.0), rank)
    return found


def truncated(adapter: Adapter, rank: int) -> tuple[dict[str, LowRank], float]:
    """The nearest adapter of this rank on every layer, and the share of the squared norm that it keeps.

    From the factors alone: B = Q_b R_b, A^T = Q_a R_a and R_b R_a^T = U S V^T give B A = (Q_b U) S (Q_a V)^T.
    """
    found, kept, whole = {}, 0.0, 0.0
    for layer, one in adapter.items():
        (q_up, r_up), (q_down, r_down) = _halves(one)
        left, values, right = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
        root = values[:rank].sqrt()
        up, down = q_up @ (left[:, :rank] * root), (root[:, None] * right[:rank]) @ q_down.T
        cut = LowRank(_shaped_like(down, one.down), _shaped_like(up, one.up), 1.0)
        found[layer] = _padded(cut, rank)
        kept += float(values[:rank].square().sum())
        whole += float(values.square().sum())
    return found, kept / whole


def _halves(one: LowRank) -> Iterator[tuple[Tensor, Tensor]]:
    """Q R of B and of A^T as matrices, in double precision."""
    return (torch.linalg.qr(factor.double()) for factor in (one.up.flatten(1), one.down.flatten(1).T))


def _shaped_like(matrix: Tensor, half: Tensor) -> Tensor:
    """A matrix as a half of an adapter, with the kernel that a convolution's has."""
    return matrix.reshape(len(matrix), -1, *half.shape[2:]).to(half.dtype)


def _padded(one: LowRank, rank: int) -> LowRank:
    """The same adapter with zeros up to this rank."""
    missing, kernel = rank - one.rank, (0, 0) * (one.down.ndim - 2)
    down = functional.pad(one.down, (*kernel, 0, 0, 0, missing))
    return LowRank(down, functional.pad(one.up, (*kernel, 0, missing)), one.scale)


def _is_nothing(adapter: Adapter) -> bool:
    """Whether the products of the factors are zero, but for rounding."""
    found = sum(float((r_up @ r_down.T).square().sum()) for (_, r_up), (_, r_down) in map(_halves, adapter.values()))
    return found <= _NOTHING * sum(float(one.up.norm()) ** 2 * float(one.down.norm()) ** 2 for one in adapter.values())


def _origin(settings: Merge, source: Source, part: str) -> str:
    """The fingerprint of the model that the runs were trained on; `UserError` where it is not this base."""
    for run, _ in settings.shares:
        run.check(part, source)
    noted = [run.fingerprint for run, _ in settings.shares]
    return next(filter(None, reversed(noted)), None) or weights_fingerprint(source.path, (part, "vae"), source.variant)


def _write_adapters(folder: Path, settings: Merge, source: Source, part: str, origin: str) -> Merged:
    base = skeleton(source.path) if source.path.is_dir() else load_backbone(source.path)  # for its layers alone
    layers, kept = _adapters(settings, part, base)
    rank = next(iter(layers.values())).rank
    told = {name: str(value) for name, value in _told(settings).items() if value is not None}
    notes = {**told, "method": "merge", BASE_NOTE: origin}
    config = LoraConfig(r=rank, lora_alpha=float(rank), target_modules=list(layers))
    save_lora(folder, state_of(layers), config, part, notes, type(base.pipe))
    return Merged(False, rank, kept)


def _adapters(settings: Merge, part: str, base: Backbone) -> tuple[dict[str, LowRank], float]:
    """Those of the runs that are adapters, as one, and the share that is kept of them."""
    shares = []
    for run, share in settings.shares:
        if run.has_adapters:
            shares.append((run.adapter(part, base.network, type(base.pipe)).cast(base.network.dtype), share))
    layers, rank = stacked(shares), settings.rank
    if _is_nothing(layers):
        raise _nothing(settings)
    most = next(iter(layers.values())).rank
    if rank is not None and rank > most:
        raise UserError(f"rank {rank}: the merge has rank {most}, the sum of the runs'; ask for no more")
    return (layers, 1.0) if rank is None else truncated(layers, rank)


@torch.no_grad()
def _write_whole(folder: Path, settings: Merge, source: Source, part: str) -> Merged:
    base = load_backbone(source.path, loading=Loading(variant=source.variant))
    pipe, network = base.pipe, base.network
    runs = [run for run, _ in settings.shares]
    layers, kept = _adapters(settings, part, base) if any(run.has_adapters for run in runs) else ({}, 1.0)
    networks = [None if run.has_adapters else whole_network(run, part, network) for run in runs]
    if not _add(network, *networks, scale=settings.scale) and not layers:
        raise _nothing(settings)
    add_to(network, layers)
    tell_no_folders(pipe, _told(settings)["base"])
    pipe.save_pretrained(folder)
    return Merged(True, settings.rank, kept)


def _add(base: nn.Module, positive: nn.Module | None, negative: nn.Module | None = None, *, scale: float) -> bool:
    """theta + w (theta_pos - theta_neg) in place, with theta for what is not given; whether that changes anything."""
    ours = dict(base.named_parameters())
    theirs = [ours if network is None else dict(network.named_parameters()) for network in (positive, negative)]
    changes = False
    for name, value in ours.items():
        difference = theirs[0][name] - theirs[1][name]
        changes |= bool(difference.any())
        value.add_(difference, alpha=scale)
    return changes


def _nothing(settings: Merge) -> UserError:
    return UserError(f"{settings.positive}: has the weights of {settings.negative or settings.base}: nothing to merge")


def _told(settings: Merge) -> dict[str, Any]:
    """The settings as they are written down: files and folders of this machine by their last name."""
    return {
        "base": Path(settings.base).resolve().name if Path(settings.base).exists() else settings.base,
        "positive": settings.positive.resolve().name,
        "negative": settings.negative and settings.negative.resolve().name,
        "scale": settings.scale,
    }
