"""Pairs from real photographs: the winner is a photograph, the loser what a spoiler makes of it (RealAlign, section 3).

    OUT/real.yaml                the settings, a file to repeat the run from
    OUT/photographs.sqlite       every photograph: how far it has come, with what scores, or why it was left out
    OUT/images/ID.{winner,loser,mask}.png
    OUT/skipped.jsonl            every photograph that was left out, at which stage and why
    OUT/pairs.yaml, shard-*.safetensors    the pairs, with each stage's counts

What becomes of a photograph depends on its pixels, its name, its caption and the seed alone. A killed run carries on
in the stage that it was in, and several processes share a folder. Memory holds a batch, whatever the number of
photographs, beside the fingerprints that near duplicates are told by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from contrapose import runfile
from contrapose.backbones.base import Backbone
from contrapose.backbones.digests import model_digest
from contrapose.backbones.embeddings import Embeddings
from contrapose.containers.images import several
from contrapose.containers.left_out import SKIPPED, LeftOut, told_counts, write_left_out
from contrapose.containers.places import place_of
from contrapose.contents import digest_of
from contrapose.errors import UserError
from contrapose.photographs.filters import BOTH, needs_loser
from contrapose.photographs.gallery import Gallery
from contrapose.photographs.looking import LookAtPhotos
from contrapose.photographs.photos import Photo, count_and_digest, list_photos
from contrapose.photographs.settings import CONVERTER, Real
from contrapose.photographs.spoil.studio import Studio
from contrapose.photographs.stages import MakeLosers, PhotoStage, Sift, WriteCaptions, batches_of
from contrapose.photographs.table import AGAIN, TABLE, PhotoTable, Portion, Reaching
from contrapose.pixels import Size
from contrapose.store.manifest import MANIFEST
from contrapose.store.masks import levels_in_latents
from contrapose.store.records import GroupRecord
from contrapose.store.shards import begin, fill
from contrapose.workers import ALONE, Worker

SETTINGS = "real.yaml"
_BATCHES = 8  # of a stage that a worker claims together
_EARLIER = "candidates"  # the folder of tables that versions before this one wrote


class StageProgress(NamedTuple):
    """How far a stage is."""

    stage: str
    done: int
    total: int


def make_pairs(settings: Real, backbone: Backbone, out: Path, worker: Worker = ALONE) -> Iterator[StageProgress]:
    """Make the pairs, stage by stage, yielding how far they are; run it again to carry on.

    Several workers make a folder together: one of them looks at the photographs, and networks see a portion in each.
    Raises `UserError` for a part of several, since workers wait for one another after each stage, for a source without
    photographs, weights that are not at hand, settings or photographs that differ from those that `out` was made with,
    and when every photograph was left out.
    """
    if worker.num_parts > 1:
        raise UserError(
            "--part: photographs take each stage together, so that no part can be made without the others; start all "
            "workers of 'pairs real' with --part 1/1"
        )
    settings = replace(backbone.sampler.with_usual(settings), fitting=settings.fitting.resolved(backbone.images))
    with worker.writing(out):
        run = _Run(settings, backbone, out, worker)
        try:
            # whatever is refused is refused before the folder is claimed
            run.check()
            with worker.in_turn(out / SETTINGS):
                runfile.claim(out / SETTINGS, settings, CONVERTER, free=["batch_size"], inputs=run.inputs)
            for number in range(len(run.stages)):
                yield from run.carry_out(number)
            yield from run.store()
        finally:
            run.table.close()


class _Run:
    """One run's settings, networks, stages and table."""

    def __init__(self, settings: Real, backbone: Backbone, out: Path, worker: Worker):
        self.settings = settings
        self.backbone = backbone
        self.out = out
        self.worker = worker
        source = place_of(settings.photos)
        self.gallery = Gallery(out / "images", source if source.is_dir() else source.parent)
        self.studio = Studio(backbone, Embeddings(backbone.text), settings.steps, settings.guidance_scale)
        sizes = settings.fitting.buckets_for(backbone.images)
        self.stages = self._stages(sizes)
        names = [stage.name for stage in self.stages]
        self.table = PhotoTable(out / TABLE, sizes, sorted_from=names.index(MakeLosers.name))

    def _stages(self, sizes: Sequence[Size]) -> list[PhotoStage]:
        """What happens to photographs, in order; losers are made when the first filter needs them, or at the end."""
        s = self.settings
        device = str(self.backbone.device)
        stages: list[PhotoStage] = [
            LookAtPhotos(
                self._listing, self.gallery.root, s.fitting, sizes, s.near_duplicates, s.seed, s.captioner is None
            )
        ]
        if s.captioner is not None:
            stages.append(WriteCaptions(s.captioner, self.gallery, device, s.batch_size))
        sifts = [Sift(filter, self.gallery, device, s.batch_size) for filter in s.filters]
        # filters keep their order, so that one that needs no loser but stands behind one that does waits too
        early = list(takewhile(lambda sift: not needs_loser(sift.filter), sifts))
        losers = MakeLosers(s.spoil, self.gallery, self.studio, s.batch_size)
        return [*stages, *early, losers, *sifts[len(early) :]]

    def _listing(self) -> Iterator[Photo | LeftOut]:
        photos = list_photos(self.settings.photos, self.settings.split, self.out)
        return islice(photos, self.settings.limit)

    def check(self) -> None:
        """Look, before anything is written, at the whole listing, and whether all weights that are needed are there."""
        self._check_folder()
        self.num_photos, photos = count_and_digest(self._listing())
        digests = {
            "model": model_digest(self.settings.model, self.settings.loading),
            "photos": photos,
            **self._networks(),
        }
        # as real.yaml names them, and pairs.yaml
        self.inputs = digests | {f"real.{name}": digest for name, digest in digests.items()}
        unfinished = 0
        # of a run that is carried on, weights of stages that are through are not asked for again
        with self.worker.in_turn(self.table.path):
            if self.table.begun and self.table.num_through(0) == self.num_photos:
                unfinished = self.table.first_unfinished()
        for stage in self.stages[unfinished:]:
            stage.check()

    def _check_folder(self) -> None:
        if (self.out / MANIFEST).exists() and not (self.out / SETTINGS).exists():
            raise UserError(f"{self.out}: already holds pairs that were not made of photographs; choose another --out")
        if (self.out / _EARLIER).is_dir() and not self.table.begun:
            raise UserError(
                f"{self.out}: was begun by an earlier version, whose {_EARLIER}/ cannot be carried on; choose another "
                "--out, or delete the folder (if its pairs are finished, they can be used as they are)"
            )

    def _networks(self) -> dict[str, str]:
        """Digests of the other networks' folders that the settings name; those of the hub have their versions there."""
        digests = {}
        for part in ("captioner", "spoil"):
            settings = getattr(self.settings, part)
            for name in settings.networks if settings is not None else ():
                folder = getattr(settings, name)
                if folder and Path(folder).is_dir():
                    digests[f"{part}.{name}"] = digest_of(Path(folder))
        return digests

    def _num_reaching(self, number: int) -> int:
        """Photographs that come to a stage."""
        return self.num_photos if number == 0 else self.table.num_kept(number - 1)

    def carry_out(self, number: int) -> Iterator[StageProgress]:
        """Take all photographs through one stage; `UserError` when nothing is left after it."""
        stage = self.stages[number]
        total = self._num_reaching(number)
        for done in self._work(number, total):
            yield StageProgress(stage.name, done, total)
        num = self.table.num_through(number)
        if num != total:
            raise UserError(f"{self.table.path}: holds {num} of {total} photographs after {stage.name}; {AGAIN}")
        if not self.table.num_kept(number):
            counts = told_counts(write_left_out(self.out, self.table.left_out()))
            self._unclaim(number)
            raise UserError(
                f"{self.settings.photos}: none of its {self.num_photos} photographs can be used ({counts}); "
                f"the reasons are in {self.out / SKIPPED}"
            )

    def _work(self, number: int, total: int) -> Iterator[int]:
        """Do what no other worker does of a stage, yielding how many photographs are done."""
        stage = self.stages[number]
        # held while one looks at all photographs, or decides on them, and another waits to find that done
        with self.worker.in_turn(self.table.path):
            done = self.table.num_through(number)
        if done == total:
            return
        photographs = self.table.reaching(number)
        portions = [photographs] if self.worker.alone else self._portions(number)
        for num in stage.work(portions):
            done = min(done + num, total)
            yield done
        with self.worker.in_turn(self.table.path):
            done = self.table.num_through(number)
            if done < total:
                for num in stage.conclude(photographs):
                    done += num
                    yield done

    def _portions(self, number: int) -> Iterator[Reaching]:
        """The photographs of a stage that no other worker takes, some batches at a time."""
        stage = self.stages[number]
        if stage.at_once is None:
            return

        def bucket(place: tuple[int, int]) -> int:
            return place[0] if stage.by_bucket else 0

        files: list[tuple[Path, Reaching]] = []
        for batch in batches_of(self.table.places(number), _BATCHES * stage.at_once, bucket):
            portion = Portion(batch[0], batch[-1])
            # a name to claim it by; no file of that name is ever there
            files.append((self.out / f"{stage.name}-{len(files):06d}", self.table.reaching(number, portion)))
        for _, photographs, task in self.worker.turns(files, lambda _, portion: stage.is_done(portion)):
            if task == "make":
                yield photographs

    def _unclaim(self, number: int) -> None:
        """Leave the folder to other settings, unless a network has worked for what these have come to."""
        # another threshold would throw away captions or scores that took hours
        if any(stage.costly for stage in self.stages[: number + 1]):
            return
        self.table.close()
        # the table first: settings without one begin anew, while one without settings would pass for that of any
        for path in (self.table.path, self.out / runfile.INPUTS, self.out / SETTINGS):
            path.unlink(missing_ok=True)

    def store(self) -> Iterator[StageProgress]:
        """Encode what is left."""
        s = self.settings
        counts = [
            {"stage": stage.name, "before": self._num_reaching(number), "after": self.table.num_kept(number)}
            for number, stage in enumerate(self.stages)
        ]
        pairs = self.table.reaching(len(self.stages))

        def shards() -> Iterator[tuple[Size, list[GroupRecord]]]:
            for batch in batches_of(pairs, s.shard_size, lambda candidate: candidate.bucket):
                yield batch[0].bucket, [candidate.record for candidate in batch]

        records = (candidate.record for candidate in pairs)
        settings = {"real": s, "stages": counts}
        masked = s.spoil.masks
        fingerprint = self.backbone.fingerprint
        left_out = self.table.left_out()
        with self.worker.in_turn(self.out / MANIFEST):
            begin(self.out, settings, CONVERTER, fingerprint, records, left_out, self.inputs, masked=masked)
        total = self.table.num_kept(len(self.stages) - 1)
        masks = self._masks if masked else None
        for done in fill(self.out, shards(), s.batch_size, self._encode, masks, self.worker):
            yield StageProgress("encoding", done, total)

    def _encode(self, size: Size, records: Sequence[GroupRecord]) -> Tensor:
        """Latents [b, 2, ...]: winners and losers side by side in one call of the autoencoder."""
        sides = [(record.id, side, size) for record in records for side in BOTH]
        images = list(several(lambda place: self.gallery.stored(*place), sides))
        latents = self.studio.encode(images).cpu()
        return latents.reshape(len(records), 2, *latents.shape[1:])

    def _masks(self, size: Size, records: Sequence[GroupRecord]) -> Tensor:
        """Masks [b, h, w] over the latents, from 0 to 255."""
        masks = [np.asarray(self.gallery.mask(record.id, size), dtype=np.float64) for record in records]
        return levels_in_latents(masks, self.backbone.images.unit)
