"""The main job on the shipped shapes model: the study that ships beside this file, with a few of its settings flags."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from contrapose.errors import UserError
from contrapose.ranges import Batch, Count, Few, Seed, Steps, checked
from contrapose.studies.flags import Flags
from contrapose.studies.settings import PairSource, Study, StudyMethod, read_study

_FILE = Path(__file__).with_name("quickstart.yaml")
_STUDY = read_study(_FILE)


def _number(flags: Flags, name: str) -> int:
    """A whole number that the file says."""
    value = flags.values[name]
    assert isinstance(value, int)
    return value


_PAIRS_PER_PROMPT = _number(_STUDY.pairs["worded"].options, "pairs-per-prompt")
_TRAIN_STEPS = _number(_STUDY.training, "train-steps")
_STEPS = _number(_STUDY.sampling, "steps")


@dataclass(frozen=True)
@checked
class Quickstart:
    """Prompts to an aligned model, with evidence: about eight minutes on two CPU cores. Run it again to carry on."""

    out: Path = _STUDY.out
    """Folder that receives everything."""
    model: str = ""
    """Model to align; the shipped shapes model when empty."""
    per_tag: Batch = _STUDY.prompts["test"].per_tag
    """Held-out prompts of each of the six categories."""
    num_images: Few = _STUDY.num_images
    """Images for each held-out prompt."""
    train_per_tag: Batch = _STUDY.prompts["train"].per_tag
    """Training prompts of each category, at most."""
    pairs_per_prompt: Few = _PAIRS_PER_PROMPT
    """Pairs for each training prompt: drawn for DDSPO, and labelled for Diffusion-DPO."""
    train_steps: Count = _TRAIN_STEPS
    """Optimiser steps of each training run."""
    steps: Steps = _STEPS
    """Sampling steps of every image."""
    seeds: tuple[Seed, ...] = _STUDY.seeds
    """Seeds of the training runs; every method is trained once with each."""
    methods: tuple[Literal["diffusion-dpo", "ddspo", "ddspo-not-paired"], ...] = ("diffusion-dpo", "ddspo")
    """Methods to compare: Diffusion-DPO on labels by a judge, DDSPO without any."""

    def __post_init__(self) -> None:
        for name in ("methods", "seeds"):
            if not getattr(self, name):
                raise UserError(f"{name}: name at least one")

    def study(self) -> Study:
        """The shipped study with these settings in place of its own."""
        prompts = {
            "train": replace(_STUDY.prompts["train"], per_tag=self.train_per_tag),
            "test": replace(_STUDY.prompts["test"], per_tag=self.per_tag),
        }
        steps = Flags({"steps": self.steps})
        methods: dict[str, StudyMethod] = {name: _STUDY.methods[name] for name in dict.fromkeys(self.methods)}
        drawn = Flags({"pairs-per-prompt": self.pairs_per_prompt, "steps": self.steps})
        pairs: dict[str, PairSource] = {}
        for name in _needed({name for method in methods.values() for name in method.pairs}):
            source = _STUDY.pairs[name]
            is_drawn = source.made_by == "draw"
            pairs[name] = replace(source, options=drawn.over(source.options)) if is_drawn else source
        return replace(
            _STUDY,
            out=self.out,
            model=self.model or _STUDY.model,
            prompts=prompts,
            pairs=pairs,
            methods=methods,
            training=Flags({"train-steps": self.train_steps}).over(_STUDY.training),
            seeds=tuple(dict.fromkeys(self.seeds)),
            num_images=self.num_images,
            sampling=steps.over(_STUDY.sampling),
        )


def _needed(names: set[str]) -> list[str]:
    """These pairs of the study, and those that they are made of, in the study's order."""
    needed = set(names)
    # what others are made of stands before them
    for name, source in reversed(_STUDY.pairs.items()):
        if name in needed and source.of:
            needed.add(source.of)
    return [name for name in _STUDY.pairs if name in needed]
