"""A sweep from its settings to its summary: images at each strength, a sheet of each, then a judge for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import BY_PIPELINE
from contrapose.backbones.loading import best_device, check_model
from contrapose.evaluate.sets.looking import looking_of
from contrapose.evaluate.sweep import JudgedBy, at_strengths, claim, folder_of, settled_for_all, sum_up
from contrapose.files import check_folder
from contrapose.guiding.images import SETTINGS, jobs, sample_images
from contrapose.guiding.settings import Sampling
from contrapose.progress import Progress, untold
from contrapose.report.contact_sheet import write_contact_sheet
from contrapose.store.named_prompts import named_prompts
from contrapose.store.prompts import Prompt
from contrapose.workers import ALONE, Worker
from contrapose.worlds.settings import Sweeping
from contrapose.worlds.suites import as_settings, suite_of


class SweepPlan(NamedTuple):
    """A sweep whose settings have passed: its prompts, the settings of each strength's images, and what judges them."""

    settings: Sweeping
    prompts: Sequence[Prompt]
    guided: dict[float, Sampling]
    by: JudgedBy
    device: str


class SweepState(NamedTuple):
    """How far the images at one strength are."""

    scale: float
    done: int
    total: int


def plan_sweep(settings: Sweeping, device: str | None = None) -> SweepPlan:
    """All of a sweep that is settled before its model is loaded; the device is this machine's fastest unless named.

    Raises `UserError` for a model, runs or prompts that are not there, strengths named twice, and judges whose weights
    are missing or that cannot judge images of these prompts.
    """
    device = device or best_device()
    prompts = named_prompts(settings.sampling.prompts)
    guided = at_strengths(settings.sampling, settings.scales)
    suite = suite_of(prompts, settings.suite)
    by = JudgedBy(suite, as_settings(suite), looking_of(suite, settings.features))
    check_model(settings.sampling.model, BY_PIPELINE)
    by.check(list(guided), device)
    return SweepPlan(settings, prompts, guided, by, device)


def sample_sweep(plan: SweepPlan, backbone: Backbone, out: Path, worker: Worker = ALONE) -> Iterator[SweepState]:
    """Sample the images at every strength into `out`, with a contact sheet of each; run it again to carry on.

    Several workers sample together, as `sample_images` says. Raises `UserError` for runs and settings that do not go
    with the model, and for a folder of another sweep.
    """
    check_folder(out)
    shared = settled_for_all(plan.settings.sampling, backbone)
    with worker.writing(out):
        with worker.in_turn(out / SETTINGS):
            claim(out, shared)
        for scale, sampling in plan.guided.items():
            folder = folder_of(out, scale)
            images = jobs(plan.prompts, sampling.num_images, folder)
            for done in sample_images(sampling, backbone, folder, worker=worker):
                yield SweepState(scale, done, len(images))
            if all(image.path.exists() for image in images):
                write_contact_sheet(folder, images, worker=worker)


def num_left(plan: SweepPlan, out: Path) -> int:
    """How many images of a sweep are left to workers of other parts."""
    num = 0
    for scale, sampling in plan.guided.items():
        images = jobs(plan.prompts, sampling.num_images, folder_of(out, scale))
        num += sum(not image.path.exists() for image in images)
    return num


def judge_sweep(plan: SweepPlan, out: Path, progress: Progress = untold, worker: Worker = ALONE) -> bool:
    """Judge the images of all strengths and write the summary of `out`; False where that was done already.

    Several workers judge together: of parts the last one, which finds all images there, judges them all.
    """
    worker = replace(worker, part=0, num_parts=1)
    with worker.writing(out):
        return sum_up(out, list(plan.guided), plan.settings.label, plan.by, plan.device, progress, worker)
