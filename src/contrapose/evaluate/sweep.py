"""A sweep over strengths of guidance, as a folder.

sweep/images.yaml      the settings that all strengths share, with digests of what they name in inputs.yaml
      scale-0.5/       the images at w = 0.5, in GenEval's layout
      rows.parquet     what the judge said of each image, where there was one
      summary.json     the summary of these rows, and under `sweep` the label and the scales
      judged.yaml      digests of the images that were judged, of the judge, and of what its suite reads
      page.html        written by the report
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from contrapose import runfile
from contrapose.backbones.base import Backbone
from contrapose.core.guidance import Strength
from contrapose.documents import dump_yaml, load_json, load_yaml
from contrapose.errors import UserError
from contrapose.evaluate.evidence import ROWS, SUMMARY
from contrapose.evaluate.images import digest_of_images
from contrapose.evaluate.rows import write_rows
from contrapose.evaluate.run import evaluate_images
from contrapose.evaluate.suites import Suite, Unjudged
from contrapose.evaluate.summary import is_current, read_summary, write_summary
from contrapose.evaluate.summing import SummarySettings, summarize
from contrapose.files import write_text
from contrapose.guiding.guide import guide
from contrapose.guiding.guided import settled
from contrapose.guiding.images import SETTINGS as OF_IMAGES
from contrapose.guiding.images import inputs_of
from contrapose.guiding.settings import CONVERTER, Sampling
from contrapose.judges.judge import Judge
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

    def __post_init__(self) -> None:
        if not self.scales or len(set(map(name_of, self.scales))) < len(self.scales):
            raise UserError("scales must be different numbers")


class JudgedBy(NamedTuple):
    """A suite, and its name and settings as they stand in a file."""

    suite: Suite | Unjudged
    settings: dict[str, Any]


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
    runfile.claim(out / OF_IMAGES, shared, CONVERTER, free=["batch_size"], inputs=inputs_of(settings))


def sum_up(
    out: Path,
    scales: Sequence[float],
    label: str,
    judge: Judge | None,
    progress: Callable[[int, int], None] | None = None,
    by: JudgedBy | None = None,
) -> bool:
    """Judge the images of all strengths and write the folder's summary; False where that was done already.

    `by` is the suite that the judge is of, which the summary then names.
    """
    record = SweepRecord(label or out.absolute().name, tuple(scales), judge is not None)
    folders = {scale: folder_of(out, scale) for scale in scales}
    digests: dict[str, str] = {}
    if judge is not None:
        digests = {folder.name: digest_of_images(folder) for folder in folders.values()}
        digests[f"judge.{judge.name}"] = judge.version
    free: list[str] = []
    if judge is not None and by is not None:
        record = replace(record, suite=by.settings, counted=by.suite.counted, called=by.suite.title)
        digests |= {f"suite.{name}": digest for name, digest in by.suite.inputs().items()}
        free += runfile.practical_names(by.suite, "suite.")
    if _is_summed_up(out, record, digests, free):
        if progress:
            num_images = sum(scores.num_images for scores in read_summary(out / SUMMARY).models.values())
            progress(num_images, num_images)
        return False
    summary = None
    if judge is not None:
        rows = evaluate_images({name_of(scale): folder for scale, folder in folders.items()}, judge, progress=progress)
        base = name_of(0) if 0 in scales else None
        summary = summarize(rows, SummarySettings(base, judge.higher_is_better))
        write_rows(rows, out / ROWS)
    write_summary(summary, out / SUMMARY, {"sweep": _CONVERTER.unstructure(record)})
    write_text(out / JUDGED, dump_yaml(digests))  # last: what was killed before is judged again
    return True


def _is_summed_up(out: Path, record: SweepRecord, digests: Mapping[str, str], free: Collection[str]) -> bool:
    """Whether the folder's summary is of these strengths, this suite and the images that are there now.

    Settings named in `free` decide no number.
    """
    if not (out / SUMMARY).is_file() or not (out / JUDGED).is_file():
        return False
    # through YAML, as the summary was: tuples are lists there
    now = yaml.safe_load(runfile.to_yaml(record, _CONVERTER))
    before = yaml.safe_load(runfile.to_yaml(read_record(out), _CONVERTER))
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
