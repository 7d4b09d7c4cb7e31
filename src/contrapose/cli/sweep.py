"""`contrapose sweep`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from contrapose.cli import sweep_compare
from contrapose.cli.boxes import peek
from contrapose.cli.device import OnDevice
from contrapose.cli.evaluate import UNIONS as OF_EVALUATE
from contrapose.cli.options import Choice, parse
from contrapose.cli.sample import UNIONS, fill_folder, load_sampled
from contrapose.core.guidance import Strength
from contrapose.evaluate.sets.extractors import AnyFeatures, NoFeatures
from contrapose.guiding.settings import Sampling
from contrapose.ranges import checked
from contrapose.worlds.suites import OF_SWEEPS, OwnWorld, SweepSuite, as_settings, suite_of

ALL_UNIONS = UNIONS | OF_EVALUATE | {"suite": Choice(OF_SWEEPS)}


@dataclass(frozen=True)
@checked
class Command:
    """Sample and judge images at several strengths of guidance, or draw finished sweeps in one plot."""

    sampling: Sampling
    out: Path
    """Folder that receives scale-W/ for each strength, summary.json and page.html; an unfinished one is carried on."""
    scales: tuple[Strength, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Strengths w; with 0 among them the others are compared with it."""
    suite: SweepSuite = field(default_factory=OwnWorld)
    """How images are judged, as by evaluate; auto is shapes for prompts of the shapes world and none for others."""
    features: AnyFeatures = field(default_factory=NoFeatures)
    """What else looks at the images, as for evaluate: diversity within a prompt, and drift from the images at w = 0."""
    label: str = ""
    """Name of the line in the plot, the same for sweeps that differ in the training seed alone; --out's when empty."""
    compare: tuple[Path, ...] = ()
    """Instead of sampling: finished sweeps to draw in one plot, with --out alone beside it."""
    on: OnDevice = field(default_factory=OnDevice)


def main(arguments: list[str], prog: str) -> None:
    # Comparing needs neither a model nor prompts, which are required otherwise.
    if peek({"compare": True}, arguments, prog)["compare"] is not None:
        sweep_compare.main(arguments, prog)
    else:
        sweep(parse(Command, arguments, prog, unions=ALL_UNIONS, without=("scale",)))


def sweep(command: Command) -> None:
    from contrapose.backbones.families.table import BY_PIPELINE
    from contrapose.backbones.loading import check_model
    from contrapose.cli.notes import quiet_libraries
    from contrapose.cli.progress import Bar
    from contrapose.evaluate.sets.looking import looking_of
    from contrapose.evaluate.sweep import JudgedBy, at_strengths, claim, folder_of, settled_for_all, sum_up
    from contrapose.files import check_folder, one_writer
    from contrapose.report.sweep import read_sweep, write_page
    from contrapose.store.prompts import read_prompts

    quiet_libraries()
    check_folder(command.out)
    settings = command.sampling
    prompts = read_prompts(settings.prompts)
    guided = at_strengths(settings, command.scales)
    suite = suite_of(prompts, command.suite)
    by = JudgedBy(suite, as_settings(suite), looking_of(suite, command.features))
    check_model(settings.model, BY_PIPELINE)
    by.check(list(guided), command.on.name)
    backbone = load_sampled(settings, prompts, command.on.name)
    shared = settled_for_all(settings, backbone)
    with one_writer(command.out):
        claim(command.out, shared)
        for scale, sampling in guided.items():
            fill_folder(f"sampling at w = {scale:g}", sampling, prompts, backbone, folder_of(command.out, scale))
        if not sum_up(command.out, list(guided), command.label, by, command.on.name, Bar):
            print(f"{command.out}: this sweep was finished already")
        print(write_page([read_sweep(command.out)], command.out).resolve())
