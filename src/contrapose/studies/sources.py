"""What a study's methods are trained on and judged on: its lists of prompts and its pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from contrapose.errors import UserError
from contrapose.ranges import Batch, Few, check_unused, checked
from contrapose.studies.flags import Flags
from contrapose.worlds.shapes.grammar import Split


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
        if self.file is not None:
            check_unused(self, ("per_tag",), "is of a split of the shapes world, and a file is taken whole")


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
