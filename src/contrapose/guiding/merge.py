"""Aligned runs merged into weights: the first-order version of guidance by them, at the base's own cost.

    theta' = theta + w (theta_pos - theta_neg),   with theta itself for theta_neg where there is no negative

First order in how far the runs are from the base: for changes of size e, the predictions of a merge and of guidance
differ by O(e^2) at any w; a small w alone does not make them agree.

Adapters give adapters, exactly: w (s_p B_p A_p - s_n B_n A_n) = [w s_p B_p, -w s_n B_n] [A_p; A_n], whose rank is the
sum of theirs. Networks that were trained whole give a whole pipeline. Of other kinds (DoRA, LoKr, LoHa) the changes of
weights are merged, into a pipeline or into the nearest LoRA of a rank that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional

from contrapose.backbones.adapters import networks_of, state_of, whole_network
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
from contrapose.runs.adapter_files import Adapter, add_to
from contrapose.runs.adapter_layers import LowRank
from contrapose.runs.fingerprint import weights_fingerprint
from contrapose.runs.names import BASE_NOTE, MERGE_FILE
from contrapose.runs.saving import PartAdapters, save_lora, tell_no_folders
from contrapose.runs.silence import silent_libraries

_ROUNDING = 1e-24  # share of the factors' squared norm that is left where two adapters cancel


class Merged(NamedTuple):
    """A merge that was written."""

    full: bool
    """Whether it is a whole pipeline, and not adapters."""
    rank: int | None
    """Rank of the merged adapters; None where they were merged exactly into a pipeline."""
    kept: float = 1.0
    """Share of the adapters' squared norm that is left at that rank."""
    already: bool = False
    """Whether an earlier run of the same merge wrote it."""


def merge(settings: Merge, out: Path) -> Merged:
    """Write the merged adapters, as `align` writes a run's, or a whole pipeline folder, with the settings beside them.

    Does nothing if `out` already holds the same merge of the same base and runs. Raises `UserError` for runs of another
    model, for a merge that changes nothing, for a rank above the sum of the runs' ranks, and for an `out` that holds
    anything else.
    """
    with one_writer(out, beside=True):
        if out.is_dir() and (out / MERGE_FILE).is_file():
            return _merged_before(settings, out)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: is there already, and no empty folder; choose another --out")
        return _merge(settings, out)


def _merged_before(settings: Merge, out: Path) -> Merged:
    """The merge that the folder holds; `UserError` if it is another one, or if its files have changed since."""
    note = load_yaml(out / MERGE_FILE, "choose another --out")
    if not isinstance(note, dict) or note.get("made_of") != _digest(settings):
        raise UserError(f"{out}: already holds a merge of other settings or other runs; choose another --out")
    if note.get("holds") != digest_of(out, skip=out / MERGE_FILE):
        raise UserError(f"{out}: has changed since it was merged; choose another --out, or delete the folder")
    return Merged(note["whole"], note["rank"], note["kept"], already=True)


def _digest(settings: Merge) -> str:
    """A digest of everything that decides a merge: the contents of base and runs, and the other settings."""
    runs = [(run.digest, share) for run, share in settings.shares]
    base = model_digest(settings.model, Loading(variant=settings.variant))
    return digest_of_parts([base, runs, settings.rank, settings.full])


def _merge(settings: Merge, out: Path) -> Merged:
    source = find(settings.model, BY_PIPELINE, settings.variant)
    part = BY_PIPELINE[source.pipeline].denoiser_part
    origin = _origin(settings, source, part)
    in_full = [run for run, _ in settings.shares if not run.has_adapters]
    if in_full and settings.rank is not None:
        raise UserError(f"rank {settings.rank}: {in_full[0]} was trained in full and has none; leave --rank out")
    with replacing(out) as aside:
        aside.mkdir()
        # networks have no adapters to stack, so one run in full makes the whole merge a pipeline
        if in_full or settings.full:
            merged = _write_pipeline(aside, settings, source, part)
        else:
            merged = _write_adapters(aside, settings, source, part, origin)
        result = {"whole": merged.full, "rank": merged.rank, "kept": merged.kept}
        content = {"made_of": _digest(settings), "holds": digest_of(aside)}
        note = _notes(settings) | {"base_fingerprint": origin} | result | content
        (aside / MERGE_FILE).write_text(dump_yaml(note), encoding="utf-8")
    return merged


@torch.no_grad()
def factored(adapter: Adapter, network: nn.Module) -> dict[str, LowRank]:
    """The same change of each layer's weight W as B A: as it is stored, or dW I where it is of another kind than LoRA.

    The network's own weights are looked at for DoRA alone.
    """
    layers: dict[str, LowRank] = {}
    for name, factors in adapter.items():
        if isinstance(factors, LowRank):
            layers[name] = factors
            continue
        weight = network.get_submodule(name).weight
        assert isinstance(weight, Tensor), "check_fit has passed"
        change = factors.change(weight)
        flat = change.flatten(1)
        kernel = [1] * (change.ndim - 2)
        identity = torch.eye(flat.shape[1], dtype=flat.dtype).reshape(flat.shape[1], *change.shape[1:])
        layers[name] = LowRank(identity, flat.reshape(*flat.shape, *kernel), 1.0)
    return layers


