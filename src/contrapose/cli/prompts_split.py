"""`contrapose prompts split`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.notes import tell_notes
from contrapose.cli.options import parse
from contrapose.store.splits import Splitting, split_prompts


@dataclass(frozen=True)
class Command:
    """Divide a list of prompts into dev and test by a hash of their words, the same on every machine; repeated prompts
    are left out, capitals and blanks not counting."""

    source: Annotated[Path, tyro.conf.Positional]
    """File or folder of prompts, in any form that --prompts takes elsewhere."""
    settings: Splitting


def main(arguments: list[str], prog: str) -> None:
    divide(parse(Command, arguments, prog))


def divide(command: Command) -> None:
    tell_notes()
    written = split_prompts(command.source, command.settings)
    print(f"{command.source}: {written.num_read} prompts, {written.num_repeated} left out as repeated")
    for out, part in written.parts.items():
        print(f"{out}: {part.num_prompts} prompts{'' if part.is_new else ' (were there already)'}")
