"""The report: gather, draw, fill the template, write one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from contrapose.evaluate.evidence import Evidence
from contrapose.files import check_file, one_writer, write_text
from contrapose.ranges import CountOrNone, Seed, checked
from contrapose.report.evidence import Judged, MetricTable, headlines, spoken
from contrapose.report.examples import Example, examples
from contrapose.report.html import fill
from contrapose.report.numbers import count
from contrapose.report.plots import Plot, by_level, curves, forest
from contrapose.report.provenance import Table, commands, read_pairs, sampling, versions
from contrapose.report.runs import Fact, ShownRun, distinct_names, facts, read_run
from contrapose.report.sets import SetSection, set_section

__all__ = ["Evidence", "Report", "render", "write_report"]


@dataclass(frozen=True)
@checked
class Report:
    """What goes into the page; anything may be left out."""

    title: str
    runs: tuple[Path, ...] = ()
    """Run folders, finished or not."""
    evidence: tuple[Evidence, ...] = ()
    """Evaluations; each becomes a section with its own table of categories."""
    pairs: Path | None = None
    """The folder of pairs that the runs were trained on."""
    num_examples: CountOrNone = 12
    """Prompts of each evaluation that are shown with every model's image."""
    example_seed: Seed = 0
    """Seed of the choice of examples."""
    commands: tuple[str, ...] = ()
    """The commands as typed; worked out from the recorded settings when empty."""


class RunSection(NamedTuple):
    name: str
    text: str
    facts: list[Fact]
    curves: list[Plot]
    levels: list[Plot]


class EvidenceSection(NamedTuple):
    """An evaluation, ready to be laid out."""

    key: str
    title: str
    about: str
    headlines: list[str]
    main: MetricTable
    further: list[MetricTable]
    """Of the other metrics."""
    compared: bool
    level: str
    forest: Markup
    sampling: Table
    examples: list[Example]
    notes: tuple[str, ...]
    """What a reader of the numbers has to know."""
    alarms: list[str]
    """Gains that judges held out of training do not share."""
    sets: SetSection | None
    """Numbers of whole sets of images."""


def write_report(report: Report, out: Path) -> bool:
    """Write the page to `out`, whole or not at all; False where the same page was there already.

    Raises `UserError` naming the folder and the fix for a run, evidence, pairs or images that cannot be read.
    """
    check_file(out)
    with one_writer(out, beside=True):
        return write_text(out, render(report))


def render(report: Report) -> str:
    """The page as text."""
    runs = [read_run(folder) for folder in report.runs]
    judged = [Judged(evidence) for evidence in report.evidence]
    sections = [_evidence(evaluation, f"evidence-{i}", report) for i, evaluation in enumerate(judged, start=1)]
    training = []
    for number, (run, name) in enumerate(zip(runs, distinct_names(runs), strict=True), start=1):
        key = f"run-{number}"
        training.append(RunSection(name, run.text, facts(run), curves(run, key), by_level(run, key)))
    return fill(
        "template.html.j2",
        title=report.title,
        summary=_summary(report, runs, judged),
        pairs=read_pairs(report.pairs, report.example_seed) if report.pairs is not None else None,
        runs=training,
        evidence=sections,
        example_seed=report.example_seed,
        commands=report.commands or commands(report.pairs, runs, judged),
        seeds=_seeds(report, runs, judged),
        versions=versions(),
    )


def _evidence(judged: Judged, key: str, report: Report) -> EvidenceSection:
    first, *rest = judged.metrics
    drawn = Markup("")
    if judged.contestants:
        drawn = forest(judged.differences(first), judged.contestants, judged.scale(first).unit, key)
    # how much was judged; bounds count apart, since their images are nobody's
    sizes = {(scores.num_prompts, scores.num_images) for scores in judged.summary.models.values()}
    amounts = [f"{count(images)} images of {count(prompts)} prompts" for prompts, images in sorted(sizes)]
    return EvidenceSection(
        key=key,
        title=judged.title,
        about=f"Each model was judged on {' or '.join(amounts)}.",
        headlines=headlines(judged),
        main=judged.table(first),
        further=[judged.table(metric) for metric in rest],
        compared=bool(judged.contestants),
        level=f"{100 * judged.summary.level:g} %",
        forest=drawn,
        sampling=sampling(judged.images),
        examples=examples(judged, report.num_examples, report.example_seed),
        notes=judged.summary.notes,
        alarms=judged.alarms(),
        sets=set_section(judged.summary.sets, judged.summary.level),
    )


def _summary(report: Report, runs: Sequence[ShownRun], judged: Sequence[Judged]) -> list[str]:
    """What was done, in plain words."""
    lines = []
    for run, name in zip(runs, distinct_names(runs), strict=True):
        lines.append(f"{name}: {run.setting('model')} aligned with {run.method}; {run.status}.")
    for evaluation in judged:
        models = ", ".join(row.model for row in evaluation.table(evaluation.metrics[0]).models)
        metrics = ", ".join(map(spoken, evaluation.metrics))
        lines.append(f"{evaluation.title}: images of {models} were judged ({metrics}).")
    return lines


def _seeds(report: Report, runs: Sequence[ShownRun], judged: Sequence[Judged]) -> list[Fact]:
    seeds = []
    for run, name in zip(runs, distinct_names(runs), strict=True):
        seeds.append(Fact(f"training of {name}", run.setting("seed")))
    for evaluation in judged:
        seed = f"{evaluation.summary.seed} ({count(evaluation.summary.replicates)} replicates)"
        seeds.append(Fact(f"bootstrap and test of “{evaluation.title}”", seed))
    return [*seeds, Fact("choice of examples", str(report.example_seed))]
