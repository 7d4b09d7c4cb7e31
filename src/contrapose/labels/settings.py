"""Everything that decides the scores of groups, and the labels that are made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from contrapose import runfile
from contrapose.backbones.settings import Loading
from contrapose.errors import UserError
from contrapose.judges.weights import parsed_weights
from contrapose.ranges import AtLeast0, Batch, Number, Range, Seed, checked
from contrapose.worlds.judges import IMAGE_JUDGES, ImageJudge, check_without_ceiling


@dataclass(frozen=True)
@checked
class Scoring:
    """Who scores the samples of groups, and how they are decoded."""

    judges: tuple[ImageJudge, ...] = ()
    """What scores each sample by its prompt: pickscore, aesthetic, ..., or shapes for prompts of the shapes world;
    options are --judges.0.model and so on."""
    prompts: Path | None = None
    """File of the prompts with what a judge goes by beside their text, such as the shapes world's; the text alone when
    unset."""
    model: str | None = None
    """Model whose autoencoder decodes the latents; the one that the groups were made with when unset."""
    shard_size: Batch = 64
    """Groups in one file, the unit that a killed run repeats."""
    batch_size: Batch = 16
    """Images decoded at once; decides no result."""
    loading: Loading = field(default_factory=Loading)

    def __post_init__(self) -> None:
        if not self.judges:
            raise UserError("judges: nobody scores; name one or more with --judges")
        check_without_ceiling(self.judges, "here")


@dataclass(frozen=True)
@checked
class Labelling:
    """What labels are made of stored scores: by which, in which form, with which ties and mistakes."""

    by: tuple[str, ...]
    """Scores by which samples are compared, each NAME or NAME:WEIGHT, their sum being what counts: correct:0.5
    roughness:-0.1."""
    combine: Literal["sum", "pareto"] = "sum"
    """What several scores come to: their weighted sum; or pareto, by which a sample is better where it is worse by no
    score and better by one, so that judges need no common scale, and what they do not agree on is a tie. Each
    sample's mean win rate in its group, by the scores times their weights, is then stored as the score win_rate."""
    form: Literal["pairs", "likes", "rankings"] = "pairs"
    """Labels: pairs of each group's best and worst sample, likes and dislikes (each sample a group of its own), or
    rankings of all samples."""
    threshold: Number | None = None
    """For likes: the sum above which a sample is liked, and below which it is not; its group's mean when unset. By
    pareto what no other sample of the group is better than is liked."""
    tie_margin: AtLeast0 = 0.0
    """Samples whose sums differ by no more than this are tied."""
    ties: Literal["drop", "half"] = "drop"
    """What becomes of ties: left out, or kept with labels of one half. In a ranking tied samples share a label, and
    only a tie of all counts here."""
    mistakes: Annotated[float, Range(0, 0.5)] = 0.0
    """Share of labels that are turned round by lot, as people make mistakes: a pair's, a like's, or two neighbours of a
    ranking."""
    seed: Seed = 0
    """Seed of the mistakes, each of which goes by its group's identifier too."""
    shard_size: Batch = 64
    """Groups in one file, the unit that a killed run repeats."""

    def __post_init__(self) -> None:
        if self.threshold is not None and self.form != "likes":
            raise UserError(f"threshold: is of likes, and the form is {self.form}; leave it out")
        if self.combine == "pareto" and self.threshold is not None:
            raise UserError("threshold: is of sums, and pareto makes none; leave it out")
        if self.combine == "pareto" and self.tie_margin:
            raise UserError("tie_margin: is of sums, and by pareto ties are what judges do not agree on; leave it out")
        self.weights  # noqa: B018 - a sum that cannot be read is refused here

    @property
    def weights(self) -> dict[str, float | None]:
        """The scores' names with their weights, None where only the name is given.

        Raises `UserError` for what is neither, a name that is given twice, and for no name at all.
        """
        weights = parsed_weights("by", self.by)
        if not weights:
            raise UserError("by: no score is named; 'contrapose pairs check' tells which the groups have")
        return weights


CONVERTER = runfile.converter((ImageJudge, IMAGE_JUDGES))
