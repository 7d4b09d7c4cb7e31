"""`contrapose sweep`."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from contrapose.cli import sweep_compare
from contrapose.cli.boxes import peek
from contrapose.cli.device import OnDevice
from contrapose.cli.evaluate import UNIONS as OF_EVALUATE
from contrapose.cli.options import Choice, parse
from contrapose.cli.sample import UNIONS
from contrapose.cli.sampled import load_sampled
from contrapose.cli.sharing import Sharing
from contrapose.worlds.settings import Sweeping
from contrapose.worlds.suites import OF_SWEEPS

ALL_UNIONS = UNIONS | OF_EVALUATE | {"suite": Choice(OF_SWEEPS)}


@dataclass(frozen=True)
class Command:
    """Sample and judge images at several strengths of guidance, or draw finished sweeps in one plot."""

    settings: Sweeping
    out: Path
    """Folder that receives scale-W/ for each strength, summary.json and page.html; an unfinished one is carried on."""
    compare: tuple[Path, ...] = ()
    """Instead of sampling: finished sweeps to draw in one plot, with --out alone beside it."""
    on: OnDevice = field(default_factory=OnDevice)
    sharing: Sharing = field(default_factory=Sharing)


def main(arguments: list[str], prog: str) -> None:
    # Comparing needs neither a model nor prompts, which are required otherwise.
    if peek({"compare": True}, arguments, prog)["compare"] is not None:
        sweep_compare.main(arguments, prog)
    else:
        sweep(parse(Command, arguments, prog, unions=ALL_UNIONS, without=("scale", "best_of")))


def sweep(command: Command) -> None:
    from contrapose.backbones.precision import usual_precision
    from contrapose.cli.memory import advised, image_memory
    from contrapose.cli.notes import quiet_libraries, tell
    from contrapose.cli.progress import Bar
    from contrapose.estimate.advice import Images, after_judging
    from contrapose.files import check_folder
    from contrapose.guiding.images import SETTINGS
    from contrapose.report.sweep import read_sweep, write_sweep_page
    from contrapose.studies.sweeping import judge_sweep, num_left, plan_sweep, sample_sweep

    quiet_libraries()
    out = command.out
    check_folder(out)
    sampling = command.settings.sampling
    plan = plan_sweep(command.settings, command.on.name)
    precision = sampling.precision or usual_precision(command.on.name, out / SETTINGS)
    at_once = Images(sampling.model, precision, sampling.loading, sampling.size, sampling.batch_size)
    with image_memory(at_once, command.on.name):
        backbone = load_sampled(sampling, precision, plan.prompts, command.on.name)
        with command.sharing.working() as worker:
            for scale, states in groupby(sample_sweep(plan, backbone, out, worker), lambda state: state.scale):
                with Bar(f"sampling at w = {scale:g}") as bar:
                    for state in states:
                        bar(state.done, state.total)
    num_of_others = num_left(plan, out)
    if num_of_others:
        tell(f"{out}: {num_of_others} images are left to other parts, of which the last one judges them")
        return
    with command.sharing.working() as worker:
        with advised(lambda card: after_judging(plan.by.suite, command.settings.features), command.on.name):
            is_new = judge_sweep(plan, out, Bar, worker)
        if not is_new:
            tell(f"{out}: this sweep was finished already")
        tell(write_sweep_page([read_sweep(out)], out, worker).resolve())
