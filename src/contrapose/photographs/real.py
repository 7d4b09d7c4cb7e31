"""Pairs from real photographs: the winner is a photograph, the loser what a spoiler makes of it (RealAlign, section 3).

    OUT/real.yaml                the settings, a file to repeat the run from
    OUT/candidates/NN-STAGE.jsonl    a table for each stage: looked at, captioned, filtered, spoiled
    OUT/images/ID.{winner,loser,mask}.png
    OUT/skipped.jsonl            every photograph that was left out, at which stage and why
    OUT/pairs.yaml, shard-*.safetensors    the pairs, with each filter's counts

What becomes of a photograph depends on its pixels, its name, its caption and the seed alone. A killed run carries on
in the stage that it was in. Memory holds a batch, whatever the number of photographs, beside the names and fingerprints
that near duplicates are told by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, takewhile
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from torch import Tensor

from contrapose import runfile
from contrapose.backbones.base import Backbone
from contrapose.backbones.digests import model_digest
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.loading import Loading
from contrapose.containers.images import several
from contrapose.containers.left_out import SKIPPED, LeftOut, told_counts, write_left_out
from contrapose.contents import digest_of
from contrapose.core.guidance import FreeScale
from contrapose.errors import UserError
from contrapose.files import one_writer
from contrapose.judges.table import JUDGES, AnyJudge
from contrapose.photographs.candidates import BROKEN, Table, by_bucket, groups
from contrapose.photographs.captions import Captioner
from contrapose.photographs.filters import BOTH, FILTERS, NAMES, AnyFilter, CaptionLength, needs_loser
from contrapose.photographs.filters import Size as SizeFilter
from contrapose.photographs.gallery import Gallery
from contrapose.photographs.looking import Listing, Looking, look
from contrapose.photographs.photos import count_and_digest, list_photos
from contrapose.photographs.sifting import sift, spoil, write_captions
from contrapose.photographs.spoil import SPOILERS, AnySpoiler, Studio
from contrapose.photographs.spoil.inpaint import Inpaint
from contrapose.ranges import Batch, Range, Seed, Steps, checked
from contrapose.store.buckets import Size
from contrapose.store.fitting import Fitting
from contrapose.store.pairs import MANIFEST, PairRecord
from contrapose.store.shards import begin, fill

SETTINGS, OF_MODEL = "real.yaml", "model.yaml"


@dataclass(frozen=True)
@checked
class Real(Fitting, Loading):
    """Everything that decides the pairs that are made of photographs."""

    model: str
    """Model folder or hub id: it encodes the pairs, and makes the losers where that needs a model."""
    images: Path
    """Photographs: a folder of images, .tar or .parquet files, or a .csv, .jsonl, .parquet, .tar or HPDv3's .json."""
    split: str | None = None
    """Which of several splits of a Parquet data set, such as train."""
    spoil: AnySpoiler = field(default_factory=Inpaint)
    """How losers are made."""
    filters: tuple[AnyFilter, ...] = (SizeFilter(), CaptionLength())
    """Filters in the order in which they are applied; losers are made when the first one needs them, or at the end."""
    captioner: Captioner | None = None
    """What writes captions where there are none; such photographs are left out when unset."""
    near_duplicates: Annotated[int, Range(0, 63, whole=True)] | None = 4
    """Photographs are left out whose fingerprint differs from an earlier one's in at most so many of its 64 bits; all
    are kept when unset."""
    steps: Steps | None = None
    """Sampling steps of the losers; what is usual for the model when unset."""
    guidance_scale: FreeScale | None = None
    """Guidance scale of the losers, 1 is off; what is usual for the model when unset."""
    seed: Seed = 0
    """Seed of losers, crops and flips."""
    shard_size: Batch = 64
    """Pairs in one file, the unit of encoding that a killed run repeats."""
    batch_size: Batch = 4
    """Photographs spoiled, scored or encoded at once; does not change the pairs."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of the model."""


CONVERTER = runfile.converter((AnyJudge, JUDGES), (AnyFilter, FILTERS), (AnySpoiler, SPOILERS))


class Progress(NamedTuple):
    """How far a stage is; `total` is None where only its end will tell."""

    stage: str
    done: int
    total: int | None


def make_pairs(settings: Real, backbone: Backbone, out: Path) -> Iterator[Progress]:
    """Make the pairs, stage by stage, yielding how far they are; run it again to carry on.

    Raises `UserError` for a source without photographs, weights that are not at hand, settings or photographs that
    differ from those that `out` was made with, and when every photograph was left out.
    """
    settings = replace(backbone.with_usual(settings), resolution=settings.resolution_for(backbone))
    run = _Run(settings, backbone, out)
    with one_writer(out):
        run.check()
        runfile.claim(out / SETTINGS, settings, CONVERTER, free=["batch_size"], inputs=run.inputs)
        runfile.claim(run.folder / OF_MODEL, {"fingerprint": backbone.fingerprint}, CONVERTER)
        for number in range(len(run.stages)):
            yield from run.carry_out(number)
        yield from run.store()


Stage = Literal["photos", "captions", "losers"] | AnyFilter


def stages_of(settings: Real) -> list[Stage]:
    """What happens to the photographs, in order; losers are made when the first filter needs them, or at the end."""
    filters = settings.filters
    early = list(takewhile(lambda some: not needs_loser(some), filters))
    captions: list[Stage] = ["captions"] if settings.captioner else []
    return ["photos", *captions, *early, "losers", *filters[len(early) :]]


