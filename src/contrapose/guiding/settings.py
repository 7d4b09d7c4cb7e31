"""The settings of images: of sampling, of what leads the sampler beside its prompt, and of the page to play with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from contrapose import runfile
from contrapose.backbones.settings import Haste, Loading, Precision
from contrapose.core.guidance import GUIDANCES, PGD, AnyGuidance, AttentionLimit, AttentionScale, FreeScale, Strength
from contrapose.errors import UserError
from contrapose.ranges import Batch, Interval, Range, Rank, Share, Steps, checked

if TYPE_CHECKING:
    from contrapose.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
@checked
class Guiding:
    """What leads the sampler beside its prompt and its guidance scale."""

    positive: Path | None = None
    """An aligned run that guides the sampler towards what it predicts; RUN@100, RUN@best: a kept step of it."""
    negative: Path | None = None
    """An aligned run that guides the sampler away from what it predicts."""
    guidance: AnyGuidance = field(default_factory=PGD)
    """How the runs guide: pgd, cpgd (usual where there is a --negative), npo or chats, with strength, schedule and
    interval."""
    negative_prompt: str | None = None
    """What is not wanted: read in place of no prompt by the guidance scale, and by --nag-scale. "" is an empty text,
    which SDXL's pipeline reads and tells from no prompt."""
    nag_scale: AttentionScale | None = None
    """Strength of attention guidance (NAG) away from the negative prompt, or from none; 1, or unset, is off."""
    nag_tau: AttentionLimit | None = None
    """How many times longer than the prompt's the guided attention may be; 2.5 when unset."""
    nag_alpha: Share | None = None
    """Share of the guided attention, 0 to 1; 0.25 when unset."""
    nag_interval: Interval | None = None
    """Noise levels, 0 data to 1 noise, between which attention is guided; all of them when unset."""

    @property
    def by_runs(self) -> bool:
        """Whether any run guides."""
        return self.positive is not None or self.negative is not None


@dataclass(frozen=True)
@checked
class Sampling:
    """Images of prompts, by a model and what leads it."""

    model: str
    """Model folder or hub id."""
    prompts: tuple[str, ...]
    """Prompts, each typed as it is, or files: .txt with one a line, or a column `prompt` of .jsonl (as GenEval's),
    .json, .csv, .tsv or .parquet; folders and hf:// too."""
    adapter: Path | None = None
    """An aligned run whose weights go on top (RUN@100, RUN@best: a kept step of it), or another tool's LoRA; none
    samples the model itself."""
    num_images: Annotated[int, Range(1, 10_000, integer=True)] = 4
    """Images for each prompt, of the seeds 0, 1, ..."""
    best_of: Annotated[int, Range(1, 1000, integer=True)] = 1
    """Images drawn for each that is kept, the best by --judges: image 0000 of seeds 0 to best_of - 1, 0001 of those
    after, ..., with seed and scores in the .json beside it."""
    steps: Steps | None = None
    """Sampling steps; what is usual for the model when unset."""
    guidance_scale: FreeScale | None = None
    """Guidance scale, 1 is off; what is usual for the model when unset."""
    size: str | None = None
    """Image size as WIDTHxHEIGHT; the model's usual size when unset."""
    batch_size: runfile.Practical[Batch] = 16
    """Images sampled at once; does not change the images, but for a level in a few pixels by rounding."""
    precision: Precision | None = None
    """Precision of the sampler. When unset, bf16 on a GPU that has it and fp32 elsewhere; images that were begun keep
    theirs."""
    guiding: Guiding = field(default_factory=Guiding)
    loading: Loading = field(default_factory=Loading)
    speed: runfile.Practical[Haste] = field(default_factory=Haste)

    def __post_init__(self) -> None:
        if self.speed.compile and self.guiding.by_runs:
            raise UserError("compile: guidance by runs calls the network in its own way; leave one of the two out")


@dataclass(frozen=True)
@checked
class Play:
    """What the page shows, and what it begins with."""

    model: str
    """Model folder or hub id."""
    positive: tuple[Path, ...] = ()
    """Aligned runs that guide the sampler towards what they predict (RUN@100, RUN@best: a kept step of one); several
    are a choice on the page."""
    negative: Path | None = None
    """An aligned run that guides the sampler away from what it predicts."""
    guidance: AnyGuidance = field(default_factory=PGD)
    """How the runs guide: pgd, cpgd (usual where there is a --negative), npo or chats, with schedule and interval; the
    page sets the strength."""
    prompts: tuple[str, ...] = ()
    """Prompts that the page offers, typed or files of them; the shapes world's own for its models when unset."""
    steps: Steps | None = None
    """Sampling steps that the page begins with; what is usual for the model when unset."""
    guidance_scale: FreeScale | None = None
    """Guidance scale, 1 is off; what is usual for the model when unset."""
    size: str | None = None
    """Image size as WIDTHxHEIGHT; the model's usual size when unset."""
    precision: Precision | None = None
    """Precision of the sampler; bf16 on a GPU that has it and fp32 elsewhere when unset."""
    loading: Loading = field(default_factory=Loading)


@dataclass(frozen=True)
@checked
class Merge:
    """What is merged, and how strongly."""

    model: str
    """Model folder, hub id or checkpoint file that the runs were trained on."""
    positive: Path
    """Folder of the run whose change is added; RUN@100, RUN@best: a kept step of it."""
    negative: Path | None = None
    """Folder of the run whose change is taken away; the base itself when unset."""
    scale: Strength = 1.0
    """Strength w of base + w (positive - negative); without a negative, 1 is the positive run."""
    rank: Rank | None = None
    """Rank that merged adapters are cut to by SVD; the sum of the runs' ranks, which is exact, when unset."""
    full: bool = False
    """Write a whole pipeline though both runs are adapters."""
    variant: str | None = None
    """Which of several copies of the base's weights is read, such as fp16; the plain one when unset."""

    def __post_init__(self) -> None:
        if self.scale == 0:
            raise UserError("scale 0: would leave the base as it is; name another strength")

    @property
    def shares(self) -> tuple[tuple[RunFolder, float], ...]:
        """Each run with the factor of its change: w for the positive run, -w for the negative one."""
        from contrapose.runs.folder import RunFolder

        positive = (RunFolder(self.positive), self.scale)
        if self.negative is None:
            return (positive,)
        return (positive, (RunFolder(self.negative), -self.scale))


CONVERTER = runfile.converter((AnyGuidance, GUIDANCES))
