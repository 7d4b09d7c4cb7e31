"""The report: gather, draw, fill the template, write one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from contrapose.evaluate.evidence import Evidence
from contrapose.evaluate.summary import BOUNDS
from contrapose.files import check_file, one_writer, write_text
from contrapose.ranges import CountOrNone, Seed, checked
from contrapose.report.evidence import Headline, Judged, MetricTable, headlines
from contrapose.report.examples import Example, examples, unjudged_examples
from contrapose.report.film import Film, shown_film
from contrapose.report.html import fill
from contrapose.report.numbers import count, listed
from contrapose.report.plots import Plot, by_level, curves, forest, judged_curves
from contrapose.report.provenance import Compared, commands, compare, read_pairs, sampling, share_noise, versions
from contrapose.report.runs import STATE, Fact, ShownRun, distinct_names, facts, read_run
from contrapose.report.sets import SetSection, set_headlines, set_section
from contrapose.report.tables import Sheet, of_pairs

__all__ = ["Evidence", "Report", "render", "write_report"]


@dataclass(frozen=True)
@checked
class Report:
    """What goes into the page; anything may be left out."""

    title: str
    runs: tuple[Path, ...] = ()
    """Run folders, finished or not."""
    evidence: tuple[Evidence, ...] = ()
    """Evaluations, with their images and their scores; without a judge, with their images alone."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """Folders of images by their models' names, which are shown side by side as they are."""
    pairs: Path | None = None
    """The folder of pairs that the runs were trained on."""
    num_examples: CountOrNone = 12
    """Prompts of each evaluation that are shown with every model's image."""
    example_seed: Seed = 0
    """Seed of the choice of examples."""
    commands: tuple[str, ...] = ()
    """The commands as typed; worked out from the recorded settings when empty."""
    sheets: tuple[Sheet, ...] = ()
    """Further tables, which stand before the scores."""


_ROWS = 4  # of images that the page begins with
_PLOTS = 3  # of a run that are shown at once; the others are folded


class RunSection(NamedTuple):
    """A run, ready to be laid out."""

    name: str
    text: str
    facts: list[Fact]
    film: Film | None
    """Its images by step, where it drew any."""
    plots: list[Plot]
    more_plots: list[Plot]


class ScoreSection(NamedTuple):
    """What a judge said, ready to be laid out."""

    about: str
    main: MetricTable
    further: list[MetricTable]
    """Of the other metrics, whose bounds and categories are left out."""
    compared: bool
    level: str
    forest: Markup
    pairs: Sheet | None
    """Methods against each other, where there are several."""
    sets: SetSection | None
    """Numbers of whole sets of images."""


class ImageSection(NamedTuple):
    """Several models' images side by side, ready to be laid out, and their scores where they were judged."""

    key: str
    title: str
    headlines: list[Headline]
    base: str
    """What the others are compared with; empty where nothing is compared."""
    alarms: list[str]
    """Gains that judges held out of training do not share."""
    scores: ScoreSection | None
    first: list[Example]
    """What the page begins with; of the first section alone."""
    more: list[Example]
    sampling: Compared
    share_noise: bool
    """Whether images side by side are of the same noise."""


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
    sections: list[ImageSection] = []
    judged: list[Judged] = []
    unjudged: list[Evidence] = []
    for number, evidence in enumerate(report.evidence, start=1):
        key = f"evidence-{number}"
        if evidence.is_judged:
            judged.append(Judged(evidence))
            sections.append(_judged(judged[-1], key, report))
        else:
            unjudged.append(evidence)
            sections.append(_unjudged(evidence.title, evidence.images, key, report))
    if report.images:
        sections.append(_unjudged("Images", report.images, "images-alone", report))
    training = []
    for number, (run, name) in enumerate(zip(runs, distinct_names(runs), strict=True), start=1):
        key = f"run-{number}"
        plots = judged_curves(run, key) + curves(run, key) + by_level(run, key)
        shown = shown_film(run.folder)
        training.append(RunSection(name, run.text, facts(run), shown, plots[:_PLOTS], plots[_PLOTS:]))
    typed = report.commands or commands(report.pairs, runs, judged, unjudged, report.images)
    pairs = None if report.pairs is None else read_pairs(report.pairs, report.example_seed)
    facts_of = {run.name: run.facts for run in training}
    states = [f"{name}: {fact.value}" for name, of_run in facts_of.items() for fact in of_run if fact.label == STATE]
    notes = [evaluation.evidence.counted for evaluation in judged if evaluation.evidence.counted]
    notes += [note for evaluation in judged for note in evaluation.summary.notes]
    return fill(
        "template.html.j2",
        title=report.title,
        sections=_with_first_rows(sections),
        pairs=pairs,
        runs=training,
        settings=compare(facts_of),
        notes=list(dict.fromkeys(notes)),
        states=states,
        example_seed=report.example_seed,
        commands=typed,
        seeds=_seeds(report, runs, judged),
        versions=versions(),
        sheets=report.sheets,
    )


