"""`contrapose pairs label`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.options import parse
from contrapose.labels.settings import Labelling


@dataclass(frozen=True)
class Command:
    """Label groups by their scores, as a person would who makes mistakes: best against worst, likes, or rankings."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """Folder of scored groups or pairs, as 'contrapose pairs score' writes them."""
    settings: Labelling
    out: Path
    """Folder that receives the labelled groups; an unfinished one is carried on."""


def main(arguments: list[str], prog: str) -> None:
    label(parse(Command, arguments, prog))


def label(command: Command) -> None:
    from contrapose.cli.follow import follow
    from contrapose.cli.notes import tell_notes
    from contrapose.labels.label import label_groups, plan_labels
    from contrapose.store.groups import GroupStore

    tell_notes()
    settings = command.settings
    store = GroupStore(command.pairs)
    plan = plan_labels(settings, store)
    follow("labelling groups", len(plan.groups), label_groups(settings, store, plan, command.out))
    print(
        f"{command.out}: {len(plan.groups)} {settings.form}, {plan.num_mistakes} labels of them turned round by lot; "
        f"left out {len(plan.left_out)} ties"
    )
