"""What a file of a study says: an experiment from prompts to the report, as settings of the commands that do it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from contrapose import runfile
from contrapose.core.guidance import FreeScale
from contrapose.errors import UserError
from contrapose.evaluate.suites import NONE
from contrapose.evaluate.summary import BOUNDS
from contrapose.ranges import Count, Few, Number, Seed, checked
from contrapose.studies.deciding import OF_CHECKPOINTS, Choosing
from contrapose.studies.entrants import Guided, Sampled, StudyMethod
from contrapose.studies.flags import NAME, OF_ALIGN, OF_EVALUATE, OF_SAMPLE, Flags, as_flags
from contrapose.studies.sources import PairSource, PromptSource
from contrapose.worlds.shapes.shipped import shipped_model

BASE = "base"
DEV = "dev"
TEST = "test"
SHAPES = "shapes"
SETS = "set"


@dataclass(frozen=True)
@checked
class Evaluation:
    """How images are judged."""

    suite: str
    """What `contrapose evaluate --suite` is given."""
    options: Flags = field(default_factory=Flags)
    """Its options."""
    prompts: str = TEST
    """Which prompts' images are judged."""

    def __post_init__(self) -> None:
        self.options.check_free("options", OF_EVALUATE)


@dataclass(frozen=True)
@checked
class Column:
    """A column of the table: one metric of one evaluation, or published figures alone."""

    evaluation: str | None = None
    """The evaluation; published figures stand alone when unset."""
    metric: str = ""
    """Its metric; the evaluation's first one when empty."""
    of: Literal["score", "win-rate"] = "score"
    """What of it: the score, or the share of images that are better than the base's."""
    factor: Number = 1.0
    """What the metric is multiplied by, to be in the unit of the published figures."""


@dataclass(frozen=True)
@checked
class PublishedFigures:
    """Figures that a paper reports, by row and column; rows of methods that are not in the study stand alone."""

    source: str
    """Where they are from."""
    rows: dict[str, dict[str, Number]]
    notes: tuple[str, ...] = ()
    """What differs between theirs and ours."""