def _with_first_rows(sections: Sequence[ImageSection]) -> list[ImageSection]:
    """The sections with the first examples of the first one that has any set apart, which the page begins with."""
    number = next((number for number, section in enumerate(sections) if section.more), None)
    laid_out = list(sections)
    if number is not None:
        every = sections[number].more
        laid_out[number] = sections[number]._replace(first=every[:_ROWS], more=every[_ROWS:])
    return laid_out


def _judged(judged: Judged, key: str, report: Report) -> ImageSection:
    """An evaluation's images and scores."""
    first, *rest = judged.metrics
    drawn = Markup("")
    if judged.contestants and len(judged.tags()) > 1:
        drawn = forest(judged.differences(first), judged.contestants, judged.scale(first).unit, key)
    # how much was judged; bounds count apart, since their images are nobody's
    models = [model for model in judged.summary.models if model not in BOUNDS]
    claims = headlines(judged) + set_headlines(judged.summary.sets, judged.base)
    sizes = {(scores.num_prompts, scores.num_images) for scores in judged.summary.models.values()}
    amounts = [f"{count(images)} images of {count(prompts)} prompts" for prompts, images in sorted(sizes)]
    scores = ScoreSection(
        about=f"Each model was judged on {' or '.join(amounts)}.",
        main=judged.table(first),
        further=[judged.table(metric) for metric in rest],
        compared=bool(judged.contestants),
        level=f"{100 * judged.summary.level:g} %",
        forest=drawn,
        pairs=of_pairs(judged),
        sets=set_section(judged.summary.sets, judged.summary.level),
    )
    return ImageSection(
        key=key,
        title=judged.title,
        headlines=claims or [Headline(listed(models), "judged, and not compared by a score.")],
        base=judged.base or "",
        alarms=judged.alarms(),
        scores=scores,
        first=[],
        more=examples(judged, report.num_examples, report.example_seed),
        sampling=sampling(judged.images),
        share_noise=share_noise(judged.images),
    )


def _unjudged(title: str, images: Mapping[str, Path], key: str, report: Report) -> ImageSection:
    """Images that nobody judged."""
    claim = f"{listed(list(images))}, side by side"
    return ImageSection(
        key=key,
        title=title,
        headlines=[Headline(claim, "the same prompts and seeds, judged by nobody but the reader.")],
        base="",
        alarms=[],
        scores=None,
        first=[],
        more=unjudged_examples(images, report.num_examples, report.example_seed),
        sampling=sampling(images),
        share_noise=share_noise(images),
    )


def _seeds(report: Report, runs: Sequence[ShownRun], judged: Sequence[Judged]) -> list[Fact]:
    seeds = []
    for run, name in zip(runs, distinct_names(runs), strict=True):
        seeds.append(Fact(f"training of {name}", run.setting("seed")))
    for evaluation in judged:
        seed = f"{evaluation.summary.seed} ({count(evaluation.summary.replicates)} replicates)"
        seeds.append(Fact(f"bootstrap and test of “{evaluation.title}”", seed))
    return [*seeds, Fact("choice of examples", str(report.example_seed))]
