"""An evaluation: models that were judged on the same prompts and seeds, as a folder.

evidence/evidence.yaml   what was judged, and how, with digests of what it names in inputs.yaml
         rows.parquet    what the judge said of each image
         summary.json    the summary of these rows, and numbers of whole sets of images
         results/        the rows as GenEval's scripts write them, where the judge says what it saw
         judged/         the same rows as the judge came to them, a file of each few images
         features/       what an extractor saw in the images, where one looked at them
         ceiling/        the images of the ceiling, where the suite has one
         skipped.jsonl   broken images, where they were left out

Without a judge there is `evidence.yaml` alone: a report shows the images side by side.

An evaluation that was killed carries on with the images that are not judged yet, and several processes share a folder,
of which the first to find all images judged sums them up.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contrapose import runfile
from contrapose.containers.left_out import LeftOut, write_left_out
from contrapose.containers.places import digest_at
from contrapose.documents import load_yaml
from contrapose.errors import UserError
from contrapose.evaluate.alarm import check_trained_for, of_trained_judges
from contrapose.evaluate.geneval.results import write_results
from contrapose.evaluate.images import Images, digest_of_images, prompt_folders
from contrapose.evaluate.kept import KeptRows
from contrapose.evaluate.rows import Rows, read_rows, write_rows
from contrapose.evaluate.run import evaluate_images
from contrapose.evaluate.sets.describing import DESCRIBING, check_metrics
from contrapose.evaluate.sets.extractors import AnyFeatures, NoFeatures
from contrapose.evaluate.sets.looking import Looked, Looking, Viewer
from contrapose.evaluate.sets.reference import FeatureCache
from contrapose.evaluate.statistics import REPLICATES, Replicates
from contrapose.evaluate.suites import NONE, Suite, WritesResults
from contrapose.evaluate.summary import BOUNDS, CEILING, FIX, FLOOR, Summary, is_current, read_summary, write_summary
from contrapose.evaluate.summing import SummarySettings, summarize
from contrapose.evaluate.taking import Taking, taken, tell_of_left_out
from contrapose.evaluate.training_seeds import check_names, runs_of_methods
from contrapose.files import replacing
from contrapose.judges.judge import Judge
from contrapose.progress import Progress, untold
from contrapose.ranges import check_unused, checked
from contrapose.store.prompts import Prompt
from contrapose.workers import ALONE, Worker

EVIDENCE = "evidence.yaml"
ROWS = "rows.parquet"
SUMMARY = "summary.json"
FEATURES = "features"
KEPT = "judged"
RESULTS = "results"
DETECTIONS = "suite.detections"
CONVERTER = runfile.converter()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
@checked
class Record:
    """What `evidence.yaml` says: what was judged, and how."""

    title: str
    suite: dict[str, Any]
    """The suite's name and its settings, as they stand in a file."""
    images: dict[str, Path]
    base: str | None = None
    replicates: Replicates = REPLICATES
    trained_for: tuple[str, ...] = ()
    """Metrics that the models were trained for; another one is summed up anew, and nothing is judged."""
    features: dict[str, Any] | None = None
    """The extractor's name and its settings, where images were looked at beside being judged."""
    taking: Taking | None = None
    """Which of the images are judged, and by what prompts, unless it is all of them, by the lines beside them."""
    counted: str = ""
    """What the suite's detector counts as an object, for readers; decides nothing."""
    called: str = ""
    """What tables call the suite's numbers; decides nothing."""

    def __post_init__(self) -> None:
        if not isinstance(self.suite.get("name"), str):
            raise UserError("suite has no name")
        if self.features is not None and not isinstance(self.features.get("name"), str):
            raise UserError("features have no name")
        check_names(self.images)


@dataclass(frozen=True)
class Evidence:
    """Where an evaluation lies, and what it is called."""

    title: str
    folder: Path
    """Folder with `rows.parquet` and `summary.json`."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """Each model's folder of images, from which examples are shown; the others are shown in numbers alone."""
    suite: Mapping[str, Any] = field(default_factory=dict)
    """The suite's name and its settings, as they stand in a file."""
    trained_for: tuple[str, ...] = ()
    """Metrics that the models were trained for."""
    features: Mapping[str, Any] | None = None
    """The extractor's name and its settings, where one looked at the images."""
    counted: str = ""
    """What the suite's detector counts as an object; empty where it has none."""
    called: str = ""
    """What tables call the numbers; empty where the metrics' names say enough."""
    taking: Taking | None = None
    """Which of the images were judged, and by what prompts, unless it was all of them."""

    @property
    def is_judged(self) -> bool:
        """Whether there are numbers: without a judge there are images alone."""
        return self.suite.get("name") != NONE