def stacked(adapters: Sequence[tuple[Mapping[str, LowRank], float]]) -> dict[str, LowRank]:
    """sum_i c_i s_i B_i A_i on every layer as one adapter of scale 1, [c_1 s_1 B_1, ...] [A_1; ...].

    Every layer gets the rank of the sum, padded with zeros if not all adapters have the layer: a file of adapters that
    stock loaders read has one rank.
    """
    rank = 0
    for adapter, _ in adapters:
        # adapters of other tools have a rank for each layer
        rank += max(factors.rank for factors in adapter.values())
    layers = {layer for adapter, _ in adapters for layer in adapter}
    merged: dict[str, LowRank] = {}
    for layer in sorted(layers):
        terms = [(adapter[layer], share) for adapter, share in adapters if layer in adapter]
        # the scales go into B, so that A stays as it was trained
        up = torch.cat([term.up * (term.scale * share) for term, share in terms], 1)
        down = torch.cat([term.down for term, _ in terms])
        merged[layer] = _padded(LowRank(down, up, 1.0), rank)
    return merged


def truncated(adapter: Mapping[str, LowRank], rank: int) -> tuple[dict[str, LowRank], float]:
    """The nearest adapter of this rank on every layer, and the share of the squared norm that it keeps.

    From the factors alone: B = Q_b R_b, A^T = Q_a R_a and R_b R_a^T = U S V^T give B A = (Q_b U) S (Q_a V)^T.
    """
    cut: dict[str, LowRank] = {}
    kept = 0.0
    total = 0.0
    for layer, factors in adapter.items():
        q_up, r_up = _qr(factors.up.flatten(1))
        q_down, r_down = _qr(factors.down.flatten(1).T)
        # R_b R_a^T is rank x rank, so the SVD never sees a matrix as large as the layer
        left, values, right = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
        # S is shared between both factors by its root, which keeps them of one size
        root = values[:rank].sqrt()
        up = q_up @ (left[:, :rank] * root)
        down = (root[:, None] * right[:rank]) @ q_down.T
        shaped = LowRank(_shaped_like(down, factors.down), _shaped_like(up, factors.up), 1.0)
        # a layer may have fewer singular values than `rank`
        cut[layer] = _padded(shaped, rank)
        kept += float(values[:rank].square().sum())
        total += float(values.square().sum())
    return cut, kept / total


