"""Everything that decides the pairs that are made of photographs: a file to repeat the run from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from contrapose import runfile
from contrapose.backbones.settings import Loading, Precision
from contrapose.core.guidance import FreeScale
from contrapose.judges.table import JUDGES, AnyJudge
from contrapose.photographs.captions import Captioner
from contrapose.photographs.filters import FILTERS, AnyFilter, CaptionLength, PhotoSize
from contrapose.photographs.spoil import SPOILERS, AnySpoiler
from contrapose.photographs.spoil.inpaint import Inpaint
from contrapose.ranges import Batch, Count, Range, Seed, Steps, checked
from contrapose.store.fitting import Fitting


@dataclass(frozen=True)
@checked
class Real:
    """Photographs as winners: where they are, which are kept, and how their losers are made."""

    model: str
    """Model folder or hub id: it encodes the pairs, and makes the losers where that needs a model."""
    photos: Path
    """Photographs: a folder of images, .tar or .parquet files, or a .csv, .jsonl, .parquet, .tar or HPDv3's .json."""
    split: str | None = None
    """Which of several splits of a Parquet data set, such as train."""
    spoil: AnySpoiler = field(default_factory=Inpaint)
    """How losers are made: inpaint redraws the subject from its caption, redraw the whole photograph from partial
    noise, noise the same without a caption, generate draws the caption alone, degrade corrupts the pixels."""
    filters: tuple[AnyFilter, ...] = (PhotoSize(), CaptionLength())
    """Filters in the order in which they are applied; losers are made when the first one needs them, or at the end."""
    captioner: Captioner | None = None
    """Model that writes captions where there are none: a folder or hub id, or the usual one where no name follows; such
    photographs are left out when unset."""
    near_duplicates: Annotated[int, Range(0, 63, integer=True)] | None = 4
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
    precision: Precision | None = None
    """Precision of the model. When unset, bf16 on a GPU that has it and fp32 elsewhere; pairs that were begun keep
    theirs."""
    limit: Count | None = None
    """Photographs that are looked at, at most, of the first ones listed; all when unset."""
    fitting: Fitting = field(default_factory=Fitting)
    loading: Loading = field(default_factory=Loading)


CONVERTER = runfile.converter((AnyJudge, JUDGES), (AnyFilter, FILTERS), (AnySpoiler, SPOILERS))
