"""The settings of evaluations and of sweeps, whose suites may be a world's own."""

from __future__ import annotations

from dataclasses import dataclass, field

from contrapose.core.guidance import Strength
from contrapose.evaluate.sets.extractors import AnyFeatures, NoFeatures
from contrapose.evaluate.statistics import REPLICATES, Replicates
from contrapose.evaluate.taking import Taking
from contrapose.guiding.settings import Sampling
from contrapose.ranges import checked
from contrapose.worlds.shapes.suite import Shapes
from contrapose.worlds.suites import AnySuite, OwnWorld, SweepSuite


@dataclass(frozen=True)
@checked
class Judging:
    """How models' images are judged and compared."""

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


@dataclass(frozen=True)
@checked
class Sweeping:
    """Images at several strengths of guidance, and how they are judged."""

    sampling: Sampling
    scales: tuple[Strength, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    """Strengths w; with 0 among them the others are compared with it."""
    suite: SweepSuite = field(default_factory=OwnWorld)
    """How images are judged, as by evaluate; auto is shapes for prompts of the shapes world and none for others."""
    features: AnyFeatures = field(default_factory=NoFeatures)
    """What else looks at the images, as for evaluate: diversity within a prompt, and drift from the images at w = 0."""
    label: str = ""
    """Name of the line in the plot, the same for sweeps that differ in the training seed alone; --out's when empty."""
