"""Losers from photographs; the type union is the registry, and a new kind is one file and one more line here."""

from contrapose.photographs.spoil.degrade import Degrade
from contrapose.photographs.spoil.generate import Generate
from contrapose.photographs.spoil.inpaint import Inpaint
from contrapose.photographs.spoil.noise import Noise
from contrapose.photographs.spoil.redraw import Redraw
from contrapose.photographs.spoil.studio import Spoiled, Spoiler, Studio

__all__ = ["SPOILERS", "AnySpoiler", "Spoiled", "Spoiler", "Studio"]

AnySpoiler = Inpaint | Redraw | Generate | Noise | Degrade

SPOILERS: dict[str, type[AnySpoiler]] = {
    "inpaint": Inpaint,
    "redraw": Redraw,
    "generate": Generate,
    "noise": Noise,
    "degrade": Degrade,
}
