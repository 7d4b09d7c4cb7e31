"""Everything that decides the pairs that are imported, and how pairs are written for others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from contrapose import runfile
from contrapose.backbones.settings import Loading, Precision
from contrapose.errors import UserError
from contrapose.exchange.listings import FormatName, Reading
from contrapose.ranges import Batch, Count, Seed, checked
from contrapose.store.fitting import Fitting


@dataclass(frozen=True)
@checked
class Import:
    """Pairs of images: where they are, how they are listed, and how they are cut to sizes of the model."""

    model: str
    """Model folder or hub id, whose autoencoder encodes the images."""
    winners: Path | None = None
    """Folder of the better images, each with its caption beside it in a .txt of the same stem."""
    losers: Path | None = None
    """Folder of the worse images, of the same stems."""
    metadata: Path | None = None
    """Instead of two folders: a metadata.jsonl with image_0, image_1, prompt, prefer_0 and prefer_1."""
    source: Path | None = None
    """Instead of two folders: a file or folder of any of the formats below; docs/importing.md shows each."""
    format: FormatName = "auto"
    """Format of --source, told by the fields of its first row unless named: metadata, pick-a-pic, webdataset
    (tars), hpdv3, hpdv2, real-fake (RealAlign's), kto (likes and dislikes), chosen (with rejected and prompt, as
    TRL's), ddspo (latents)."""
    limit: Count | None = None
    """Pairs that are looked at, at most, of the first ones; all when unset."""
    seed: Seed = 0
    """Seed of crops and flips."""
    shard_size: Batch = 64
    """Pairs in one file, the unit that a killed run repeats."""
    batch_size: Batch = 4
    """Pairs encoded at once (each is two images)."""
    precision: Precision | None = None
    """Precision of the autoencoder. When unset, bf16 on a GPU that has it and fp32 elsewhere; pairs that were begun
    keep theirs."""
    reading: Reading = field(default_factory=Reading)
    fitting: Fitting = field(default_factory=Fitting)
    loading: Loading = field(default_factory=Loading)

    def __post_init__(self) -> None:
        sources = (self.source, self.metadata, self.winners)
        num_sources = sum(source is not None for source in sources)
        if num_sources != 1 or (self.winners is None) != (self.losers is None):
            raise UserError("pairs import needs one of --winners with --losers, --metadata, and --source")
        if self.format != "auto" and self.source is None:
            raise UserError(f"format {self.format}: is that of --source, which is not given; leave the setting out")


@dataclass(frozen=True)
@checked
class Export:
    """How pairs are written as Parquet."""

    model: str | None = None
    """Model whose autoencoder decodes the latents; the one that the pairs were made with when unset."""
    image_format: Literal["png", "jpeg"] = "png"
    """How images are stored: png keeps every pixel, jpeg (quality 95) takes about a quarter of the space."""
    batch_size: Batch = 4
    """Pairs decoded at once (each is two images)."""
    precision: Precision = "fp32"
    """Precision of the autoencoder."""
    loading: Loading = field(default_factory=Loading)


CONVERTER = runfile.converter()
