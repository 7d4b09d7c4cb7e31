"""The models that a study compares: the base, also sampled in other ways or guided by runs, and each method's runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from contrapose.studies.settings import BASE, Study


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
    options: tuple[str, ...] = ()

    def words(self, checkpoint: str) -> list[str]:
        """How it is sampled, its runs at a kept step; at their end where the checkpoint is empty."""
        words: list[str] = []
        for flag, run in self.runs.items():
            words += [f"--{flag}", f"{run}@{checkpoint}" if checkpoint else str(run)]
        return [*words, *self.options]

    def named(self, checkpoint: str) -> str:
        """Its name among others of other kept steps, the step beside the method."""
        if not checkpoint or not self.runs:
            return self.name
        method, slash, seed = self.name.partition("/")
        return f"{method}@{checkpoint}{slash}{seed}"

    def folder_at(self, checkpoint: str) -> str:
        return f"{self.folder}@{checkpoint}" if checkpoint and self.runs else self.folder


def run_folder(study: Study, method: str, seed: int) -> Path:
    """Where a method is trained with a seed; a single seed needs no number in its run's name."""
    return study.out / "runs" / (method if len(study.seeds) == 1 else f"{method}-{seed}")


def contestants(study: Study) -> list[Contestant]:
    """All models, the base first."""
    every = [Contestant(BASE, BASE, BASE, {})]
    for name, sampled in study.sampled.items():
        every.append(Contestant(name, name, name, {}, tuple(sampled.options.words(study.model_path))))
    for name, method in study.methods.items():
        if method.shown:
            every += _seeded(study, name, {"adapter": name}, ())
    for name, guided in study.guided.items():
        runs = {"positive": guided.positive}
        if guided.negative is not None:
            runs["negative"] = guided.negative
        for strength in guided.strengths:
            scale = f"{strength:g}"
            options = ("--scale", scale, *guided.options.words(study.model_path))
            every += _seeded(study, f"{name}-w{scale}", runs, options)
    return every


def _seeded(study: Study, group: str, methods: Mapping[str, str], options: tuple[str, ...]) -> Iterator[Contestant]:
    """One model for each training seed."""
    for seed in study.seeds:
        runs = {flag: run_folder(study, method, seed) for flag, method in methods.items()}
        if len(study.seeds) == 1:
            yield Contestant(group, group, group, runs, options)
        else:
            yield Contestant(group, f"{group}/{seed}", f"{group}-{seed}", runs, options)


def groups(study: Study) -> list[str]:
    """Names of all models, those of a method once."""
    return list(dict.fromkeys(contestant.group for contestant in contestants(study)))
