"""`contrapose pairs draw`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.loading import DTYPES
from contrapose.cli.cut_prompts import tell_cut
from contrapose.cli.device import OnDevice
from contrapose.cli.options import REQUIRED, choice, parse
from contrapose.cli.progress import follow, quiet_libraries
from contrapose.degrade.degraders import DEGRADERS
from contrapose.draw.pairs import Draw, draw_pairs, plan_pairs
from contrapose.store.prompts import num_duplicates, read_prompts


@dataclass(frozen=True)
class Command(OnDevice):
    """Draw pairs: the winner from each prompt, the loser from its degraded prompt, with the same noise."""

    draw: Annotated[Draw, tyro.conf.arg(name="")]
    out: Path
    """Folder that receives the pairs; an unfinished one is carried on."""


def main(arguments: list[str], prog: str) -> None:
    degrader, rest = choice(arguments, "--degrade", DEGRADERS, "words")
    template = Command(Draw(model=REQUIRED, prompts=REQUIRED, degrade=degrader()), out=REQUIRED)
    draw(parse(Command, rest, prog, template))


def draw(command: Command) -> None:
    quiet_libraries()
    plan = plan_pairs(command.draw)
    prompts = read_prompts(command.draw.prompts)
    repeated = num_duplicates(prompts)
    if repeated or plan.left_out:
        left_out = f"{repeated} repeated prompts and {len(plan.left_out)} that cannot be degraded"
        print(f"{command.draw.prompts}: left out {left_out}")
    backbone = load_backbone(command.draw.model, DTYPES[command.draw.dtype], command.device, loading=command.draw)
    tell_cut(command.draw.prompts, prompts, backbone)
    follow("drawing pairs", len(plan.records), draw_pairs(command.draw, plan, backbone, command.out))
