"""What a file of a study says: an experiment from prompts to the report, as settings of the commands that do it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from contrapose import runfile
from contrapose.core.guidance import FreeScale, Strength
from contrapose.errors import UserError
from contrapose.evaluate.summary import BOUNDS
from contrapose.ranges import Batch, Count, Few, Number, Seed, checked
from contrapose.studies.flags import Flags, as_flags
from contrapose.worlds.shapes.grammar import Split
from contrapose.worlds.shapes.shipped import shipped_model

BASE = "base"
DEV = "dev"
TEST = "test"
SHAPES = "shapes"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_OF_ALIGN = ("model", "pairs", "out", "seed", "start", "policies")
_OF_SAMPLE = (
    "model", "prompts", "out", "adapter", "num-images", "guidance-scale", "positive", "negative", "scale",
)  # fmt: skip
_OF_EVALUATE = ("images", "out", "suite", "title", "base")


@dataclass(frozen=True)
@checked
class PromptSource:
    """A list of prompts: a file, or one split of the shapes world."""

    file: Path | None = None
    """A file of prompts, as `contrapose sample --prompts` reads it."""
    shapes: Split | None = None
    """Instead of a file: this split of the shapes world."""
    per_tag: Batch = 48
    """Of the shapes world: prompts of each of the six categories, at most."""
    num_images: Few | None = None
    """Images for each of these prompts; the study's number when unset."""

    def __post_init__(self) -> None:
        if (self.file is None) == (self.shapes is None):
            raise UserError("prompts are either a file or a split of the shapes world; name one of file and shapes")


@dataclass(frozen=True)
@checked
class PairSource:
    """How pairs are made, or where they are."""

    made_by: Literal["draw", "real", "import", "score", "label"] = "draw"
    """The command: pairs draw, real, import, score or label."""
    options: Flags = field(default_factory=Flags)
    """Its options."""
    prompts: str = "train"
    """For draw: which prompts."""
    of: str = ""
    """For score and label: the study's pairs that are scored or labelled."""
    photos: str = ""
    """For real: the study's photographs, in place of a folder among the options."""
    recipe: Path | None = None
    """For real: a file of its settings, which options override."""
    folder: Path | None = None
    """Instead of a command: a folder of pairs that exists."""

    def __post_init__(self) -> None:
        if self.folder is not None and self.options.values:
            raise UserError("options are of no use where pairs are in a folder; leave one of the two out")
        if self.recipe is not None and self.made_by != "real":
            raise UserError(f"recipe: pairs {self.made_by} reads none; give its options")
        self.options.check_free("options", ("model", "prompts", "out", *(["photos"] if self.photos else [])))
        if self.is_derived and not self.of:
            raise UserError(f"of: name the pairs that pairs {self.made_by} is given")
        if self.of and not self.is_derived:
            raise UserError("of: is for pairs that are scored or labelled; leave it out")
        if self.photos and self.made_by != "real":
            raise UserError(f"photos: pairs {self.made_by} takes none; leave the setting out")

    @property
    def is_derived(self) -> bool:
        """Whether these pairs are made of other pairs of the study."""
        return self.folder is None and self.made_by in ("score", "label")

    @property
    def reads_prompts(self) -> bool:
        """Whether these pairs are drawn of a list of the study's prompts."""
        return self.folder is None and self.made_by == "draw"


@dataclass(frozen=True)
@checked
class StudyMethod:
    """One method, trained once with each seed."""

    align: str
    """What `contrapose align` is given first: a method's name, or a file of a run such as a recipe."""
    options: Flags = field(default_factory=Flags)
    """Its options, over those of `training`."""
    pairs: tuple[str, ...] = ()
    """Names of the pairs that it is trained on; when empty, all of the study's that no others are made of."""
    prompts: str = ""
    """Instead of pairs: the list of prompts of which a method that trains on its own samples draws them."""
    start: str | None = None
    """The method whose run of the same seed it starts from."""
    policies: tuple[str, ...] = ()
    """Of data-driven DDSPO: the two methods whose runs are fits to winners and to losers."""
    shown: bool = True
    """Whether its images are drawn and judged; a run that others start from need not be."""

    def __post_init__(self) -> None:
        self.options.check_free("options", _OF_ALIGN)
        if len(self.policies) not in (0, 2):
            raise UserError("policies: name two methods, that of the winners and that of the losers")
        if self.prompts and self.pairs:
            raise UserError("prompts: a method is trained on pairs or on prompts; leave one of the two out")

    @property
    def needs(self) -> tuple[str, ...]:
        """Methods that are trained before it."""
        return (*(() if self.start is None else (self.start,)), *self.policies)


