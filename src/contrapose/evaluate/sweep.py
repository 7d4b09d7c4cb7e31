"""A sweep over strengths of guidance, as a folder.

sweep/images.yaml      the settings that all strengths share, with digests of what they name in inputs.yaml
      scale-0.5/       the images at w = 0.5, in GenEval's layout
      judged/          what the judge said of each image so far, where there is one
      rows.parquet     all of it
      features/        what an extractor saw in the images, where one looked at them
      summary.json     the summary of these rows, and under `sweep` the label and the scales
      judged.yaml      digests of the images that were judged, of the judge, its settings, and what its suite reads
      page.html        written by the report
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from contrapose import runfile
from contrapose.backbones.base import Backbone
from contrapose.contents import digest_of_json
from contrapose.core.guidance import Strength
from contrapose.documents import as_read, dump_yaml, load_json, load_yaml
from contrapose.errors import UserError
from contrapose.evaluate.evidence import FEATURES, KEPT, ROWS, SUMMARY
from contrapose.evaluate.images import digest_of_images
from contrapose.evaluate.kept import KeptRows
from contrapose.evaluate.rows import Rows, write_rows
from contrapose.evaluate.sets.describing import DESCRIBING, check_metrics
from contrapose.evaluate.sets.looking import Looking, Viewer
from contrapose.evaluate.sets.reference import FeatureCache
from contrapose.evaluate.suites import Suite, Unjudged
from contrapose.evaluate.summary import is_current, write_summary
from contrapose.evaluate.summing import SummarySettings, summarize
from contrapose.files import write_text
from contrapose.guiding.guide import guide
from contrapose.guiding.guided import settled
from contrapose.guiding.images import SETTINGS as OF_IMAGES
from contrapose.guiding.images import inputs_of
from contrapose.guiding.settings import CONVERTER, Sampling
from contrapose.judges.judge import Judge
from contrapose.progress import Progress, untold
from contrapose.ranges import Number, check, checked
from contrapose.workers import ALONE, Worker

JUDGED = "judged.yaml"
_OF_IMAGES = "scale-"  # begins the names of the folders of images
FIX = "delete it and run 'contrapose sweep' again"
_CONVERTER = runfile.converter()


@dataclass(frozen=True)
@checked
class SweepRecord:
    """What `summary.json` says under `sweep`."""

    label: str
    scales: tuple[Number, ...]
    judged: bool
    suite: dict[str, Any] = field(default_factory=dict)
    """The name and the settings of the suite that judged, as they stand in a file."""
    counted: str = ""
    """What its detector counts as an object, for readers."""
    called: str = ""
    """What tables call its numbers."""
    features: dict[str, Any] | None = None
    """The extractor's name and its settings, where images were looked at beside being judged."""

    def __post_init__(self) -> None:
        if not self.scales or len(set(map(name_of, self.scales))) < len(self.scales):
            raise UserError("scales must be different numbers")


class JudgedBy(NamedTuple):
    """What judges a sweep's images, and what else looks at them."""

    suite: Suite | Unjudged
    settings: dict[str, Any]
    """The suite's name and settings as they stand in a file."""
    looking: Looking | None = None

    def check(self, scales: Sequence[float], device: str) -> None:
        """Raise `UserError` for weights that are missing or broken, and for drift from images that are not there.

        Nothing stays in memory, which sampling needs.
        """
        if self.looking is not None:
            if 0 not in scales:
                raise UserError("features: drift is from the images at w = 0; add 0 to --scales")
            self.looking.features.load(device)
        judge = self.suite.load(device)
        if judge is not None:
            check_metrics(judge.higher_is_better)


def name_of(scale: float) -> str:
    """What the images at one strength are called in rows and summary."""
    return f"w = {scale:g}"


def folder_of(out: Path, scale: float) -> Path:
    """The folder of the images at one strength."""
    return out / f"{_OF_IMAGES}{scale:g}"


