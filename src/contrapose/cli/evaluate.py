"""`contrapose evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from contrapose.cli.device import OnDevice
from contrapose.cli.options import Choice, parse
from contrapose.cli.sharing import Sharing
from contrapose.evaluate.sets.extractors import FEATURES
from contrapose.evaluate.suites import Unjudged
from contrapose.judges.table import JUDGES
from contrapose.worlds.settings import Judging
from contrapose.worlds.suites import SUITES

UNIONS = {"suite": Choice(SUITES), "judges": Choice(JUDGES, prefixed=True), "features": Choice(FEATURES, prefixed=True)}


@dataclass(frozen=True)
class Command:
    """Judge every image, and compare each model with the base on the same prompts and seeds."""

    images: tuple[str, ...]
    """NAME=FOLDER of each model's images, made by 'contrapose sample'; runs of one method with different training seeds
    are named METHOD/SEED, such as ddspo/0=a ddspo/1=b, and are also summed up as one."""
    out: Path
    """Folder that receives rows.parquet, summary.json, and results/ as GenEval and CompBench write them. It keeps to
    its base, suite, replicates and images, and refuses others; models may be added to it, by naming them beside
    those that it has. One that was killed carries on."""
    judging: Judging = field(default_factory=Judging)
    on: OnDevice = field(default_factory=OnDevice)
    sharing: Sharing = field(default_factory=Sharing)


def main(arguments: list[str], prog: str) -> None:
    judge(parse(Command, arguments, prog, unions=UNIONS))


def judge(command: Command) -> None:
    from contrapose.cli.memory import advised
    from contrapose.cli.notes import quiet_libraries, tell
    from contrapose.cli.progress import Bar
    from contrapose.estimate.advice import after_judging
    from contrapose.evaluate.lines import summary_lines
    from contrapose.evaluate.named import named_folders
    from contrapose.worlds.evaluation import evaluate_models, lay_out_images

    quiet_libraries()
    judging = command.judging
    images = named_folders(command.images)
    with command.sharing.working() as worker:
        if isinstance(judging.suite, Unjudged):
            tell(lay_out_images(images, judging, command.out, worker))
            return
        with advised(lambda card: after_judging(judging.suite, judging.features), command.on.name):
            summary, is_new = evaluate_models(images, judging, command.out, command.on.name, Bar, worker)
    if summary is not None:
        if not is_new:
            tell(f"{command.out}: these images were judged already")
        tell("\n".join(summary_lines(summary, judging.suite.title)))