@dataclass(frozen=True)
@checked
class Guided:
    """The base, guided at inference by trained runs, at one or more strengths; each strength is a model of its own."""

    positive: str
    """The method whose run guides the sampler towards what it predicts."""
    strengths: tuple[Strength, ...]
    """Strengths w."""
    negative: str | None = None
    """The method whose run guides it away."""
    options: Flags = field(default_factory=Flags)
    """Further options of `contrapose sample`."""

    def __post_init__(self) -> None:
        self.options.check_free("options", _OF_SAMPLE)
        if not self.strengths:
            raise UserError("strengths: name at least one")


@dataclass(frozen=True)
@checked
class Sampled:
    """The base, sampled in another way, such as the best of eight by a judge: `{best-of: 8, judges: [shapes]}`."""

    options: Flags
    """Options of `contrapose sample`, beside those of `sampling`."""

    def __post_init__(self) -> None:
        self.options.check_free("options", _OF_SAMPLE)
        if not self.options.values:
            raise UserError("options: without any it is the base; name one at least")


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
        self.options.check_free("options", _OF_EVALUATE)


@dataclass(frozen=True)
@checked
class Choosing:
    """How each model's own guidance scale, and checkpoint, are chosen on the dev prompts."""

    scales: tuple[FreeScale, ...]
    """Guidance scales to choose from."""
    checkpoints: tuple[Count, ...] = ()
    """Kept steps to choose from; the end of each run when empty."""
    evaluation: str = ""
    """The evaluation that decides; the first one when empty."""
    metric: str = ""
    """Its metric; the first one when empty."""
    rule: Literal["mean", "lowest"] = "mean"
    """What counts of a method's training seeds: their mean, or the worst of them. Ties go to the smaller scale, and
    then to fewer steps."""

    def __post_init__(self) -> None:
        for name in ("scales", "checkpoints"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UserError(f"{name}: a value is named twice")
        if not self.scales:
            raise UserError("scales: name at least one to choose from")


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
    """How each model's own scale and checkpoint are chosen; without it, models are shown at `scales` alone."""
    columns: dict[str, Column] = field(default_factory=dict)
    """The columns of the table beside published figures, by heading."""
    published: PublishedFigures | None = None

    def __post_init__(self) -> None:
        self.training.check_free("training", _OF_ALIGN)
        self.sampling.check_free("sampling", _OF_SAMPLE)
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
                if not _NAME.fullmatch(name):
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
            runs = [guided.positive, *filter(None, [guided.negative])]
            _check_known(f"guided {name}", runs, self.methods)
        for name, evaluation in self.evaluations.items():
            _check_known(f"evaluations {name}: prompts", (evaluation.prompts,), self.prompts)
        for heading, column in self.columns.items():
            named = () if column.evaluation is None else (column.evaluation,)
            _check_known(f"columns {heading}: evaluation", named, self.evaluations)
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
            return
        if DEV not in self.prompts:
            raise UserError("choosing: needs prompts named dev, which are not those that are reported on")
        if choosing.evaluation:
            _check_known("choosing: evaluation", (choosing.evaluation,), self.evaluations)
        unmeasured = set(self.scales) - set(choosing.scales)
        if choosing.checkpoints and unmeasured:
            scale = min(unmeasured)
            raise UserError(f"choosing: scales lack {scale:g}, at which models are shown with a chosen checkpoint")

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
        """The evaluation by which scales and checkpoints are chosen."""
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
