"""Losers from photographs: a new kind is one file, and its place in the union below."""

from typing import get_args

from contrapose.photographs.spoil.degrade import Degrade
from contrapose.photographs.spoil.generate import Generate
from contrapose.photographs.spoil.inpaint import Inpaint
from contrapose.photographs.spoil.noise import Noise
from contrapose.photographs.spoil.redraw import Redraw
from contrapose.photographs.spoil.spoiler import Spoiled, Spoiler

__all__ = ["SPOILERS", "AnySpoiler", "Spoiled", "Spoiler"]

AnySpoiler = Inpaint | Redraw | Generate | Noise | Degrade
SPOILERS: dict[str, type[AnySpoiler]] = {cls.name: cls for cls in get_args(AnySpoiler)}
