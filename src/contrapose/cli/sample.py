"""`contrapose sample`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from contrapose.cli.device import OnDevice
from contrapose.cli.options import Choice, parse
from contrapose.cli.sharing import Sharing
from contrapose.core.guidance import GUIDANCES
from contrapose.guiding.settings import Sampling
from contrapose.worlds.judges import IMAGE_JUDGES, ImageJudge, check_best_of

UNIONS = {"guidance": Choice(GUIDANCES, unless=("negative", "cpgd")), "judges": Choice(IMAGE_JUDGES, prefixed=True)}


@dataclass(frozen=True)
class Command:
    """Sample images, in GenEval's folder layout; an image depends on its prompt and seed alone."""

    sampling: Sampling
    out: Path
    """Folder that receives the images; an unfinished one is carried on."""
    judges: tuple[ImageJudge, ...] = ()
    """Who keeps the best of --best-of: pickscore, aesthetic, ..., or shapes for prompts of the shapes world; the first
    judge's first number decides, and further ones between equals. Options are --judges.0.model and so on."""
    on: OnDevice = field(default_factory=OnDevice)
    sharing: Sharing = field(default_factory=Sharing)

    def __post_init__(self) -> None:
        check_best_of(self.sampling.best_of, self.judges)


def main(arguments: list[str], prog: str) -> None:
    sample(parse(Command, arguments, prog, unions=UNIONS))


def sample(command: Command) -> None:
    from contrapose.backbones.precision import usual_precision
    from contrapose.cli.follow import follow
    from contrapose.cli.memory import image_memory
    from contrapose.cli.notes import quiet_libraries, tell
    from contrapose.cli.sampled import load_sampled
    from contrapose.estimate.advice import Images
    from contrapose.guiding.images import SETTINGS, jobs, sample_images
    from contrapose.report.contact_sheet import write_contact_sheet
    from contrapose.store.named_prompts import named_prompts
    from contrapose.worlds.best_of import BestByJudges

    quiet_libraries()
    settings = command.sampling
    out = command.out
    prompts = named_prompts(settings.prompts)
    chooser = BestByJudges(command.judges, prompts, command.on.name, settings.model) if command.judges else None
    images = jobs(prompts, settings.num_images, out)
    precision = settings.precision or usual_precision(command.on.name, out / SETTINGS)
    at_once = Images(settings.model, precision, settings.loading, settings.size, settings.batch_size)
    with image_memory(at_once, command.on.name):
        backbone = load_sampled(settings, precision, prompts, command.on.name)
        with command.sharing.working() as worker:
            follow(f"sampling {out.name}", len(images), sample_images(settings, backbone, out, chooser, worker))
    num_missing = sum(not image.path.exists() for image in images)
    if num_missing:
        tell(f"{out}: {num_missing} of {len(images)} images are left to other parts")
    else:
        tell(write_contact_sheet(out, images, worker=worker).resolve())
