"""Everything that decides the pairs that are drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from contrapose import runfile
from contrapose.backbones.settings import Haste, Loading, Precision
from contrapose.core.guidance import FreeScale
from contrapose.degrade.degrader import Words
from contrapose.degrade.degraders import DEGRADERS, AnyDegrader
from contrapose.ranges import Batch, Few, Range, Seed, Steps, checked


@dataclass(frozen=True)
@checked
class Draw:
    """Pairs or groups of a model's own samples: which prompts, how they are degraded, and how all are sampled."""

    model: str
    """Model folder or hub id."""
    prompts: tuple[str, ...]
    """Prompts, each typed as it is, or files: .txt with one a line, or a column `prompt` of .jsonl, .json, .csv, .tsv
    or .parquet; folders and hf:// too."""
    degrade: AnyDegrader = field(default_factory=Words)
    """How prompts are degraded: words drops some, swap exchanges some by rule, quality asks for worse looks by rule,
    llm-alignment and llm-aesthetics ask a language model, given reads prompts that were degraded elsewhere."""
    pairs_per_prompt: Few = 1
    """Pairs drawn for each prompt, each with its own seed and variant."""
    samples_per_prompt: Annotated[int, Range(2, 1000, integer=True)] | None = None
    """In place of a pair, a group of so many samples of the prompt itself, each from noise of its own; nothing is
    degraded, and who is better is left open until 'contrapose pairs label'."""
    steps: Steps | None = None
    """Sampling steps; what is usual for the model when unset."""
    guidance_scale: FreeScale | None = None
    """Guidance scale of the drawn images, 1 is off; what is usual for the model when unset."""
    sizes: tuple[str, ...] = ()
    """Image sizes as WIDTHxHEIGHT; each pair takes one of them by its seed. The model's usual size when empty."""
    seed: Seed = 0
    """Seed of noise and of the choice among degraded variants."""
    shard_size: Batch = 64
    """Pairs, or groups, in one file, the unit that a killed run repeats."""
    batch_size: Batch = 16
    """Pairs drawn at once (each is two images), or groups; does not change them beyond rounding."""
    precision: Precision | None = None
    """Precision of the sampler. When unset, bf16 on a GPU that has it and fp32 elsewhere; pairs that were begun keep
    theirs."""
    loading: Loading = field(default_factory=Loading)
    speed: runfile.Practical[Haste] = field(default_factory=Haste)


CONVERTER = runfile.converter((AnyDegrader, DEGRADERS))
