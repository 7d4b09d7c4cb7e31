"""`contrapose sweep`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.loading import DTYPES
from contrapose.cli.cut_prompts import tell_cut
from contrapose.cli.device import OnDevice
from contrapose.cli.options import REQUIRED, choice, parse
from contrapose.cli.progress import Bar, follow, quiet_libraries
from contrapose.core.guidance import GUIDANCES
from contrapose.errors import UserError
from contrapose.evaluate.sweep import claim, folder_of, read_scales, sum_up
from contrapose.files import check_folder, one_writer
from contrapose.guiding.guide import guide
from contrapose.guiding.guided import settled
from contrapose.guiding.images import Sampling, sample_images
from contrapose.judges.judge import Judge
from contrapose.report.sweep import read_sweep, write_page
from contrapose.store.prompts import Prompt, read_prompts
from contrapose.worlds.suites import SUITES


@dataclass(frozen=True)
class Command(OnDevice):
    """Sample and judge images at several strengths of guidance; '--compare A B ... --out C' draws finished sweeps."""

    sampling: Sampling
    out: Path
    """Folder that receives scale-W/ for each strength, summary.json and page.html; an unfinished one is carried on."""
    scales: str = "0,0.5,1,2,4,8"
    """Strengths w, separated by commas, in place of --scale; with 0 among them the others are compared with it."""
    suite: Literal["shapes", "none"] | None = None
    """How images are judged; when unset, shapes for prompts of the shapes world and none for others."""
    label: str = ""
    """Name of the line in the plot, the same for sweeps that differ in the training seed alone; --out's when empty."""


@dataclass(frozen=True)
class Comparison:
    """Draw several finished sweeps in one plot; those of one label become their mean and its band."""

    compare: tuple[Path, ...]
    """Folders made by 'contrapose sweep'."""
    out: Path
    """Folder that receives page.html and summary.json."""


def main(arguments: list[str], prog: str) -> None:
    flags = {argument.partition("=")[0] for argument in arguments}
    if "--compare" in flags:
        wanted = parse(Comparison, arguments, prog, Comparison(compare=REQUIRED, out=REQUIRED))
        compare(wanted)
        return
    if "--scale" in flags:
        raise UserError("--scale: a sweep has several; write them as --scales 0,1,2")
    guidance, rest = choice(arguments, "--guidance", GUIDANCES, "cpgd" if "--negative" in flags else "pgd")
    template = Command(Sampling(model=REQUIRED, prompts=REQUIRED, guidance=guidance()), out=REQUIRED)
    sweep(parse(Command, rest, prog, template, short=True))


def sweep(command: Command) -> None:
    quiet_libraries()
    check_folder(command.out)
    settings, prompts = command.sampling, read_prompts(command.sampling.prompts)
    if not (settings.positive or settings.negative):
        raise UserError("a sweep needs a run to guide by: name one with --positive")
    guided = {w: replace(settings, guidance=replace(settings.guidance, scale=w)) for w in read_scales(command.scales)}
    judge = _judge(command.suite, prompts, command.device)
    backbone = load_backbone(settings.model, DTYPES[settings.dtype], command.device, settings.adapter, settings)
    tell_cut(settings.prompts, prompts, backbone)
    with guide(backbone.pipe, settings.positive, settings.negative, settings.guidance):  # its complaints first
        shared = settled(settings, backbone)
    backbone.shape_for(shared.size)
    with one_writer(command.out):
        claim(command.out, shared)
        for scale, one in guided.items():
            done = sample_images(one, backbone, folder_of(command.out, scale))
            follow(f"sampling at w = {scale:g}", len(prompts) * settings.seeds, done)
        with Bar("judging images") if judge else nullcontext() as bar:
            is_new = sum_up(command.out, list(guided), command.label, judge, bar)
        if not is_new:
            print(f"{command.out}: this sweep was finished already")
        print(write_page([read_sweep(command.out)], command.out).resolve())


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
