"""Import pairs of images: checked, fitted to a bucket, encoded by the model's autoencoder and stored like drawn ones.

Texts and the places of images lie on the disk, and in memory are the images of a batch and a few numbers for each pair.

What a pair becomes depends on its images, its caption and the seed alone, and its identifier on the pixels, so that a
run that was killed carries on at the first missing shard, or refuses when an image was exchanged in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from contrapose.backbones.base import Backbone
from contrapose.backbones.digests import model_digest
from contrapose.containers.images import NUM_THREADS, Seen, look, read_image, several
from contrapose.containers.left_out import LeftOut, Skip, attempt
from contrapose.containers.places import place_of
from contrapose.containers.spool import apart
from contrapose.containers.stored import InParquet, Stored, stored_from_json, stored_to_json
from contrapose.errors import UserError
from contrapose.exchange.latents import NOTE, Ready, plan_latents, read_pairs
from contrapose.exchange.listings import FormatName, Listed, Listing, folder_pairs, source_pairs
from contrapose.exchange.settings import CONVERTER, Import
from contrapose.pixels import Size, to_tensor
from contrapose.seeds import seed_of
from contrapose.store.buckets import Fit, apply, cover, nearest, plan_fit
from contrapose.store.fitting import Fitting
from contrapose.store.manifest import MANIFEST
from contrapose.store.masks import levels_in_latents
from contrapose.store.prompts import prompt_id
from contrapose.store.record_table import RecordTable
from contrapose.store.records import GroupRecord
from contrapose.store.shards import begin, by_size, fill
from contrapose.workers import ALONE, Worker

_SOURCES = ("winners", "losers", "metadata", "source")


class Planned(NamedTuple):
    """One group to encode, most often a pair."""

    record: GroupRecord
    images: tuple[Stored, ...]
    size: Size
    fits: tuple[Fit, ...]
    mask: Mask | None = None

    def to_json(self) -> list[Any]:
        """All of it in what JSON holds."""
        images = [stored_to_json(image) for image in self.images]
        mask = None
        if self.mask is not None:
            mask = [stored_to_json(self.mask.image), self.mask.winner, self.mask.fit.to_json()]
        return [self.record.to_json(), images, self.size, [fit.to_json() for fit in self.fits], mask]

    @classmethod
    def from_json(cls, said: list[Any]) -> Planned:
        """The group of which this was said."""
        record, images, size, fits, said_of_mask = said
        mask = None
        if said_of_mask is not None:
            image, winner, fit = said_of_mask
            mask = Mask(stored_from_json(image), Size(*winner), Fit.from_json(fit))
        places = tuple(stored_from_json(image) for image in images)
        return cls(GroupRecord.from_json(record), places, Size(*size), tuple(map(Fit.from_json, fits)), mask)


class Mask(NamedTuple):
    """Where a group's images differ, cut as its winner is."""

    image: Stored
    winner: Size
    """The winner's size, which the mask is spread over where it is of its latent's."""
    fit: Fit


class _Looked(NamedTuple):
    """What a group's images were seen to be, and its mask, if it has one."""

    images: Seen
    mask: Seen | None


@dataclass(frozen=True)
class Plan:
    """The pairs to import, in order, and those that were left out with their reason."""

    pairs: Sequence[Planned] | Sequence[Ready]
    left_out: list[LeftOut]
    format: FormatName

    @property
    def encoded(self) -> bool:
        """Whether the pairs are latents already."""
        return isinstance(self.pairs[0], Ready)


def read_listing(settings: Import) -> Listing:
    """The pairs that the settings name; no image is opened. Raises `UserError` for a listing that cannot be read."""
    reading = settings.reading
    if settings.source is not None:
        return source_pairs(settings.source, reading, settings.format, settings.limit)
    if settings.metadata is not None:
        return source_pairs(settings.metadata, reading, "metadata", settings.limit)
    assert settings.winners is not None and settings.losers is not None
    return folder_pairs(settings.winners, settings.losers, reading, settings.limit)


