"""`contrapose pairs real` and `contrapose pairs real real.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from typing import Annotated

import tyro

from contrapose import runfile
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.loading import DTYPES
from contrapose.cli.device import OnDevice
from contrapose.cli.options import REQUIRED, choice, parse
from contrapose.cli.progress import Bar, quiet_libraries
from contrapose.containers.left_out import SKIPPED, count_left_out, told_counts
from contrapose.errors import UserError
from contrapose.photographs.captions import Captioner
from contrapose.photographs.filters import FILTERS
from contrapose.photographs.real import CONVERTER, Real, make_pairs
from contrapose.photographs.spoil import SPOILERS
from contrapose.store.pairs import PairStore


@dataclass(frozen=True)
class Command(OnDevice):
    """Make pairs of real photographs: the winner is one, the loser what becomes of it when it is spoiled.

    --spoil NAME says how (inpaint, redraw, generate, noise, degrade), --filters NAME ... which are kept, in this order
    (their options are --filters.0.min-side 512 and so on), and --captioner MODEL what writes missing captions. A
    real.yaml, as a run leaves it beside its result, says all of it: contrapose pairs real real.yaml --out pairs/
    """

    settings: Annotated[Real, tyro.conf.arg(name="")]
    out: Path
    """Folder that receives the pairs; an unfinished one is carried on."""


def main(arguments: list[str], prog: str) -> None:
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        settings, rest = runfile.read(Path(arguments[0]), Real, CONVERTER), arguments[1:]
    else:
        settings, rest = _by_names(arguments)
    make(parse(Command, rest, prog, Command(settings, out=REQUIRED)))


def _by_names(arguments: list[str]) -> tuple[Real, list[str]]:
    """The settings of the parts that are named, and the arguments that are left."""
    spoiler, rest = choice(arguments, "--spoil", SPOILERS, "inpaint")
    captioners, rest = _taken(rest, "--captioner")
    names, rest = _taken(rest, "--filters")
    for name in names or ():
        if name not in FILTERS:
            raise UserError(f"--filters {name}: not known (choose from {', '.join(FILTERS)})")
    filters = Real.filters if names is None else tuple(FILTERS[name]() for name in names)
    captioner = None if captioners is None else Captioner(" ".join(captioners)) if captioners else Captioner()
    return Real(REQUIRED, REQUIRED, spoil=spoiler(), filters=filters, captioner=captioner), rest


def _taken(arguments: list[str], flag: str) -> tuple[list[str] | None, list[str]]:
    """Take `flag VALUE ...` out of the arguments: its values, None where it is not there, and what is left."""
    if flag not in arguments:
        return None, arguments
    at = arguments.index(flag)
    values = list(takewhile(lambda argument: not argument.startswith("-"), arguments[at + 1 :]))
    return values, arguments[:at] + arguments[at + 1 + len(values) :]


def make(command: Command) -> None:
    quiet_libraries()
    settings, out = command.settings, command.out
    backbone = load_backbone(settings.model, DTYPES[settings.dtype], command.device, loading=settings)
    for stage, states in groupby(make_pairs(settings, backbone, out), lambda state: state.stage):
        with Bar(stage) as bar:
            for state in states:
                bar(state.done, state.total)
    told = told_counts(count_left_out(out))
    left_out = f"; left out {told}: the reasons are in {out / SKIPPED}" if told else ""
    print(f"{out}: {len(PairStore(out))} pairs{left_out}")
