"""Losers from photographs; the type union is the registry, and a new kind is one file and one more line here."""

from contrapose.curate.spoil.degrade import Degrade
from contrapose.curate.spoil.generate import Generate
from contrapose.curate.spoil.inpaint import Inpaint
from contrapose.curate.spoil.noise import Noise
from contrapose.curate.spoil.redraw import Redraw
from contrapose.curate.spoil.studio import Spoiled, Spoiler, Studio

__all__ = ["SPOILERS", "AnySpoiler", "Spoiled", "Spoiler", "Studio"]

AnySpoiler = Inpaint | Redraw | Generate | Noise | Degrade

SPOILERS: dict[str, type[AnySpoiler]] = {
    "inpaint": Inpaint,
    "redraw": Redraw,
    "generate": Generate,
    "noise": Noise,
    "degrade": Degrade,
}
