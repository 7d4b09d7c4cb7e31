"""The English that `Swap` knows: attributes by class, relations and their opposites, and the small words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AttributeClass:
    """Words that describe the same side of a thing, such as its colour; words of one sense mean the same."""

    senses: Mapping[str, int]
    """The sense of each word."""
    plainest: Mapping[int, str]
    """The word that stands for each sense when one is put in, the last sense first."""

    @classmethod
    def of(cls, table: str) -> AttributeClass:
        """Read a table: senses between spaces, the words of one sense between slashes, the plainest first."""
        senses = {word: sense for sense, words in enumerate(table.split()) for word in words.split("/")}
        # from the end, so that the first word of a sense is the one that stays
        plainest = {sense: word for word, sense in reversed(senses.items())}
        return cls(senses, plainest)


# The orders here decide, with the seed, which text a prompt gets: after any change the same seed gives other ones.
_ATTRIBUTES = {
    "colour": "red/crimson/scarlet orange yellow green blue purple/violet pink/magenta brown black white grey/gray "
    "cyan/teal/turquoise beige golden silver",
    "material": "wooden metal/metallic/steel/iron glass plastic leather stone/marble brick concrete ceramic/porcelain "
    "paper copper/bronze gold rubber cotton/silk/velvet/woolen clay",
    "size": "tiny/small/little/miniature big/large/huge/giant/enormous/gigantic",
    "height": "tall short",
    "shape": "round/circular/spherical square/cubic rectangular triangular oval cylindrical pyramidal",
    "texture": "fluffy/furry smooth rough shiny/glossy matte spiky",
    # "one" is left out, since its noun would have to change with it
    "number": "two three four five six seven eight nine ten",
    "digit": "2 3 4 5 6 7 8 9 10",
}
CLASSES = {name: AttributeClass.of(table) for name, table in _ATTRIBUTES.items()}
ATTRIBUTE_WORDS = frozenset(word for attributes in CLASSES.values() for word in attributes.senses)
OPPOSITES = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "on top of": "underneath",
    "atop": "underneath",
    "underneath": "on top of",
    "beneath": "on top of",
    "over": "under",
    "under": "over",
    "in front of": "behind",
    "behind": "in front of",
    "inside": "outside",
    "outside": "inside",
}
# Words that tie two objects and mean another thing the other way round; `OPPOSITES` belongs to them too.
ONE_WAY = ("with", "on", "in", "holding", "riding", "chasing", "wearing", "eating", "watching")
# These mean the same the other way round: only the head nouns are exchanged, and their attributes stay.
BOTH_WAYS = ("and", "next to", "beside", "near", "by the side of")
DETERMINERS = frozenset({"a", "an", "the", "this", "that", "these", "those", "some", "one"})
NUMBERS = frozenset([*CLASSES["number"].senses, *CLASSES["digit"].senses])
# May stand between an object and its relation: "a cube is placed to the left of a ball".
_BETWEEN = """is are was were be being sitting standing lying resting placed positioned located hanging floating
    directly just immediately to on at the"""
BETWEEN = frozenset(_BETWEEN.split())
# Where a noun group ends.
_STOPS = """and or with of in by for from into onto near beside next left right above below over under underneath
    beneath atop behind inside outside between through while that which who has have holding riding chasing wearing
    eating watching looking as against top front both there"""
STOPS = BETWEEN - {"the"} | frozenset(_STOPS.split())
# No noun is among these.
SMALL_WORDS = STOPS | DETERMINERS | ATTRIBUTE_WORDS