class _Run:
    """One run's settings, networks and tables."""

    def __init__(self, settings: Real, backbone: Backbone, out: Path):
        self.settings, self.backbone, self.out = settings, backbone, out
        self.folder, self.stages = out / "candidates", stages_of(settings)
        self.among = settings.buckets_for(backbone)
        root = settings.images if settings.images.is_dir() else settings.images.parent
        self.gallery = Gallery(out / "images", root)
        self.studio = Studio(backbone, Embeddings(backbone), settings.steps, settings.guidance_scale)
        names = [stage if isinstance(stage, str) else NAMES[type(stage)] for stage in self.stages]
        self.tables = [Table(self.folder / f"{number:02}-{name}.jsonl") for number, name in enumerate(names)]
        self.names = names

    def check(self) -> None:
        """Look, before anything is written, at the whole listing, and whether all weights that are needed are there."""
        if (self.out / MANIFEST).exists() and not (self.out / SETTINGS).exists():
            raise UserError(f"{self.out}: already holds pairs that were not made of photographs; choose another --out")
        todo = [stage for stage, table in zip(self.stages, self.tables, strict=True) if not table.path.exists()]
        self.num_photos, photos = count_and_digest(self._listing())
        digests = {"model": model_digest(self.settings.model, self.settings), "images": photos, **self._networks()}
        # as real.yaml names them, and pairs.yaml
        self.inputs = digests | {f"real.{name}": digest for name, digest in digests.items()}
        device = str(self.backbone.device)
        if "captions" in todo and self.settings.captioner:
            self.settings.captioner.load(device)
        for stage in todo:
            if not isinstance(stage, str) and stage.scorer is not None:
                stage.scorer.load(device)

    def _networks(self) -> dict[str, str]:
        """Digests of the other networks' folders that the settings name; those of the hub have their versions there."""
        s = self.settings
        named = {
            "captioner.model": getattr(s.captioner, "model", None),
            "spoil.model": getattr(s.spoil, "model", None),
            "spoil.saliency": getattr(s.spoil, "saliency", None),
        }
        return {name: digest_of(Path(given)) for name, given in named.items() if given and Path(given).is_dir()}

    def _listing(self) -> Listing:
        return list_photos(self.settings.images, self.settings.split, self.out)

    def carry_out(self, number: int) -> Iterator[Progress]:
        """Write one stage's table; `UserError` when one that is there lacks rows, or when nothing is left after it."""
        table, name = self.tables[number], self.names[number]
        total = self.num_left(number - 1) if number else self.num_photos
        if not table.path.exists():
            yield from (Progress(name, done, total) for done in self._work(number))
        else:
            num = sum(1 for _ in table)  # which looks at every row
            if num != total:
                raise UserError(f"{table.path}: holds {num} rows for {total} photographs; {BROKEN}")
        if not self.num_left(number):
            counts = write_left_out(self.out, self.left_out())
            told = f"none of its {len(self.tables[0])} photographs can be used ({told_counts(counts)})"
            self._unclaim(number)
            raise UserError(f"{self.settings.images}: {told}; the reasons are in {self.out / SKIPPED}")

    def _unclaim(self, number: int) -> None:
        """Leave the folder to mended settings, unless a network has worked for what these have come to."""
        done = self.stages[: number + 1]
        if all(stage == "photos" or (not isinstance(stage, str) and stage.scorer is None) for stage in done):
            tables = [table.path for table in self.tables]
            for made in (self.out / SETTINGS, self.out / runfile.INPUTS, self.folder / OF_MODEL, *tables):
                made.unlink(missing_ok=True)

    def num_left(self, number: int) -> int:
        """Candidates that go on after a stage."""
        return len(self.tables[number]) - self.tables[number].num_left_out()

    def _work(self, number: int) -> Iterator[int]:
        s, stage, path, device = self.settings, self.stages[number], self.tables[number].path, str(self.backbone.device)
        if stage == "photos":
            how = Looking(self.gallery.root, s, self.among, s.near_duplicates, s.seed, s.captioner is None)
            return look(path, self._listing(), how)
        before = self.tables[number - 1]
        if stage == "captions":
            return write_captions(path, before, s.captioner, self.gallery, device, s.batch_size)
        if stage == "losers":
            return spoil(path, before, self.among, s.spoil, self.gallery, self.studio, s.batch_size)
        return sift(path, before, stage, self.gallery, device, s.batch_size)

    def left_out(self) -> Iterator[LeftOut]:
        """Every photograph that was left out, stage by stage."""
        return chain.from_iterable(table.left_out() for table in self.tables)

    def store(self) -> Iterator[Progress]:
        """Encode what is left."""
        s, last = self.settings, self.tables[-1]
        counts = [
            {"stage": name, "before": len(table), "after": self.num_left(number)}
            for number, (name, table) in enumerate(zip(self.names, self.tables, strict=True))
        ]
        records = (candidate.record for candidate in by_bucket(last, self.among))
        settings = {"real": s, "stages": counts}
        begin(self.out, settings, CONVERTER, self.backbone.fingerprint, records, self.left_out(), self.inputs)
        same_size = groups(by_bucket(last, self.among), s.shard_size, lambda candidate: candidate.bucket)
        shards = ((some[0].bucket, [candidate.record for candidate in some]) for some in same_size)
        total = self.num_left(-1)
        for done in fill(self.out, shards, s.batch_size, self._encode):
            yield Progress("encoding", done, total)

    def _encode(self, size: Size, records: Sequence[PairRecord]) -> Tensor:
        """Latents [b, 2, ...]: winners and losers side by side in one call of the autoencoder."""
        sides = [(record.id, side, size) for record in records for side in BOTH]
        images = list(several(lambda one: self.gallery.stored(*one), sides))
        return self.studio.encode(images).cpu().unflatten(0, (len(records), 2))
