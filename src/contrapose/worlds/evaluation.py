"""An evaluation from its settings to its summary: models' images, a suite by name, and what else looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from contrapose.backbones.loading import best_device
from contrapose.errors import UserError
from contrapose.evaluate.evidence import Record, evaluate, lay_out
from contrapose.evaluate.sets.looking import looking_of
from contrapose.evaluate.suites import Unjudged
from contrapose.evaluate.summary import Summary
from contrapose.evaluate.taking import Taking
from contrapose.files import check_folder
from contrapose.progress import Progress, untold
from contrapose.workers import ALONE, Worker
from contrapose.worlds.settings import Judging
from contrapose.worlds.suites import as_settings


class Evaluated(NamedTuple):
    """What an evaluation came to."""

    summary: Summary | None
    """None where a worker has left images to others."""
    is_new: bool
    """Whether anything was judged; False where the folder held the same evaluation already."""


def evaluate_models(
    images: Mapping[str, Path],
    judging: Judging,
    out: Path,
    device: str | None = None,
    progress: Progress = untold,
    worker: Worker = ALONE,
) -> Evaluated:
    """Judge every image of each model's folder, by the model's name, and compare the models with the base, into `out`.

    A name METHOD/SEED is one of several training runs of a method. The device is the fastest of this machine unless
    named. Several workers judge into a folder together, each the images that no other one has. Raises `UserError` for
    the suite none, for images that cannot be judged or compared, and for a folder that holds an evaluation by other
    settings or of other images of a model; nothing is written then.
    """
    if isinstance(judging.suite, Unjudged):
        raise UserError("the suite none judges nothing; write_report shows images side by side")
    check_folder(out)
    looking = looking_of(judging.suite, judging.features)
    record = _record(images, judging, out)
    return Evaluated(*evaluate(record, judging.suite, out, device or best_device(), progress, looking, worker))


def lay_out_images(images: Mapping[str, Path], judging: Judging, out: Path, worker: Worker = ALONE) -> str:
    """Note in `out` which models' images a report shows side by side, judged by nobody; what to do next, in a line.

    Raises `UserError` for settings that only a judge heeds, and for a folder that holds an evaluation.
    """
    check_folder(out)
    return lay_out(_record(images, judging, out), judging.features, out, worker)


def _record(images: Mapping[str, Path], judging: Judging, out: Path) -> Record:
    """What the folder is to say of an evaluation."""
    title = judging.title or out.absolute().name
    taking = None if judging.taking == Taking() else judging.taking
    suite = as_settings(judging.suite)
    return Record(title, suite, dict(images), judging.base, judging.replicates, judging.trained_for, taking=taking)
