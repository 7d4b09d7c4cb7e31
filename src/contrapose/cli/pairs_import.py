"""`contrapose pairs import`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from contrapose.backbones.settings import UNREAD_BY_IMAGES
from contrapose.cli.device import OnDevice
from contrapose.cli.options import parse
from contrapose.cli.sharing import Sharing
from contrapose.exchange.settings import Import


@dataclass(frozen=True)
class Command:
    """Import pairs of images that you have, of any sizes: two folders with the same stems (--winners, --losers), or
    a file or folder of another format (--source), here or at hf://datasets/...: chosen and rejected, Pick-a-Pic, HPDv3
    and HPDv2, RealAlign's tables, likes and dislikes as of Diffusion-KTO and TRL, or DDSPO's prepared latents."""

    settings: Import
    out: Path
    """Folder that receives the pairs; an unfinished one is carried on."""
    on: OnDevice = field(default_factory=OnDevice)
    sharing: Sharing = field(default_factory=Sharing)


def main(arguments: list[str], prog: str) -> None:
    bring_in(parse(Command, arguments, prog, without=UNREAD_BY_IMAGES))


def bring_in(command: Command) -> None:
    from contrapose.backbones.families.table import IMAGES_ALONE, load_backbone
    from contrapose.backbones.loading import DTYPES
    from contrapose.backbones.precision import usual_precision
    from contrapose.cli.follow import follow
    from contrapose.cli.memory import image_memory
    from contrapose.cli.notes import quiet_libraries, tell
    from contrapose.cli.progress import Bar
    from contrapose.containers.left_out import SKIPPED, told_counts
    from contrapose.estimate.advice import Images
    from contrapose.exchange.imports import import_pairs, plan_import, read_listing
    from contrapose.store.manifest import MANIFEST

    quiet_libraries()
    settings = command.settings
    out = command.out
    listing = read_listing(settings)
    device = command.on.name
    precision = settings.precision or usual_precision(device, out / MANIFEST, "import")
    size = settings.fitting.square
    at_once = Images(settings.model, precision, settings.loading, size, 2 * settings.batch_size, coded=True)
    with image_memory(at_once, device):
        # its autoencoder alone is asked; of the others, most of a model, their forms
        dtype = DTYPES[precision]
        backbone = load_backbone(settings.model, dtype, device, loading=settings.loading, without_values=IMAGES_ALONE)
        with Bar("looking at images", len(listing.pairs)) as bar:
            plan = plan_import(settings, listing, backbone, bar)
        if plan.left_out:
            total = len(plan.left_out) + len(plan.pairs)
            counts = told_counts(Counter(entry.kind for entry in plan.left_out))
            tell(f"left out {len(plan.left_out)} of {total} pairs ({counts}); the reasons are in {out / SKIPPED}")
        with command.sharing.working() as worker:
            follow("encoding pairs", len(plan.pairs), import_pairs(settings, plan, backbone, out, worker))
