"""The models that a study compares: the base, also sampled in other ways or guided by runs, and each method's runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from contrapose.studies.flags import Flags
from contrapose.studies.settings import BASE, Study

Tried = Callable[[str], Flags]
"""What was chosen of a method's tries; no option of one that is not tried."""


@dataclass(frozen=True, eq=False)
class Contestant:
    """One model whose images are judged."""

    group: str
    """What its training seeds have in common: the method, or the base."""
    name: str
    """What evaluations call it: METHOD/SEED where there are several seeds."""
    folder: str
    """What its folder of images is called."""
    runs: Mapping[str, Path]
    """Its runs by the flag of `contrapose sample` that names them."""
    options: Flags = field(default_factory=Flags)
    """Options of `contrapose sample` of its own, which take the place of the study's."""

    def words(self, checkpoint: str) -> list[str]:
        """Its runs at a kept step; at their end where the checkpoint is empty."""
        words: list[str] = []
        for flag, run in self.runs.items():
            words += [f"--{flag}", f"{run}@{checkpoint}" if checkpoint else str(run)]
        return words

    def named(self, checkpoint: str) -> str:
        """Its name among others of other kept steps, the step beside the method."""
        if not checkpoint or not self.runs:
            return self.name
        method, slash, seed = self.name.partition("/")
        return f"{method}@{checkpoint}{slash}{seed}"

    def folder_at(self, checkpoint: str) -> str:
        return f"{self.folder}@{checkpoint}" if checkpoint and self.runs else self.folder


def run_folder(study: Study, method: str, seed: int, values: Flags) -> Path:
    """Where a method is trained with a seed and with these of the values that it is tried with."""
    return study.out / "runs" / numbered(study, tried_name(method, values), seed)


def tried_name(name: str, values: Flags) -> str:
    """A name with the values that are tried: `sft-learning-rate-3e-05`."""
    return f"{name}-{values.name}" if values.values else name


def numbered(study: Study, name: str, seed: int) -> str:
    """A name with the training seed; a single seed needs no number."""
    return name if len(study.seeds) == 1 else f"{name}-{seed}"


def try_contestant(study: Study, method: str, values: Flags) -> Contestant:
    """One try of a method."""
    seed = study.seeds[0]
    name = tried_name(method, values)
    return Contestant(name, name, numbered(study, name, seed), {"adapter": run_folder(study, method, seed, values)})


def contestants(study: Study, tried: Tried) -> list[Contestant]:
    """All models, the base first, their runs those of the chosen tries."""
    every = [Contestant(BASE, BASE, BASE, {})]
    for name, sampled in study.sampled.items():
        every.append(Contestant(name, name, name, {}, sampled.options))
    for name, method in study.methods.items():
        if method.shown:
            every += _seeded(study, name, {"adapter": name}, Flags(), tried)
    for name, guided in study.guided.items():
        if not guided.strengths:
            every += _seeded(study, name, guided.runs, guided.options, tried)
        for strength in guided.strengths:
            scale = f"{strength:g}"
            options = Flags({"scale": scale, **guided.options.values})
            every += _seeded(study, f"{name}-w{scale}", guided.runs, options, tried)
    return every


def _seeded(study: Study, group: str, named: Mapping[str, str], options: Flags, tried: Tried) -> Iterator[Contestant]:
    """One model for each training seed, of runs that are named by METHOD or METHOD/POLICY."""
    parts = {flag: name.partition("/") for flag, name in named.items()}
    values = {method: tried(method) for method, _, _ in parts.values()}
    # images of another choice lie elsewhere
    name = group
    for value in values.values():
        name = tried_name(name, value)
    for seed in study.seeds:
        runs = {
            flag: run_folder(study, method, seed, values[method]) / policy
            for flag, (method, _, policy) in parts.items()
        }
        model = group if len(study.seeds) == 1 else f"{group}/{seed}"
        yield Contestant(group, model, numbered(study, name, seed), runs, options)