@dataclass(frozen=True)
@checked
class Study:
    """A whole experiment."""

    model: str
    """Model folder or hub id; `shapes` is the shapes model that ships with contrapose."""
    out: Path
    """Folder that receives everything."""
    prompts: dict[str, PromptSource]
    """Lists of prompts by name: train, dev, test, and further ones that evaluations name."""
    methods: dict[str, StudyMethod]
    evaluations: dict[str, Evaluation]
    """By name; the first one's first metric is what the study is about."""
    scales: tuple[FreeScale, ...]
    """Guidance scales at which all models are shown."""
    title: str = "Alignment report"
    photos: dict[str, Count] = field(default_factory=dict)
    """Folders of photographs of the shapes world by name, with their numbers; they lie in OUT/photos/NAME."""
    pairs: dict[str, PairSource] = field(default_factory=dict)
    guided: dict[str, Guided] = field(default_factory=dict)
    sampled: dict[str, Sampled] = field(default_factory=dict)
    training: Flags = field(default_factory=Flags)
    """Options of `contrapose align` that all methods share."""
    seeds: tuple[Seed, ...] = (0,)
    """Seeds of the training runs; every method is trained once with each."""
    num_images: Few = 4
    """Images for each prompt."""
    sampling: Flags = field(default_factory=Flags)
    """Options of `contrapose sample`."""
    choosing: Choosing | None = None
    """What is tried, and how it and each model's own scale and checkpoint are chosen; without it, models are shown at
    `scales` alone."""
    columns: dict[str, Column] = field(default_factory=dict)
    """The columns of the table beside published figures, by heading."""
    published: PublishedFigures | None = None

    def __post_init__(self) -> None:
        self.training.check_free("training", OF_ALIGN)
        self.sampling.check_free("sampling", OF_SAMPLE)
        for name in ("scales", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"{name}: name at least one, and none twice")
        if not self.evaluations:
            raise UserError("evaluations: name at least one")
        self._check_names()
        self._check_references()
        self._check_choosing()

    def _check_names(self) -> None:
        for what in ("prompts", "photos", "pairs", "methods", "guided", "sampled", "evaluations"):
            for name in getattr(self, what):
                if not NAME.fullmatch(name):
                    raise UserError(f"{what}: {name!r} is no name here; take letters, digits, and . _ + - within")
        for name in (*self.methods, *self.guided, *self.sampled):
            if name in (BASE, *BOUNDS):
                raise UserError(f"methods: the name {name} is taken; choose another")
        for name in self.methods.keys() & self.guided.keys():
            raise UserError(f"guided: {name} is a method too; choose another name")
        for name in self.sampled.keys() & {*self.methods, *self.guided}:
            raise UserError(f"sampled: {name} is another model too; choose another name")
        for name in self.evaluations:
            if name in (DEV, "best"):
                raise UserError(f"evaluations: the name {name} is taken; choose another")

    def _check_references(self) -> None:
        for name, pairs in self.pairs.items():
            if pairs.reads_prompts:
                _check_known(f"pairs {name}: prompts", (pairs.prompts,), self.prompts)
            if pairs.is_derived:
                _check_known(f"pairs {name}: of", (pairs.of,), self.pairs)
            _check_known(f"pairs {name}: photos", filter(None, [pairs.photos]), self.photos)
        for name, method in self.methods.items():
            _check_known(f"methods {name}: pairs", method.pairs, self.pairs)
            _check_known(f"methods {name}: prompts", filter(None, [method.prompts]), self.prompts)
            _check_known(f"methods {name}: trained after", method.needs, self.methods)
            if not (method.pairs or method.prompts or self.pairs):
                raise UserError(f"methods {name}: there are no pairs to train on; say under pairs how they are made")
        for name, guided in self.guided.items():
            methods = [run.partition("/")[0] for run in guided.runs.values()]
            _check_known(f"guided {name}", methods, self.methods)
        for name, evaluation in self.evaluations.items():
            _check_known(f"evaluations {name}: prompts", (evaluation.prompts,), self.prompts)
        for heading, column in self.columns.items():
            named = () if column.evaluation is None else (column.evaluation,)
            _check_known(f"columns {heading}: evaluation", named, self.evaluations)
        if self.columns and self.published is None:
            raise UserError(
                "columns: stand beside published figures, and there are none; say published, or leave it out"
            )
        for row, figures in (self.published.rows if self.published else {}).items():
            _check_known(f"published {row}", figures, self.columns)
        drawn_from = set(self.prompts_drawn_from)
        judged_on = {evaluation.prompts for evaluation in self.evaluations.values()}
        unused = self.prompts.keys() - drawn_from - judged_on - ({DEV} if self.choosing else set())
        if unused:
            raise UserError(f"prompts {', '.join(sorted(unused))}: nothing here uses them; leave them out")

    def _check_choosing(self) -> None:
        choosing = self.choosing
        if choosing is None:
            for name, method in self.methods.items():
                if method.tries is not None:
                    raise UserError(
                        f"methods {name}: tries: nothing is chosen; say under choosing how, or leave it out"
                    )
            return
        if DEV not in self.prompts:
            raise UserError("choosing: needs prompts named dev, which are not those that are reported on")
        if choosing.evaluation:
            _check_known("choosing: evaluation", (choosing.evaluation,), self.evaluations)
        suite = self.evaluations[self.deciding].suite
        if suite == NONE or (suite == SETS and not choosing.by):
            raise UserError(
                f"choosing: evaluation {self.deciding}: the suite {suite} gives images no scores to choose by; name "
                "another one, or put it first"
            )
        unmeasured = set(self.scales) - set(choosing.scales)
        if choosing.checkpoints and unmeasured:
            scale = min(unmeasured)
            raise UserError(f"choosing: scales lack {scale:g}, at which models are shown with a chosen checkpoint")
        if choosing.checkpoints:
            for name, method in self.methods.items():
                if method.shown:
                    options = method.options.over(self.training)
                    options.check_free(f"methods {name}: options, or training", OF_CHECKPOINTS)
        self._check_tries(choosing)

    def _check_tries(self, choosing: Choosing) -> None:
        for name, method in self.methods.items():
            if method.tries is not None:
                choosing.check_tries(f"methods {name}: tries", method.tries)
        for option in choosing.tries.values:
            for name, method in self.methods.items():
                has_value = option in method.options.over(self.training).values or method.tries is not None
                if not method.shown and not has_value:
                    raise UserError(f"methods {name}: is not shown, so that nothing is tried; give it a {option}")
            if not any(option in self.tries_of(name)[0].values for name in self.methods):
                raise UserError(
                    f"choosing: tries: {option} is set by every method itself, or replaced by its own tries; leave it "
                    "out here or there"
                )
        if choosing.tried_at is not None and not any(map(self.is_tried, self.methods)):
            raise UserError("choosing: tried_at: nothing is tried; leave it out, or say under tries what is")

    def tries_of(self, method: str) -> list[Flags]:
        """The values that a method is tried with, one for each try; a single empty one of a method that is not tried.

        Of several options the last one changes first.
        """
        settings = self.methods[method]
        tried = Flags()
        if self.choosing and settings.shown:
            tried = self.choosing.tries if settings.tries is None else settings.tries
        tries = [Flags()]
        for name, values in tried.values.items():
            if name not in settings.options.values:
                assert isinstance(values, list), "choosing has checked it"
                tries = [Flags({name: value}).over(each) for each in tries for value in values]
        return tries

    def is_tried(self, method: str) -> bool:
        """Whether a method's settings are chosen among several."""
        return bool(self.tries_of(method)[0].values)

    @property
    def budget(self) -> str:
        """Whether all methods that are shown were tried as often, in a sentence; empty where nothing is tried."""
        numbers = {name: len(self.tries_of(name)) * self.is_tried(name) for name in self.methods}
        shown = {name: number for name, number in numbers.items() if self.methods[name].shown}
        with_theirs = [name for name in shown if self.methods[name].tries is not None]
        if not any(shown.values()):
            return ""
        by_number: dict[int, list[str]] = {}
        for name, number in shown.items():
            by_number.setdefault(number, []).append(name)
        if len(by_number) == 1:
            number = max(by_number)
            sentence = f"Every method has {number} {'try' if number == 1 else 'tries'}."
        else:
            parts = [f"{number or 'none'} of {', '.join(names)}" for number, names in by_number.items()]
            sentence = f"Methods have different numbers of tries: {'; '.join(parts)}."
        return f"{sentence} Tries of their own: {', '.join(with_theirs)}." if with_theirs else sentence

    def pairs_of(self, method: StudyMethod) -> list[str]:
        """Names of the pairs that a method is trained on."""
        made_of = {pairs.of for pairs in self.pairs.values()}
        return list(method.pairs) or [name for name in self.pairs if name not in made_of]

    @property
    def prompts_drawn_from(self) -> list[str]:
        """The lists of prompts of which training's images are drawn, beforehand or while a method trains."""
        of_pairs = [pairs.prompts for pairs in self.pairs.values() if pairs.reads_prompts]
        return [*of_pairs, *(method.prompts for method in self.methods.values() if method.prompts)]

    def prompts_of(self, pairs: PairSource) -> str:
        """The list of prompts that pairs were drawn from, or those that they are made of; empty for others."""
        while pairs.is_derived:
            pairs = self.pairs[pairs.of]
        return pairs.prompts if pairs.reads_prompts else ""

    @property
    def deciding(self) -> str:
        """The evaluation by which settings, scales and checkpoints are chosen."""
        return (self.choosing.evaluation if self.choosing else "") or next(iter(self.evaluations))

    @property
    def model_path(self) -> str:
        """The model as commands are given it."""
        return str(shipped_model()) if self.model == SHAPES else self.model


def _check_known(where: str, names: Iterable[str], existing: Mapping[str, object]) -> None:
    for name in names:
        if name not in existing:
            raise UserError(f"{where}: {name} is not there (known: {', '.join(existing) or 'none'})")


CONVERTER = runfile.converter()
CONVERTER.register_structure_hook(Flags, as_flags)
CONVERTER.register_unstructure_hook(Flags, lambda flags: dict(flags.values))


def read_study(path: Path) -> Study:
    """A study from its file; `UserError` naming the file and the setting where it is broken."""
    return runfile.read(path, Study, CONVERTER)
