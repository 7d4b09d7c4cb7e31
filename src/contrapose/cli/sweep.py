"""`contrapose sweep`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.loading import DTYPES
from contrapose.cli.boxes import peek
from contrapose.cli.cut_prompts import tell_cut
from contrapose.cli.device import OnDevice
from contrapose.cli.notes import quiet_libraries
from contrapose.cli.options import parse
from contrapose.cli.progress import Bar, follow
from contrapose.cli.sample import UNIONS
from contrapose.core.guidance import Strength
from contrapose.errors import UserError
from contrapose.evaluate.sweep import claim, folder_of, in_order, sum_up
from contrapose.files import check_folder, one_writer
from contrapose.guiding.guide import guide
from contrapose.guiding.guided import settled
from contrapose.guiding.images import sample_images
from contrapose.guiding.settings import Sampling
from contrapose.judges.judge import Judge
from contrapose.ranges import checked
from contrapose.report.sweep import read_sweep, write_page
from contrapose.store.prompts import Prompt, read_prompts
from contrapose.worlds.suites import SUITES


@dataclass(frozen=True)
@checked
class Command:
    """Sample and judge images at several strengths of guidance, or draw finished sweeps in one plot."""

    sampling: Sampling
    out: Path
    """Folder that receives scale-W/ for each strength, summary.json and page.html; an unfinished one is carried on."""
    scales: tuple[Strength, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Strengths w; with 0 among them the others are compared with it."""
    suite: Literal["shapes", "none"] | None = None
    """How images are judged; when unset, shapes for prompts of the shapes world and none for others."""
    label: str = ""
    """Name of the line in the plot, the same for sweeps that differ in the training seed alone; --out's when empty."""
    compare: tuple[Path, ...] = ()
    """Instead of sampling: finished sweeps to draw in one plot, with --out alone beside it."""
    on: OnDevice = field(default_factory=OnDevice)


@dataclass(frozen=True)
class Comparison:
    """Draw several finished sweeps in one plot; those of one label become their mean and its band."""

    compare: tuple[Path, ...]
    """Finished sweeps; those of one label become their mean and its band."""
    out: Path
    """Folder that receives page.html and summary.json."""


def main(arguments: list[str], prog: str) -> None:
    if peek({"compare": True}, arguments, prog)["compare"] is not None:
        compare(parse(Comparison, arguments, prog))
    else:
        sweep(parse(Command, arguments, prog, unions=UNIONS, without=("scale",)))


def sweep(command: Command) -> None:
    quiet_libraries()
    check_folder(command.out)
    settings, prompts = command.sampling, read_prompts(command.sampling.prompts)
    if not settings.guiding.by_runs:
        raise UserError("a sweep needs a run to guide by: name one with --positive")
    guided = {w: _at(settings, w) for w in in_order(command.scales)}
    judge = _judge(command.suite, prompts, command.on.name)
    dtype, device = DTYPES[settings.precision], command.on.name
    backbone = load_backbone(settings.model, dtype, device, settings.adapter, settings.loading)
    tell_cut(settings.prompts, prompts, backbone)
    guiding = settings.guiding
    with guide(backbone.pipe, guiding.positive, guiding.negative, guiding.guidance):  # its complaints first
        shared = settled(settings, backbone)
    backbone.shape_for(shared.size)
    with one_writer(command.out):
        claim(command.out, shared)
        for scale, one in guided.items():
            done = sample_images(one, backbone, folder_of(command.out, scale))
            follow(f"sampling at w = {scale:g}", len(prompts) * settings.num_images, done)
        with Bar("judging images") if judge else nullcontext() as bar:
            is_new = sum_up(command.out, list(guided), command.label, judge, bar)
        if not is_new:
            print(f"{command.out}: this sweep was finished already")
        print(write_page([read_sweep(command.out)], command.out).resolve())


def _at(settings: Sampling, scale: float) -> Sampling:
    """The same settings at another strength."""
    guiding = settings.guiding
    return replace(settings, guiding=replace(guiding, guidance=replace(guiding.guidance, scale=scale)))


def compare(command: Comparison) -> None:
    check_folder(command.out)
    sweeps = [read_sweep(folder) for folder in command.compare]
    different = {sweep.folder.resolve() for sweep in sweeps}
    if len(different) < 2 or len(different) < len(sweeps):
        raise UserError("--compare: name two finished sweeps or more, each once")
    with one_writer(command.out):
        print(write_page(sweeps, command.out).resolve())


def _judge(name: str | None, prompts: list[Prompt], device: str) -> Judge | None:
    """The suite's judge; `UserError` when a suite was asked for that cannot judge these prompts."""
    if name == "none":
        return None
    suite = SUITES[name or "shapes"]()
    try:
        suite.check(prompts)
    except UserError:
        if name is not None:
            raise
        return None
    return suite.load(device)
