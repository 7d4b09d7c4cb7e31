"""`contrapose evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from contrapose.cli.device import OnDevice
from contrapose.cli.options import Choice, parse
from contrapose.evaluate.sets.extractors import FEATURES, AnyFeatures, NoFeatures
from contrapose.evaluate.statistics import REPLICATES, Replicates
from contrapose.evaluate.suites import Unjudged
from contrapose.evaluate.taking import Taking
from contrapose.judges.table import JUDGES
from contrapose.ranges import checked
from contrapose.worlds.shapes.suite import Shapes
from contrapose.worlds.suites import SUITES, AnySuite

UNIONS = {"suite": Choice(SUITES), "judges": Choice(JUDGES, prefixed=True), "features": Choice(FEATURES, prefixed=True)}


@dataclass(frozen=True)
@checked
class Command:
    """Judge every image, and compare each model with the base on the same prompts and seeds."""

    images: tuple[str, ...]
    """NAME=FOLDER of each model's images, made by 'contrapose sample'; runs of one method with different training seeds
    are named METHOD/SEED, such as ddspo/0=a ddspo/1=b, and are also summed up as one."""
    out: Path
    """Folder that receives rows.parquet, summary.json, and results/ as GenEval and CompBench write them. It keeps to
    its base, suite, replicates and images, and refuses others; with models added to it, all are judged again."""
    suite: AnySuite = field(default_factory=Shapes)
    """How images are judged: shapes is GenEval's verdict by the shapes world's analytic detector, geneval the same by a
    detector of COCO's objects, compbench T2I-CompBench's rules, questions what a chat model answers to
    questions in the prompts' lines, scores the numbers of --judges pickscore aesthetic ... (--judges.0.model, ...),
    set numbers of whole sets of images such as FID; none judges nothing, and a report shows images side by side."""
    base: str = "base"
    """The name of the model that the others are compared with."""
    features: AnyFeatures = field(default_factory=NoFeatures)
    """What else looks at the images, for diversity within a prompt and drift from the base: pixels (colours, without
    weights), clip, dinov2, inception, none, for which the suite set takes inception. --features.model and so on."""
    taking: Taking = field(default_factory=Taking)
    title: str = ""
    """Heading in the report; the name of --out when empty."""
    replicates: Replicates = REPLICATES
    """Bootstrap replicates and sign flips."""
    trained_for: tuple[str, ...] = ()
    """Metrics that models were trained for, such as pickscore: a gain by them that others do not share is flagged."""
    on: OnDevice = field(default_factory=OnDevice)


def main(arguments: list[str], prog: str) -> None:
    judge(parse(Command, arguments, prog, unions=UNIONS))


def judge(command: Command) -> None:
    from contrapose.cli.notes import quiet_libraries
    from contrapose.cli.progress import Bar
    from contrapose.evaluate.evidence import Record, evaluate, lay_out, named_folders
    from contrapose.evaluate.lines import lines
    from contrapose.evaluate.sets.looking import looking_of
    from contrapose.files import check_folder
    from contrapose.worlds.suites import as_settings

    quiet_libraries()
    check_folder(command.out)
    title = command.title or command.out.absolute().name
    taking = None if command.taking == Taking() else command.taking
    settings = as_settings(command.suite)
    images = named_folders(command.images)
    record = Record(title, settings, images, command.base, command.replicates, command.trained_for, taking=taking)
    if isinstance(command.suite, Unjudged):
        print(lay_out(record, command.features, command.out))
        return
    looking = looking_of(command.suite, command.features)
    summary, is_new = evaluate(record, command.suite, command.out, command.on.name, Bar, looking)
    if not is_new:
        print(f"{command.out}: these images were judged already")
    print(*lines(summary, command.suite.title), sep="\n")
