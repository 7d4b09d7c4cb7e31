"""What can be said about a scene: meanings, their wordings, GenEval metadata and the held-out split.

A `Meaning` is canonical ("a star and a ring" and "a ring and a star" are one meaning), and whole meanings, never
wordings, are dealt to `train`, `dev` or `test`; so no prompt of one side says what a prompt of another side says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from contrapose.seeds import seed_of
from contrapose.worlds.shapes.render import COLORS, SHAPES

Tag = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
Split = Literal["train", "dev", "test"]
TAGS: tuple[Tag, ...] = get_args(Tag)

RELATIONS = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NUMBERS = {2: "two", 3: "three", 4: "four"}
LEAD_INS = ("", "a photo of ", "a picture of ", "a drawing of ")
# What a caption may call an image that looks good, or bad; prompts of dev and test name neither.
GOOD_LOOKS = ("clean", "neat", "spotless")
BAD_LOOKS = ("dusty", "stained", "dirty")

# Colour-shape bindings that no training image or training prompt shows; the test asks for them.
UNSEEN_BINDINGS = frozenset(
    {("yellow", "circle"), ("purple", "square"), ("orange", "triangle"),
     ("green", "star"), ("red", "cross"), ("blue", "ring")}
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Kind:
    """What a prompt calls an object: its shape, and its colour where the prompt names one."""

    shape: str
    color: str | None = None

    @property
    def phrase(self) -> str:
        return f"an {self._words}" if self._words[0] in "aeiou" else f"a {self._words}"

    @property
    def plural(self) -> str:
        return f"{self._words}es" if self.shape == "cross" else f"{self._words}s"

    @property
    def _words(self) -> str:
        return f"{self.color} {self.shape}" if self.color else self.shape


@dataclass(frozen=True)
class Meaning:
    """What a prompt asks for: one object, `count` of one kind, or one of each of two kinds, perhaps in a relation."""

    kinds: tuple[Kind, ...]
    count: int = 1
    relation: str | None = None

    @property
    def tag(self) -> Tag:
        """The GenEval category; a relation or a count outweighs the colours beside it."""
        if self.count > 1:
            return "counting"
        if self.relation:
            return "position"
        colored = any(kind.color for kind in self.kinds)
        if len(self.kinds) == 1:
            return "colors" if colored else "single_object"
        return "color_attr" if colored else "two_object"

    def canonical(self) -> Meaning:
        """The one form that all meanings with the same truth share: kinds sorted, the relation turned with them."""
        if len(self.kinds) < 2 or self.kinds[0] <= self.kinds[1]:
            return self
        return self.turned()

    def turned(self) -> Meaning:
        """The same truth told from the other kind: "a star left of a ring" as "a ring right of a star"."""
        relation = RELATIONS[self.relation] if self.relation else None
        return Meaning(self.kinds[::-1], self.count, relation)

    @property
    def key(self) -> str:
        """The canonical form as text, such as `red ring|star|1|above`; the held-out split is dealt by it."""
        canonical = self.canonical()
        kinds = [f"{kind.color or ''} {kind.shape}".strip() for kind in canonical.kinds]
        return "|".join([*kinds, str(canonical.count), canonical.relation or ""])

    def wordings(self, lead_ins: Iterable[str] = LEAD_INS) -> Iterator[str]:
        """Every way in which the grammar says this, in a fixed order."""
        for lead_in in lead_ins:
            if self.count > 1:
                for number in (NUMBERS[self.count], str(self.count)):
                    yield f"{lead_in}{number} {self.kinds[0].plural}"
            elif len(self.kinds) == 1:
                yield lead_in + self.kinds[0].phrase
            else:
                # either kind may come first, and the relation then reads the other way round
                for spoken in (self, self.turned()):
                    first, second = spoken.kinds
                    yield f"{lead_in}{first.phrase} {spoken.relation or 'and'} {second.phrase}"

    def metadata(self, prompt: str) -> dict[str, Any]:
        """GenEval's line for a prompt of this meaning (`include`, `exclude`, `tag`; position: reference first)."""
        spoken = self
        # no relation's words lie within its opposite's, so the prompt itself shows which of the two it speaks
        if self.relation and self.relation not in prompt:
            spoken = self.turned()
        # "A left of B" is a claim of A's place, so GenEval lists the reference B first and the place with A
        kinds = spoken.kinds[::-1] if spoken.relation else spoken.kinds
        include: list[dict[str, Any]] = []
        for index, kind in enumerate(kinds):
            clause: dict[str, Any] = {"class": kind.shape, "count": self.count}
            if kind.color:
                clause["color"] = kind.color
            if spoken.relation and index == 1:
                clause["position"] = [spoken.relation, 0]
            include.append(clause)
        line: dict[str, Any] = {"tag": self.tag, "include": include, "prompt": prompt}
        if self.count > 1:
            # `include` is met by more objects than it counts; one too many must fail
            line["exclude"] = [{"class": self.kinds[0].shape, "count": self.count + 1}]
        return line


