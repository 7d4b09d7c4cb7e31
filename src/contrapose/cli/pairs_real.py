"""`contrapose pairs real` and `contrapose pairs real real.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from contrapose import runfile
from contrapose.cli.device import OnDevice
from contrapose.cli.options import REQUIRED, Choice, ModelChoice, Unions, parse
from contrapose.cli.sharing import Sharing
from contrapose.photographs.captions import Captioner
from contrapose.photographs.filters import FILTERS
from contrapose.photographs.settings import CONVERTER, Real
from contrapose.photographs.spoil import SPOILERS
from contrapose.recipes import settings_file

UNIONS: Unions = {
    "spoil": Choice(SPOILERS, prefixed=True),
    "filters": Choice(FILTERS, prefixed=True),
    "captioner": ModelChoice(Captioner),
}


@dataclass(frozen=True)
class Command:
    """Make pairs of real photographs: the winner is one, the loser what becomes of it when it is spoiled.

    Each filter's options carry its place in the list, from 0 on: --filters.0.min-side 512. A real.yaml, as a run leaves
    it beside its result, says all of it: contrapose pairs real real.yaml --out pairs/
    """

    settings: Real
    out: Path
    """Folder that receives the pairs; an unfinished one is carried on."""
    on: OnDevice = field(default_factory=OnDevice)
    sharing: Sharing = field(default_factory=Sharing)


def main(arguments: list[str], prog: str) -> None:
    template = None
    file = settings_file(arguments[0]) if arguments else None
    if file is not None:
        template = Command(runfile.read(file, Real, CONVERTER), out=REQUIRED)
        arguments = arguments[1:]
    make(parse(Command, arguments, prog, template, UNIONS))


def make(command: Command) -> None:
    from contrapose.backbones.families.table import load_backbone
    from contrapose.backbones.loading import DTYPES
    from contrapose.backbones.precision import usual_precision
    from contrapose.cli.memory import image_memory
    from contrapose.cli.notes import quiet_libraries, tell
    from contrapose.cli.progress import Bar
    from contrapose.containers.left_out import SKIPPED, count_left_out, told_counts
    from contrapose.estimate.advice import Images
    from contrapose.photographs.real import SETTINGS, make_pairs
    from contrapose.store.manifest import read_manifest

    quiet_libraries()
    settings = command.settings
    out = command.out
    device = command.on.name
    precision = settings.precision or usual_precision(device, out / SETTINGS)
    size = settings.fitting.square
    at_once = Images(settings.model, precision, settings.loading, size, settings.batch_size)
    with image_memory(at_once, device):
        backbone = load_backbone(settings.model, DTYPES[precision], device, loading=settings.loading)
        # One bar a stage: the states come in the order of the stages, and tell theirs.
        with command.sharing.working() as worker:
            for stage, states in groupby(make_pairs(settings, backbone, out, worker), lambda state: state.stage):
                with Bar(stage) as bar:
                    for state in states:
                        bar(state.done, state.total)
    counts = told_counts(count_left_out(out))
    left_out = f"; left out {counts}: the reasons are in {out / SKIPPED}" if counts else ""
    tell(f"{out}: {read_manifest(out)['num_groups']} pairs{left_out}")
