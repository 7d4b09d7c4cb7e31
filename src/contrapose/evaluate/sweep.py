"""A sweep over strengths of guidance, as a folder.

sweep/images.yaml      the settings that all strengths share, with digests of what they name in inputs.yaml
      scale-0.5/       the images at w = 0.5, in GenEval's layout
      rows.parquet     what the judge said of each image, where there was one
      features/        what an extractor saw in the images, where one looked at them
      summary.json     the summary of these rows, and under `sweep` the label and the scales
      judged.yaml      digests of the images that were judged, of the judge, and of what its suite reads
      page.html        written by the report
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from contrapose import runfile
from contrapose.backbones.base import Backbone
from contrapose.core.guidance import Strength
from contrapose.documents import as_read, dump_yaml, load_json, load_yaml
from contrapose.errors import UserError
from contrapose.evaluate.evidence import FEATURES, ROWS, SUMMARY
from contrapose.evaluate.images import digest_of_images
from contrapose.evaluate.rows import Rows, write_rows
from contrapose.evaluate.run import Progress, evaluate_images
from contrapose.evaluate.sets.describing import DESCRIBING
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
from contrapose.ranges import Number, check, checked

JUDGED = "judged.yaml"
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
        self.suite.load(device)


def name_of(scale: float) -> str:
    """What the images at one strength are called in rows and summary."""
    return f"w = {scale:g}"


def folder_of(out: Path, scale: float) -> Path:
    """The folder of the images at one strength."""
    return out / f"scale-{scale:g}"


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
    runfile.claim(out / OF_IMAGES, shared, CONVERTER, free=free, inputs=inputs_of(settings))


def sum_up(
    out: Path,
    scales: Sequence[float],
    label: str,
    by: JudgedBy,
    device: str = "cpu",
    progress: Progress = lambda title: nullcontext(),
) -> bool:
    """Judge the images of all strengths and write the folder's summary; False where that was done already."""
    suite, settings, looking = by
    judge = suite.load(device)
    viewer = None
    if looking is not None:
        viewer = Viewer(looking, looking.features.load(device), FeatureCache(out / FEATURES), progress)
    record = SweepRecord(label or out.absolute().name, tuple(scales), judge is not None or viewer is not None)
    folders = {name_of(scale): folder_of(out, scale) for scale in scales}
    digests: dict[str, str] = {}
    free: list[str] = []
    if record.judged:
        digests = {folder.name: digest_of_images(folder) for folder in folders.values()}
    if judge is not None:
        digests[f"judge.{judge.name}"] = judge.version
        record = replace(record, suite=settings, counted=suite.counted, called=suite.title)
        digests |= {f"suite.{name}": digest for name, digest in suite.inputs().items()}
        free += runfile.practical_names(suite, "suite.")
    if viewer is not None:
        digests[f"features.{viewer.extractor.name}"] = viewer.extractor.version
        record = replace(record, features=viewer.looking.as_settings())
        free += runfile.practical_names(viewer.looking.features, "features.")
    if _is_summed_up(out, record, digests, free):
        return False
    summary = None
    if record.judged:
        base = name_of(0) if 0 in scales else None
        looked = None
        if viewer is not None:
            viewer.look_together(folders, name_of(0))
            looked = viewer.at(folders, name_of(0))
        rows = Rows.of(())
        if judge is not None:
            with progress("judging images") as bar:
                rows += evaluate_images(folders, judge, progress=bar)
        higher_is_better = {} if judge is None else judge.higher_is_better
        if looked is not None:
            rows += looked.rows
        summary = summarize(rows, SummarySettings(base, {**higher_is_better, **dict.fromkeys(DESCRIBING)}))
        if looked is not None:
            summary = replace(summary, sets=looked.numbers)
        write_rows(rows, out / ROWS)
    write_summary(summary, out / SUMMARY, {"sweep": _CONVERTER.unstructure(record)})
    write_text(out / JUDGED, dump_yaml(digests))  # last: what was killed before is judged again
    if viewer is not None:
        viewer.cache.forget_others()
    return True


def _is_summed_up(out: Path, record: SweepRecord, digests: Mapping[str, str], free: Collection[str]) -> bool:
    """Whether the folder's summary is of these strengths, this suite and the images that are there now.

    Settings named in `free` decide no number.
    """
    if not (out / SUMMARY).is_file() or not (out / JUDGED).is_file():
        return False
    now = as_read(_CONVERTER.unstructure(record))
    before = as_read(_CONVERTER.unstructure(read_record(out)))
    if any(name not in free for name in runfile.differences(before, now)):
        return False
    if record.judged and not is_current(out / SUMMARY):
        return False
    return bool(load_yaml(out / JUDGED, FIX) == digests)


def read_record(folder: Path) -> SweepRecord:
    """What a sweep's summary says of itself; `UserError` for a folder that holds no finished sweep."""
    path = folder / SUMMARY
    values = load_json(path, FIX) if path.is_file() else None
    if not isinstance(values, dict) or "sweep" not in values:
        raise UserError(f"{folder}: holds no finished sweep; make it with 'contrapose sweep'")
    return runfile.structured(path, values["sweep"], SweepRecord, _CONVERTER, FIX)