def plan_import(
    settings: Import, listing: Listing, backbone: Backbone, progress: Callable[[int], None] = lambda _: None
) -> Plan:
    """Look at every image, and find each pair's bucket and fits; `progress` is told how many pairs were looked at.

    A pair's bucket is the one nearest to its winner's aspect ratio; a loser of another shape is cropped to it. Of more
    images the best one decides. Raises `UserError` when no pair is left, or for a resolution that the model cannot
    make.
    """
    pairs: Sequence[Planned] | Sequence[Ready]
    if listing.latents:
        _check_images_settings(settings)
        pairs, left_out = plan_latents(listing.pairs, backbone, settings.seed, progress)
    else:
        pairs, left_out = _plan_images(settings, listing.pairs, backbone, progress)
    left_out = [*listing.left_out, *left_out]
    if not pairs:
        first = f" ({left_out[0].name}: {left_out[0].reason})" if left_out else ""
        source = settings.source or settings.metadata or settings.winners
        assert source is not None
        raise UserError(f"{place_of(source)}: none of its {len(left_out)} pairs can be used{first}")
    return Plan(pairs, left_out, listing.format)


def import_pairs(settings: Import, plan: Plan, backbone: Backbone, out: Path, worker: Worker = ALONE) -> Iterator[int]:
    """Encode all planned pairs into `out`, yielding the number of pairs done so far; run it again to carry on.

    Several workers encode into a folder together, each the files that no other one has.

    Raises `UserError` when `out` holds pairs of other settings, another model or other images.
    """
    # noted as it was told from the first row, so that a source of another format is refused later
    settings = replace(settings, format=plan.format if settings.source else "auto")
    settings = replace(settings, precision=settings.precision or backbone.precision)
    planned = RecordTable.holding(pair.record for pair in plan.pairs)
    notes: dict[str, Any] = {}
    sizes: Sequence[Any]
    latents: Callable[[Sequence[Any]], Tensor]
    if plan.encoded:
        notes["note"] = NOTE
        sizes = sorted({pair.size for pair in plan.pairs})
        latents = read_pairs
    else:
        sizes = settings.fitting.buckets_for(backbone.images)
        latents = partial(_encode, backbone)
        settings = replace(settings, fitting=settings.fitting.resolved(backbone.images))
    # a shard stacks, so that it holds one size; sizes come in a fixed order, whatever order the source has
    # and groups with masks alone or without any
    keys = list(product(sizes, (False, True)))
    keyed = ((pair.size, pair.mask is not None) for pair in plan.pairs)
    shards = by_size(planned, keyed, keys, settings.shard_size)
    records = (record for _, shard in shards for record in shard)

    def pair_of(record: GroupRecord) -> Any:
        return plan.pairs[planned.find("id", record.id)]

    def make(_: Any, batch: Sequence[GroupRecord]) -> Tensor:
        return latents([pair_of(record) for record in batch])

    def masks(key: tuple[Any, bool], shard: Sequence[GroupRecord]) -> Tensor | None:
        _, masked = key
        if not masked:
            return None
        pixels = several(_mask_pixels, (pair_of(record).mask for record in shard))
        return levels_in_latents(list(pixels), backbone.images.unit)

    with worker.writing(out):
        model = {"import.model": model_digest(settings.model, settings.loading)}
        sources = [f"import.{name}" for name in _SOURCES if getattr(settings, name) is not None]
        if settings.reading.image_folder is not None:
            sources.append("import.reading.image_folder")
        written = {"import": settings, **notes}
        masked = any(pair.mask is not None for pair in plan.pairs)
        with worker.in_turn(out / MANIFEST):
            begin(out, written, CONVERTER, backbone.fingerprint, records, plan.left_out, model, sources, masked)
        yield from fill(out, shards, settings.batch_size, make, masks, worker)


def _check_images_settings(settings: Import) -> None:
    """Raise `UserError` for a setting about images, since latents are not cut or scaled."""
    usual = vars(Fitting())
    for name, value in vars(settings.fitting).items():
        if value != usual[name]:
            raise UserError(f"{name}: latents are taken as they are; leave the setting out")


def _plan_images(
    settings: Import, listed: Sequence[Listed], backbone: Backbone, progress: Callable[[int], None]
) -> tuple[Sequence[Planned], list[LeftOut]]:
    among = settings.fitting.buckets_for(backbone.images)
    repeats: Counter[str] = Counter()
    plan = partial(_planned, settings, among, backbone.images.unit, repeats)
    # several images are looked at at a time, and come back in order
    looked = zip(listed, several(_look, listed), strict=True)
    tried = (attempt(pair.name, plan, pair, image) for pair, image in looked)
    return apart(tried, Planned.to_json, Planned.from_json, progress)