def lead_ins_of(words: Sequence[str]) -> list[str]:
    """Every lead-in that names looks by one or two of the words, as in "a dusty, stained photo of "."""
    named = [*words, *(", ".join(pair) for pair in itertools.permutations(words, 2))]
    articled = [lead_in.removeprefix("a ") for lead_in in LEAD_INS if lead_in]
    return [f"a {looks} {noun}" for looks in named for noun in articled]


def is_seen(meaning: Meaning) -> bool:
    """Whether every colour-shape binding of the meaning occurs in training images."""
    return all((kind.color, kind.shape) not in UNSEEN_BINDINGS for kind in meaning.kinds)


def canonical_meanings(tag: Tag) -> list[Meaning]:
    """All meanings of GenEval's six categories: 6, 15, 18, 48, 60 and 840 of them."""
    pairs = list(itertools.combinations(sorted(SHAPES), 2))
    match tag:
        case "single_object":
            return [Meaning((Kind(s),)) for s in SHAPES]
        case "two_object":
            return [Meaning((Kind(a), Kind(b))) for a, b in pairs]
        case "counting":
            return [Meaning((Kind(s),), count=n) for s in SHAPES for n in NUMBERS]
        case "colors":
            return [Meaning((Kind(s, c),)) for s in SHAPES for c in COLORS]
        case "position":
            return [Meaning((Kind(a), Kind(b)), relation=r) for a, b in pairs for r in RELATIONS]
        case "color_attr":
            # both orders of two colours, since the shapes stand in one order; never one colour twice
            hues = list(itertools.permutations(COLORS, 2))
            return [Meaning((Kind(a, c), Kind(b, d))) for a, b in pairs for c, d in hues]


def _rank(text: str) -> int:
    """A place in an order that looks random and is the same on every machine."""
    return seed_of(text, bits=256)


def _key_rank(meaning: Meaning) -> int:
    return _rank(meaning.key)


# Share of each tag's meanings that goes to test and to dev; the rest trains.
_SHARES: dict[Tag, tuple[float, float]] = {
    "single_object": (1 / 3, 1 / 6),
    "two_object": (1 / 3, 1 / 5),
    "counting": (1 / 3, 1 / 6),
    "colors": (1 / 3, 1 / 8),
    "position": (1 / 3, 1 / 6),
    "color_attr": (1 / 4, 1 / 8),
}


@cache
def _dealt() -> dict[str, Split]:
    """The side of every held-out meaning by its key; what is not in it trains."""
    dealt: dict[str, Split] = {}
    for tag, (test, dev) in _SHARES.items():
        meanings = sorted(canonical_meanings(tag), key=_key_rank)
        seen = [meaning for meaning in meanings if is_seen(meaning)]
        unseen = [meaning for meaning in meanings if not is_seen(meaning)]
        cut = (2 * len(unseen) + 2) // 3  # unseen bindings never train: two thirds go to test, the rest to dev
        # seen meanings fill what the unseen ones leave of a side's share
        num_test = max(round(test * len(meanings)) - cut, 0)
        num_dev = max(round(dev * len(meanings)) - (len(unseen) - cut), 0)
        for meaning in unseen[:cut] + seen[:num_test]:
            dealt[meaning.key] = "test"
        for meaning in unseen[cut:] + seen[num_test : num_test + num_dev]:
            dealt[meaning.key] = "dev"
    return dealt


def split_of(meaning: Meaning) -> Split:
    """The side of the held-out split on which the meaning stands.

    Details beyond GenEval's six categories (coloured counts and relations) are training material only.
    """
    return _dealt().get(meaning.key, "train")


def prompts(split: Split, per_tag: int = 40) -> list[dict[str, Any]]:
    """GenEval metadata lines of one split: up to `per_tag` prompts of each category, meanings taking turns."""
    lines: list[dict[str, Any]] = []
    for tag in TAGS:
        of_split = [meaning for meaning in canonical_meanings(tag) if split_of(meaning) == split]
        meanings = sorted(of_split, key=_key_rank)
        wordings = [sorted(meaning.wordings(), key=_rank) for meaning in meanings]
        by_turns: list[tuple[Meaning, str]] = []
        # each round gives every meaning one more wording; those with fewer sit out the later rounds
        for of_round in itertools.zip_longest(*wordings):
            by_turns += [(m, text) for m, text in zip(meanings, of_round, strict=True) if text is not None]
        lines += [meaning.metadata(text) for meaning, text in by_turns[:per_tag]]
    return lines
