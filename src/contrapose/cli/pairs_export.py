"""`contrapose pairs export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.cli.device import OnDevice
from contrapose.cli.options import parse
from contrapose.errors import UserError
from contrapose.exchange.settings import Export


@dataclass(frozen=True)
class Command:
    """Write pairs as Pick-a-Pic's Parquet, likes and dislikes as TRL's, for other trainers and for
    'contrapose pairs import'."""

    pairs: Annotated[Path, tyro.conf.Positional]
    """Folder of pairs."""
    settings: Export
    out: Path
    """File to write, ending in .parquet."""
    overwrite: bool = False
    """Replace a file that is there."""
    on: OnDevice = field(default_factory=OnDevice)


def main(arguments: list[str], prog: str) -> None:
    hand_out(parse(Command, arguments, prog))


def hand_out(command: Command) -> None:
    from contrapose.backbones.families.table import load_backbone
    from contrapose.backbones.loading import DTYPES
    from contrapose.cli.notes import quiet_libraries
    from contrapose.cli.progress import follow
    from contrapose.exchange.exports import digest_of_export, export_pairs, is_exported
    from contrapose.files import check_file, one_writer
    from contrapose.store.groups import GroupStore

    settings = command.settings
    out = command.out
    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: name a file that ends in .parquet")
    check_file(out)
    store = GroupStore(command.pairs)
    model = store.model_or(settings.model)
    quiet_libraries()
    with one_writer(out, beside=True):
        if out.exists() and not command.overwrite:
            if is_exported(out, digest_of_export(settings, store, model)):
                print(f"{out}: {len(store)} {store.kind}, which were there already")
                return
            raise UserError(
                f"--out {out}: is there already, of other pairs or settings; choose another name, or replace it with "
                "--overwrite"
            )
        backbone = load_backbone(model, DTYPES[settings.precision], command.on.name, loading=settings.loading)
        follow("decoding pairs", len(store), export_pairs(settings, store, backbone, out))
    print(f"{out}: {len(store)} {store.kind}")