def in_order(scales: Iterable[float]) -> list[float]:
    """Strengths in rising order; `UserError` for none, one that is out of range and one that is named twice."""
    ordered = sorted(scale + 0.0 for scale in scales)  # + 0.0: there is but one zero
    if not ordered:
        raise UserError("scales: name at least one strength")
    for scale in ordered:
        check("scales", scale, Strength)
    if len({name_of(scale) for scale in ordered}) < len(ordered):
        raise UserError("scales: a strength is named twice")
    return ordered


def at_strengths(settings: Sampling, scales: Iterable[float]) -> dict[float, Sampling]:
    """The settings at each strength, in rising order; `UserError` where no run guides, and as `in_order` does."""
    if not settings.guiding.by_runs:
        raise UserError("a sweep needs a run to guide by: name one with --positive")
    guiding = settings.guiding
    guided: dict[float, Sampling] = {}
    for scale in in_order(scales):
        guidance = replace(guiding.guidance, scale=scale)
        guided[scale] = replace(settings, guiding=replace(guiding, guidance=guidance))
    return guided


def settled_for_all(settings: Sampling, backbone: Backbone) -> Sampling:
    """What all strengths share, spelled out; `UserError` for settings and runs that do not go with the model."""
    guiding = settings.guiding
    with guide(backbone.sampler.stock, guiding.positive, guiding.negative, guiding.guidance):  # its complaints first
        shared = settled(settings, backbone)
    backbone.images.shape_for(shared.size)
    return shared


def claim(out: Path, settings: Sampling) -> None:
    """Write what all strengths share into the sweep's folder; `UserError` when it holds a sweep of other settings."""
    shared = CONVERTER.unstructure(settings)
    del shared["guiding"]["guidance"]["scale"]
    free = list(runfile.practical_names(settings))
    runfile.claim(out / OF_IMAGES, shared, CONVERTER, free, inputs_of(settings), [f"{_OF_IMAGES}*"])


def sum_up(
    out: Path,
    scales: Sequence[float],
    label: str,
    by: JudgedBy,
    device: str = "cpu",
    progress: Progress = untold,
    worker: Worker = ALONE,
) -> bool:
    """Judge the images of all strengths and write the folder's summary; False where that was done already.

    Several workers judge together, and the first that finds all of it judged sums up.
    """
    work = _Work.of(out, scales, label, by, device, progress)
    with worker.in_turn(out / SUMMARY):
        if work.is_summed_up():
            return False
    work.judge(worker)
    with worker.in_turn(out / SUMMARY):
        # of workers that end together, the first has summed up what all have judged
        if not work.is_summed_up():
            work.sum_up()
    return True