def _qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Q and R of a matrix, in double precision."""
    q, r = torch.linalg.qr(matrix.double())
    return q, r


def _shaped_like(matrix: Tensor, factor: Tensor) -> Tensor:
    """A matrix in the precision of an adapter's factor, and with its kernel where it is a convolution's."""
    return matrix.reshape(len(matrix), -1, *factor.shape[2:]).to(factor.dtype)


def _padded(factors: LowRank, rank: int) -> LowRank:
    """The same adapter with zeros up to this rank."""
    missing = rank - factors.rank
    # `pad` counts axes from the last one: a convolution's kernel comes first, and gets nothing
    kernel = (0, 0) * (factors.down.ndim - 2)
    down = functional.pad(factors.down, (*kernel, 0, 0, 0, missing))
    up = functional.pad(factors.up, (*kernel, 0, missing))
    return LowRank(down, up, factors.scale)


def _cancels(adapter: Mapping[str, LowRank]) -> bool:
    """Whether B A is zero on every layer, but for rounding."""
    squares = 0.0
    bound = 0.0
    for factors in adapter.values():
        _, r_up = _qr(factors.up.flatten(1))
        _, r_down = _qr(factors.down.flatten(1).T)
        # |B A| = |R_b R_a^T|, as Q_b and Q_a have orthonormal columns; and |B A| <= |B| |A|
        squares += float((r_up @ r_down.T).square().sum())
        bound += float(factors.up.norm()) ** 2 * float(factors.down.norm()) ** 2
    return squares <= _ROUNDING * bound


def _origin(settings: Merge, source: Source, part: str) -> str:
    """The fingerprint of the model that the runs were trained on; `UserError` where it is not this base."""
    for run, _ in settings.shares:
        run.check(part, source)
    noted = [run.fingerprint for run, _ in settings.shares]
    for fingerprint in reversed(noted):
        if fingerprint:
            return fingerprint
    # adapters of other tools note no base
    return weights_fingerprint(source.path, (part, "vae"), source.variant)


def _write_adapters(folder: Path, settings: Merge, source: Source, part: str, origin: str) -> Merged:
    # the base's layers alone are needed, so its weights stay on disk where they can
    base = skeleton(source.path) if source.path.is_dir() else load_backbone(source.path)
    layers, kept = _adapters(settings, part, base, into_pipeline=False)
    rank = next(iter(layers.values())).rank
    parts: dict[str, PartAdapters] = {}
    for name, of_part in _by_part(layers, part).items():
        # a float, as `align` writes it; peft declares a whole number and takes both
        config = LoraConfig(r=rank, lora_alpha=float(rank), target_modules=list(of_part))  # type: ignore[arg-type]
        parts[name] = PartAdapters(state_of(of_part), config)
    notes = {name: str(value) for name, value in _notes(settings).items() if value is not None}
    notes |= {"method": "merge", BASE_NOTE: origin}
    save_lora(folder, parts, notes, type(base.sampler.stock))
    return Merged(False, rank, kept)


def _adapters(settings: Merge, part: str, base: Backbone, into_pipeline: bool) -> tuple[dict[str, LowRank], float]:
    """The runs that are adapters, stacked and cut to the rank that is asked for, and the share of them that is kept.

    Layers of the denoiser and of text encoders are one adapter here, named PART.LAYER, so that all have one rank.
    Raises `UserError` for kinds that do not stack, unless a rank is asked for or the merge goes into a whole pipeline.
    """
    adapters: list[tuple[dict[str, LowRank], float]] = []
    networks = networks_of(base.sampler.stock)
    for run, share in settings.shares:
        if not run.has_adapters:
            continue
        by_part = run.adapters(part, networks, type(base.sampler.stock))
        kinds = sorted({adapter.kind for stored in by_part.values() for adapter in stored.layers.values()})
        if kinds != ["lora"] and settings.rank is None and not into_pipeline:
            raise UserError(
                f"{run}: has adapters of another kind than LoRA ({', '.join(kinds)}), whose sums are none; name a "
                "--rank for the nearest LoRA, or merge into a whole pipeline with --full"
            )
        if "dora" in kinds and next(networks[part].parameters()).is_meta:
            loaded = load_backbone(settings.model, loading=Loading(variant=settings.variant))
            networks = networks_of(loaded.sampler.stock)
        layers_of_run: dict[str, LowRank] = {}
        for name, stored in by_part.items():
            of_part = factored(stored.cast(base.denoiser.dtype), networks[name])
            layers_of_run |= {f"{name}.{layer}": factors for layer, factors in of_part.items()}
        adapters.append((layers_of_run, share))
    layers = stacked(adapters)
    if _cancels(layers):
        raise _nothing(settings)
    rank = settings.rank
    if rank is None:
        return layers, 1.0
    most = next(iter(layers.values())).rank
    if rank > most:
        raise UserError(f"rank {rank}: the merge has rank {most}, the sum of the runs'; ask for no more")
    return truncated(layers, rank)


def _by_part(layers: Mapping[str, LowRank], denoiser: str) -> dict[str, dict[str, LowRank]]:
    """Layers named PART.LAYER by their parts, the denoiser's first, if there are any."""
    parts: dict[str, dict[str, LowRank]] = {denoiser: {}} if layers else {}
    for place, factors in layers.items():
        part, _, layer = place.partition(".")
        parts.setdefault(part, {})[layer] = factors
    return parts


@torch.no_grad()
def _write_pipeline(folder: Path, settings: Merge, source: Source, part: str) -> Merged:
    base = load_backbone(source.path, loading=Loading(variant=source.variant))
    runs = [run for run, _ in settings.shares]
    layers: dict[str, LowRank] = {}
    kept = 1.0
    if any(run.has_adapters for run in runs):
        layers, kept = _adapters(settings, part, base, into_pipeline=True)
    networks: list[nn.Module] = []
    for run in runs:
        # a run of adapters counts as the base here: its change is added with the stacked adapters
        networks.append(base.denoiser.network if run.has_adapters else whole_network(run, part, base.denoiser.network))
    if not _add(base.denoiser.network, networks, settings.scale) and not layers:
        raise _nothing(settings)
    whole_networks = networks_of(base.sampler.stock)
    for name, of_part in _by_part(layers, part).items():
        add_to(whole_networks[name], of_part)
    tell_no_folders(base.sampler.stock, _notes(settings)["base"])
    with silent_libraries():
        base.sampler.stock.save_pretrained(folder)
    return Merged(True, settings.rank, kept)


def _add(base: nn.Module, networks: Sequence[nn.Module], scale: float) -> bool:
    """Add w (theta_pos - theta_neg) to the base in place, and return whether that changes anything.

    `networks` are the positive and the negative one; the base stands for a negative one that is left out.
    """
    weights = [dict(network.named_parameters()) for network in (*networks, base)]
    positive, negative = weights[:2]
    changes = False
    for name, value in base.named_parameters():
        difference = positive[name] - negative[name]
        changes |= bool(difference.any())
        value.add_(difference, alpha=scale)
    return changes


def _nothing(settings: Merge) -> UserError:
    return UserError(f"{settings.positive}: has the weights of {settings.negative or settings.model}: nothing to merge")


def _notes(settings: Merge) -> dict[str, Any]:
    """The settings as they are written down: files and folders of this machine by their last name."""
    base = Path(settings.model)
    return {
        "base": base.resolve().name if base.exists() else settings.model,
        "positive": settings.positive.resolve().name,
        "negative": settings.negative and settings.negative.resolve().name,
        "scale": settings.scale,
    }
