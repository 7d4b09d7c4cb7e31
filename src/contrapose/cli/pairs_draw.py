"""`contrapose pairs draw`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from contrapose.cli.device import OnDevice
from contrapose.cli.options import Choice, parse
from contrapose.cli.sharing import Sharing
from contrapose.degrade.degraders import DEGRADERS
from contrapose.draw.settings import Draw

UNIONS = {"degrade": Choice(DEGRADERS, prefixed=True)}


@dataclass(frozen=True)
class Command:
    """Draw pairs: the winner from each prompt, the loser from its degraded prompt, with the same noise. Or, by
    --samples-per-prompt, groups of samples of each prompt for 'contrapose pairs score' and 'pairs label'."""

    draw: Draw
    out: Path
    """Folder that receives the pairs; an unfinished one is carried on."""
    on: OnDevice = field(default_factory=OnDevice)
    sharing: Sharing = field(default_factory=Sharing)


def main(arguments: list[str], prog: str) -> None:
    draw(parse(Command, arguments, prog, unions=UNIONS))


def draw(command: Command) -> None:
    from contrapose.backbones.families.table import load_backbone
    from contrapose.backbones.loading import DTYPES
    from contrapose.backbones.precision import usual_precision
    from contrapose.backbones.speed import hasten
    from contrapose.cli.cut_prompts import tell_cut
    from contrapose.cli.follow import follow
    from contrapose.cli.memory import image_memory
    from contrapose.cli.notes import quiet_libraries, tell
    from contrapose.degrade.degrader import NOT_DEGRADED
    from contrapose.draw.pairs import draw_pairs, plan_pairs
    from contrapose.estimate.advice import Images
    from contrapose.store.manifest import MANIFEST
    from contrapose.store.named_prompts import title_of

    quiet_libraries()
    settings = command.draw
    plan = plan_pairs(settings)
    num_not_degraded = sum(entry.kind == NOT_DEGRADED for entry in plan.left_out)
    if plan.num_repeated or num_not_degraded:
        left_out = f"{plan.num_repeated} repeated prompts and {num_not_degraded} that cannot be degraded"
        tell(f"{title_of(settings.prompts)}: left out {left_out}")
    device = command.on.name
    precision = settings.precision or usual_precision(device, command.out / MANIFEST, "draw")
    size = next(iter(settings.sizes), None)
    num_images = (settings.samples_per_prompt or 2) * settings.batch_size
    with image_memory(Images(settings.model, precision, settings.loading, size, num_images), device):
        dtype = DTYPES[precision]
        backbone = load_backbone(settings.model, dtype, device, loading=settings.loading)
        hasten([backbone.denoiser.network], settings.speed, dtype, backbone.device)
        tell_cut(settings.prompts, plan.prompts, backbone)
        drawn = "groups" if settings.samples_per_prompt else "pairs"
        with command.sharing.working() as worker:
            states = draw_pairs(settings, plan, backbone, command.out, worker)
            follow(f"drawing {drawn}", len(plan.records), states)
