"""`contrapose sample`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from contrapose.cli.device import OnDevice
from contrapose.cli.options import Choice, parse
from contrapose.core.guidance import GUIDANCES
from contrapose.guiding.settings import Sampling

UNIONS = {"guidance": Choice(GUIDANCES, unless=("negative", "cpgd"))}


@dataclass(frozen=True)
class Command:
    """Sample images, in GenEval's folder layout; an image depends on its prompt and seed alone."""

    sampling: Sampling
    out: Path
    """Folder that receives the images; an unfinished one is carried on."""
    on: OnDevice = field(default_factory=OnDevice)


def main(arguments: list[str], prog: str) -> None:
    sample(parse(Command, arguments, prog, unions=UNIONS))


def sample(command: Command) -> None:
    from contrapose.backbones.families.table import load_backbone
    from contrapose.backbones.loading import DTYPES
    from contrapose.cli.cut_prompts import tell_cut
    from contrapose.cli.notes import quiet_libraries
    from contrapose.cli.progress import follow
    from contrapose.guiding.images import sample_images
    from contrapose.store.prompts import read_prompts

    quiet_libraries()
    settings = command.sampling
    prompts = read_prompts(settings.prompts)
    dtype = DTYPES[settings.precision]
    backbone = load_backbone(settings.model, dtype, command.on.name, settings.adapter, settings.loading)
    tell_cut(settings.prompts, prompts, backbone)
    total = len(prompts) * settings.num_images
    follow(f"sampling {command.out.name}", total, sample_images(settings, backbone, command.out))