@dataclass(frozen=True)
class _Work:
    """A sweep whose images are there, what judges them and what looks at them."""

    out: Path
    record: SweepRecord
    folders: Mapping[str, Path]
    judge_and_kept: tuple[Judge, KeptRows] | None
    viewer: Viewer | None
    progress: Progress
    digests: Mapping[str, str]
    """Of all that the summary comes from."""
    free: Collection[str]
    """Settings that decide no number."""

    @classmethod
    def of(cls, out: Path, scales: Sequence[float], label: str, by: JudgedBy, device: str, progress: Progress) -> _Work:
        suite, settings, looking = by
        judge = suite.load(device)
        viewer = None
        if looking is not None:
            viewer = Viewer(looking, looking.features.load(device), FeatureCache(out / FEATURES), progress)
        record = SweepRecord(label or out.absolute().name, tuple(scales), judge is not None or viewer is not None)
        folders = {name_of(scale): folder_of(out, scale) for scale in scales}
        of_images: dict[str, str] = {}
        if record.judged:
            of_images = {name: digest_of_images(folder) for name, folder in folders.items()}
        digests = {folders[name].name: digest for name, digest in of_images.items()}
        free: list[str] = []
        judge_and_kept = None
        if judge is not None:
            record = replace(record, suite=settings, counted=suite.counted, called=suite.title)
            of_suite = {f"suite.{name}": digest for name, digest in suite.inputs().items()}
            settings_digest = digest_of_json(runfile.deciding(settings, suite))
            digests |= {f"judge.{judge.name}": judge.version, "suite": settings_digest, **of_suite}
            free += runfile.practical_names(suite, "suite.")
            decided_by = [runfile.deciding(settings, suite), of_suite]
            judge_and_kept = judge, KeptRows.of(out / KEPT, judge, folders, {}, of_images, decided_by)
        if viewer is not None:
            digests[f"features.{viewer.extractor.name}"] = viewer.extractor.version
            record = replace(record, features=viewer.looking.as_settings())
            free += runfile.practical_names(viewer.looking.features, "features.")
        return cls(out, record, folders, judge_and_kept, viewer, progress, digests, free)

    def is_summed_up(self) -> bool:
        """Whether the folder's summary is of these strengths, this suite and the images that are there now."""
        if not (self.out / SUMMARY).is_file() or not (self.out / JUDGED).is_file():
            return False
        now = as_read(_CONVERTER.unstructure(self.record))
        before = as_read(_CONVERTER.unstructure(read_record(self.out)))
        if any(name not in self.free for name in runfile.differences(before, now)):
            return False
        if self.record.judged and not is_current(self.out / SUMMARY):
            return False
        return bool(load_yaml(self.out / JUDGED, FIX) == self.digests)

    def judge(self, worker: Worker) -> None:
        """Judge and look at what no other worker does."""
        if self.viewer is not None:
            self.viewer.look_together(self.folders, name_of(0), worker)
        if self.judge_and_kept is not None:
            judge, kept = self.judge_and_kept
            with self.progress("judging images") as bar:
                kept.judge(judge, worker, bar)

    def sum_up(self) -> None:
        """Write the rows and the summary of all that was judged and looked at."""
        summary = None
        if self.record.judged:
            rows = Rows.of(())
            better: dict[str, bool | None] = dict.fromkeys(DESCRIBING)
            if self.judge_and_kept is not None:
                judge, kept = self.judge_and_kept
                rows += kept.read()
                better = {**judge.higher_is_better, **better}
            looked = None if self.viewer is None else self.viewer.at(self.folders, name_of(0))
            if looked is not None:
                rows += looked.rows
            base = name_of(0) if 0 in self.record.scales else None
            summary = summarize(rows, SummarySettings(base, better))
            if looked is not None:
                summary = replace(summary, sets=looked.numbers)
            write_rows(rows, self.out / ROWS)
        write_summary(summary, self.out / SUMMARY, {"sweep": _CONVERTER.unstructure(self.record)})
        # last: what was killed before is summed up again
        write_text(self.out / JUDGED, dump_yaml(dict(self.digests)))
        if self.judge_and_kept is not None:
            self.judge_and_kept[1].forget_others()
        if self.viewer is not None:
            self.viewer.cache.forget_others()


def judged_by(folder: Path) -> dict[str, str]:
    """Digests of all that a finished sweep's numbers come from but its images: judge, features, what a suite reads.

    Raises `UserError` for a sweep that was killed before it had noted them.
    """
    path = folder / JUDGED
    digests = load_yaml(path, FIX) if path.is_file() else None
    if not isinstance(digests, dict):
        raise UserError(f"{folder}: holds no finished sweep; make it with 'contrapose sweep'")
    return {name: digest for name, digest in digests.items() if not name.startswith(_OF_IMAGES)}


def read_record(folder: Path) -> SweepRecord:
    """What a sweep's summary says of itself; `UserError` for a folder that holds no finished sweep."""
    path = folder / SUMMARY
    values = load_json(path, FIX) if path.is_file() else None
    if not isinstance(values, dict) or "sweep" not in values:
        raise UserError(f"{folder}: holds no finished sweep; make it with 'contrapose sweep'")
    return runfile.structured(path, values["sweep"], SweepRecord, _CONVERTER, FIX)
