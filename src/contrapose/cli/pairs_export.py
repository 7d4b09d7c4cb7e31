"""`contrapose pairs export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from contrapose.backbones.settings import UNREAD_BY_IMAGES
from contrapose.cli.device import OnDevice
from contrapose.cli.options import parse
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
    hand_out(parse(Command, arguments, prog, without=UNREAD_BY_IMAGES))


def hand_out(command: Command) -> None:
    from contrapose.backbones.families.table import IMAGES_ALONE, load_backbone
    from contrapose.backbones.loading import DTYPES
    from contrapose.cli.follow import follow
    from contrapose.cli.memory import image_memory
    from contrapose.cli.notes import quiet_libraries
    from contrapose.estimate.advice import Images
    from contrapose.exchange.exports import export_pairs, is_exported
    from contrapose.store.groups import GroupStore

    quiet_libraries()
    settings = command.settings
    out = command.out
    store = GroupStore(command.pairs)
    if is_exported(settings, store, out, command.overwrite):
        print(f"{out}: {len(store)} {store.kind}, which were there already")
        return
    model = store.model_or(settings.model)
    at_once = Images(model, settings.precision, settings.loading, None, 2 * settings.batch_size, coded=True)
    with image_memory(at_once, command.on.name):
        # its autoencoder alone is asked; of the others, most of a model, their forms
        dtype = DTYPES[settings.precision]
        backbone = load_backbone(model, dtype, command.on.name, loading=settings.loading, without_values=IMAGES_ALONE)
        follow("decoding pairs", len(store), export_pairs(settings, store, backbone, out))
    print(f"{out}: {len(store)} {store.kind}")