def read_evidence(folder: Path) -> Evidence:
    """A finished evaluation.

    Raises `UserError` naming the folder or file, and the fix, for a folder that holds none.
    """
    path = folder / EVIDENCE
    if not path.is_file():
        raise UserError(f"{folder}: no {EVIDENCE}, so this is not finished evidence; run 'contrapose evaluate' again")
    record = read_record(path)
    judged_by = (record.suite, record.trained_for, record.features, record.counted, record.called)
    return Evidence(record.title, folder, record.images, *judged_by, record.taking)


def read_record(path: Path) -> Record:
    """What `evidence.yaml` says; `UserError` naming the file and the setting where it is broken or too old."""
    values = load_yaml(path)
    if isinstance(values, dict) and isinstance(values.get("suite"), str):
        raise UserError(f"{path}: written before suites had settings; delete its folder and evaluate again")
    return runfile.structured(path, values, Record, CONVERTER)


def read_judged(folder: Path) -> tuple[Summary, Rows]:
    """The summary and the rows of a folder of evidence, or of a sweep.

    Raises `UserError` naming the folder or file, and the fix, where one is missing, broken, or not of the other.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of evidence; name one made by 'contrapose evaluate'")
    summary = read_summary(folder / SUMMARY)
    rows = read_rows(folder / ROWS)
    _check_rows(folder / ROWS, rows, summary)
    return summary, rows


def _check_rows(path: Path, rows: Rows, summary: Summary) -> None:
    """Raise `UserError` for rows that are not those that the summary sums up."""
    num_rows = 0
    fitting = set(rows.models) == set(summary.models)
    for model, scores in summary.models.items():
        for metric in scores.metrics:
            fitting = fitting and rows.num_images(model, metric) == scores.num_images
            num_rows += scores.num_images
    if not fitting or len(rows) != num_rows:
        raise UserError(f"{path}: does not hold the rows that {SUMMARY} sums up; {FIX}")


def evaluate(
    record: Record,
    suite: Suite,
    out: Path,
    device: str = "cpu",
    progress: Progress = untold,
    looking: Looking | None = None,
    worker: Worker = ALONE,
) -> tuple[Summary | None, bool]:
    """Judge every image of the record's folders into `out`; the summary, and whether anything was judged anew.

    With `looking`, each image is also looked at by an extractor, which the record then names. Several workers judge
    into a folder together, each the images that no other one has; one that leaves images to others has no summary.
    Raises `UserError` for images that cannot be judged or compared, and for a folder that holds an evaluation by other
    settings, or of other images of a model; nothing is written then.
    """
    base = record.base
    if base is None or base not in record.images:
        raise UserError(f"--base {base}: no images of that name (given: {', '.join(record.images)})")
    inputs = {f"images.{name}": digest_of_images(folder) for name, folder in record.images.items()}
    inputs |= {f"suite.{name}": digest for name, digest in suite.inputs().items()}
    taking = record.taking or Taking()
    if taking.prompts is not None:
        inputs["taking.prompts"] = digest_at(taking.prompts)
    folders, left_out = taken(record.images, taking)
    for name, folder in folders.items():
        prompts = [prompt_folder.prompt for prompt_folder in prompt_folders(folder)]
        suite.check(prompts)
        if len(prompts) < 2 and any(name in runs for runs in runs_of_methods(record.images).values()):
            raise UserError(
                f"{folder}: holds images of one prompt; runs of several seeds take 2 prompts to be compared"
            )
    judge = suite.load(device)
    record = replace(record, counted=suite.counted, called=suite.title)
    check_metrics(judge.higher_is_better)
    check_trained_for(record.trained_for, list(judge.higher_is_better))
    inputs[f"judge.{judge.name}"] = judge.version
    viewer = None
    if looking is not None:
        record = replace(record, features=looking.as_settings())
        viewer = Viewer(looking, looking.features.load(device), FeatureCache(out / FEATURES), progress)
        inputs[f"features.{viewer.extractor.name}"] = viewer.extractor.version
    work = _Work(record, base, suite, judge, folders, viewer, inputs, out, progress)
    with worker.writing(out):
        return work.carry_out(worker, left_out)


def lay_out(record: Record, features: AnyFeatures, out: Path, worker: Worker = ALONE) -> str:
    """Note in `out` which images are to be shown side by side, judged by nobody; what to do next, in a line.

    Raises `UserError` as `taken` does, for settings that only a judge heeds, and for a folder that holds an evaluation.
    """
    taking = record.taking or Taking()
    if record.trained_for or taking.skip_broken or not isinstance(features, NoFeatures):
        raise UserError("the suite none has no numbers; leave --features, --trained-for and --skip-broken out")
    check_unused(record, ("replicates",), "the suite none has no numbers")
    taken(record.images, taking)
    with worker.writing(out), worker.in_turn(out / EVIDENCE):
        path = out / EVIDENCE
        if path.exists() and read_record(path).suite != record.suite:
            raise UserError(f"{out}: holds an evaluation by another suite; choose another --out, or delete the folder")
        runfile.write_claim(path, replace(record, base=None), CONVERTER, {})
    return f"{out}: nothing was judged; 'contrapose report --evidence {out}' shows the images side by side"


@dataclass(frozen=True)
class _Work:
    """An evaluation whose settings and images have passed, in a folder that nobody else is writing."""

    record: Record
    base: str
    suite: Suite
    judge: Judge
    folders: Mapping[str, Images]
    viewer: Viewer | None
    inputs: Mapping[str, str]
    out: Path
    progress: Progress

    def claim(self) -> None:
        """Write what was judged, and how."""
        runfile.write_claim(self.out / EVIDENCE, self.record, CONVERTER, self.inputs)

    def write_results(self) -> None:
        """Write the rows as other tools have them: GenEval's where a judge said what it saw, and the suite's own."""
        title = self.suite.title or f"GenEval's rules, suite {self.record.suite['name']}"
        write_results(self.out / ROWS, self.folders, title, self.out / RESULTS)
        if isinstance(self.suite, WritesResults):
            self.suite.write_results(self.out / ROWS, self.out / RESULTS)

    def carry_out(self, worker: Worker, left_out: Sequence[LeftOut]) -> tuple[Summary | None, bool]:
        """Judge and look at what no other worker does, and sum up where all is there; the result as of `evaluate`."""
        with worker.in_turn(self.out / ROWS):
            summary = self.finished_before()
        if summary is not None:
            return summary, False
        if (self.out / EVIDENCE).exists():
            tell_of_left_out(self.out, read_record(self.out / EVIDENCE).images, self.record.images)
        else:
            runfile.check_unclaimed(self.out / EVIDENCE, (), self.inputs)
        kept = self.kept()
        num_left = 0 if self.viewer is None else self.viewer.look_together(self.folders, self.base, worker)
        if kept.parts:
            with self.progress("judging images") as bar:
                kept.judge(self.judge, worker, bar)
        num_left += kept.num_missing
        with worker.in_turn(self.out / ROWS):
            # of workers that end together, the first has summed up what all have judged
            summary = self.finished_before()
            if summary is None and not num_left:
                summary = self.finish(kept)
                if left_out:
                    write_left_out(self.out, left_out)
        if summary is None:
            _log.info(f"{self.out}: {num_left} files of judged images are left to other parts")
        return summary, True

    def finished_before(self) -> Summary | None:
        """The summary of a folder that holds one of these very images; what is missing beside it is written."""
        summary = self.judged_before()
        if summary is not None:
            self.claim()  # the title may be another
            self.write_results()
            if self.viewer is not None and not self.viewer.is_reference_saved():
                self.viewer.reference()
        return summary

    def kept(self) -> KeptRows:
        """The files of what the judge says of the models and of the floor; none of them where nobody judges images."""
        models = dict(self.folders)
        digests = {name: self.inputs[f"images.{name}"] for name in models}
        shuffled: dict[str, Sequence[Prompt]] = {}
        if not self.judge.higher_is_better:  # a suite of sets has nobody that judges single images
            models = {}
        elif self.suite.bounds:
            models[FLOOR] = self.folders[self.base]
            digests[FLOOR] = digests[self.base]
            shuffled[FLOOR] = self.suite.bounds.floor(self._prompts)
        of_suite = {name: digest for name, digest in self.inputs.items() if name.startswith("suite.")}
        settings = [runfile.deciding(self.record.suite, self.suite), of_suite]
        return KeptRows.of(self.out / KEPT, self.judge, models, shuffled, digests, settings)

    @property
    def _prompts(self) -> list[Prompt]:
        return [folder.prompt for folder in prompt_folders(self.folders[self.base])]

    def finish(self, kept: KeptRows) -> Summary:
        """Sum up what was judged and looked at, and write all of it."""
        rows, summary = self._judged(kept)
        # only now: images that cannot be judged leave nothing that refuses their fix
        self.claim()
        # one of fewer models would not be that of the rows, if this is killed between them
        (self.out / SUMMARY).unlink(missing_ok=True)
        write_rows(rows, self.out / ROWS)
        write_summary(summary, self.out / SUMMARY)
        self.write_results()
        kept.forget_others()
        if self.viewer is not None:
            self.viewer.cache.forget_others()
        return summary

    def judged_before(self) -> Summary | None:
        """What the folder says of these very images; None where they are still to be judged.

        Rows without a summary, or with one of another format or for models trained for other metrics, are summed up
        anew. Raises `UserError` for a folder of other settings, or of other images of a model.
        """
        path = self.out / EVIDENCE
        if not path.exists():
            return None
        before = read_record(path)
        self._check_same(before)
        if load_yaml(self.out / runfile.INPUTS) != self.inputs or not (self.out / ROWS).exists():
            return None
        models = {*self.record.images, *(BOUNDS if self.suite.bounds else ())}
        if is_current(self.out / SUMMARY) and before.trained_for == self.record.trained_for:
            summary, _ = read_judged(self.out)
            return summary if set(summary.models) == models else None
        rows = read_rows(self.out / ROWS)
        if set(rows.models) != models:
            return None
        summary = self._summed_up(rows, self._looked())
        write_summary(summary, self.out / SUMMARY)
        return summary

    def _check_same(self, before: Record) -> None:
        """Raise `UserError` where the folder is of other settings than these; models may be added to it."""
        record = self.record
        added: set[str] = set()
        either = {DETECTIONS}
        for kind in ("images", DETECTIONS):  # settings with an entry for each model
            added |= {f"{kind}.{name}" for name in record.images.keys() - before.images.keys()}
            either |= {f"{kind}.{name}" for name in record.images.keys() | before.images.keys()}
        noted = {name: digest for name, digest in self.inputs.items() if name not in added}
        free = ["title", "counted", "called", "trained_for", "taking.allow_missing", *either]
        # which the record holds as mappings
        free += runfile.practical_names(self.suite, "suite.")
        free += [] if self.viewer is None else runfile.practical_names(self.viewer.looking.features, "features.")
        runfile.claim(self.out / EVIDENCE, record, CONVERTER, free=free, inputs=noted)

    def _judged(self, kept: KeptRows) -> tuple[Rows, Summary]:
        """The rows of models and bounds, whose ceiling is drawn anew and judged here; what was seen of models follows.

        The summary is of them.
        """
        looked = self._looked()
        rows = kept.read()
        if looked is not None:
            rows += looked.rows
        bounds = self.suite.bounds
        if bounds is None:
            return rows, self._summed_up(rows, looked)
        seeds = sorted({seed for folder in prompt_folders(self.folders[self.base]) for seed in folder.samples})
        with replacing(self.out / CEILING) as aside:
            bounds.draw_ceiling(self._prompts, seeds, aside)
            with self.progress("judging the ceiling") as bar:
                rows += evaluate_images({CEILING: aside}, self.judge, progress=bar)
            return rows, self._summed_up(rows, looked)  # here: what cannot be summed up leaves no ceiling

    def _looked(self) -> Looked | None:
        return None if self.viewer is None else self.viewer.at(self.folders, self.base)

    def _summed_up(self, rows: Rows, looked: Looked | None) -> Summary:
        settings = SummarySettings(
            self.base,
            {**self.judge.higher_is_better, **dict.fromkeys(DESCRIBING)},
            self.record.replicates,
            trained_for=self.record.trained_for,
            not_held_out=of_trained_judges(self.judge, self.record.trained_for),
        )
        summary = summarize(rows, settings)
        return summary if looked is None else replace(summary, sets=looked.numbers)