def _look(listed: Listed) -> _Looked | Skip:
    is_blank = listed.mask is None
    if isinstance(listed.mask, InParquet):
        with suppress(OSError):  # which looking at it tells of
            is_blank = not listed.mask.read()  # a row without a mask, where others have one
    try:
        images = look(listed.images)
        if listed.mask is None or is_blank:
            return _Looked(images, None)
        return _Looked(images, look([listed.mask]))
    except Skip as skip:
        return skip


def _planned(
    settings: Import,
    among: Sequence[Size],
    unit: int,
    repeats: Counter[str],
    listed: Listed,
    looked: _Looked | Skip,
) -> Planned:
    if isinstance(looked, Skip):
        raise looked
    seen = looked.images
    is_pair = len(listed.images) == 2
    if len(set(seen.digests)) < len(seen.digests):
        raise Skip(f"{'winner and loser' if is_pair else 'two of its images'} are the same image", "same image")
    # one bucket for both, since a crop of its own would tell which is the loser
    winner = listed.images.index(listed.winner)
    bucket = nearest(seen.sizes[winner], among)
    for image, size in zip(listed.images, seen.sizes, strict=True):
        scale = cover(size, bucket)
        if scale > settings.fitting.max_scale_up:
            raise Skip(
                f"{image.name}: its {size} pixels would be scaled up by {scale:.2f} to cover {bucket}; "
                f"at most {settings.fitting.max_scale_up:g} is allowed",
                "too small",
            )
    degraded = (listed.degraded,) if listed.degraded else ()
    labels = listed.preference if is_pair else listed.labels  # a pair is known by its winner's share alone
    mask_digests = () if looked.mask is None else looked.mask.digests
    # known by what it holds, so that a pair keeps its crop and flip when the listing is sorted or added to
    name = prompt_id("\0".join((listed.prompt, *seen.digests, repr(labels), *degraded, *mask_digests)))
    seed = seed_of(settings.seed, name)
    fits = plan_fit(seen.sizes, bucket, settings.fitting.flips(seed), settings.fitting.position(seed))
    # before the pair counts as seen, since it may be left out by its mask
    mask = _mask(listed, looked, winner, fits[winner], unit)
    # a pair that is listed twice is two records
    record = GroupRecord(f"{name}-{repeats[name]}", listed.prompt, listed.degraded, seed, listed.labels)
    repeats[name] += 1
    return Planned(record, listed.images, bucket, fits, mask)


def _mask(listed: Listed, looked: _Looked, winner: int, fit: Fit, unit: int) -> Mask | None:
    """A group's mask, if it has one; raises `Skip` for one that is neither as large as the winner nor as its latent."""
    if listed.mask is None or looked.mask is None:
        return None
    size = looked.mask.sizes[0]
    of_winner = looked.images.sizes[winner]
    if size not in (of_winner, (of_winner.width / unit, of_winner.height / unit)):
        raise Skip(
            f"{listed.mask.name}: is a mask of {size} pixels for a winner of {of_winner}; save it as large as the "
            f"winner, or as its latent, 1/{unit} of that",
            "mask",
        )
    return Mask(listed.mask, of_winner, fit)


def _encode(backbone: Backbone, pairs: Sequence[Planned]) -> Tensor:
    """Latents [b, n, ...] of groups of one n: their images side by side in one call of the autoencoder."""
    jobs = [job for pair in pairs for job in zip(pair.images, pair.fits, strict=True)]

    def pixels(job: tuple[Stored, Fit]) -> Tensor:
        where, fit = job
        return to_tensor(np.array(apply(_read(where), fit)))  # a copy, since an image's own pixels are read-only

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        images = list(pool.map(pixels, jobs))
    return backbone.images.encode(torch.stack(images)).float().cpu().unflatten(0, (len(pairs), len(pairs[0].images)))


def _read(where: Stored) -> Image.Image:
    try:
        return read_image(where)
    except Skip as skip:  # it could be read a moment ago
        raise UserError(f"{where.path.parent}: {skip}; run the same command again") from None


def _mask_pixels(mask: Mask) -> NDArray[np.float64]:
    """The fitted mask [H, W], from 0 to 255; one of the latent's size comes out as it is where the image is not cut."""
    image = _read(mask.image).convert("L")
    if image.size != mask.winner:
        image = image.resize(mask.winner, Image.Resampling.NEAREST)
    return np.asarray(apply(image, mask.fit), dtype=np.float64)
