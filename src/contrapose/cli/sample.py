"""`contrapose sample`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.loading import DTYPES
from contrapose.cli.cut_prompts import tell_cut
from contrapose.cli.device import OnDevice
from contrapose.cli.options import REQUIRED, choice, parse
from contrapose.cli.progress import follow, quiet_libraries
from contrapose.core.guidance import GUIDANCES
from contrapose.guiding.images import Sampling, sample_images
from contrapose.store.prompts import read_prompts


@dataclass(frozen=True)
class Command(OnDevice):
    """Sample images, in GenEval's folder layout; an image depends on its prompt and seed alone."""

    sampling: Sampling
    out: Path
    """Folder that receives the images; an unfinished one is carried on."""


def main(arguments: list[str], prog: str) -> None:
    usual = "cpgd" if any(argument.partition("=")[0] == "--negative" for argument in arguments) else "pgd"
    guidance, rest = choice(arguments, "--guidance", GUIDANCES, usual)
    template = Command(Sampling(model=REQUIRED, prompts=REQUIRED, guidance=guidance()), out=REQUIRED)
    sample(parse(Command, rest, prog, template, short=True))


def sample(command: Command) -> None:
    quiet_libraries()
    settings = command.sampling
    prompts = read_prompts(settings.prompts)
    backbone = load_backbone(settings.model, DTYPES[settings.dtype], command.device, settings.adapter, settings)
    tell_cut(settings.prompts, prompts, backbone)
    total = len(prompts) * settings.seeds
    follow(f"sampling {command.out.name}", total, sample_images(settings, backbone, command.out))
