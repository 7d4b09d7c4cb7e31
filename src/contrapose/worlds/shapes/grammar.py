"""What can be said about a scene: meanings, their wordings, GenEval metadata and the held-out split.

A `Meaning` is canonical ("a star and a ring" and "a ring and a star" are one meaning), and whole meanings, never
wordings, are dealt to `train`, `dev` or `test`; so no prompt of one side says what a prompt of another side says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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

# Colour-shape bindings that no training image or training prompt shows; the test asks for them.
UNSEEN_BINDINGS = frozenset(
    {("yellow", "circle"), ("purple", "square"), ("orange", "triangle"),
     ("green", "star"), ("red", "cross"), ("blue", "ring")}
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Thing:
    """A kind of object in a meaning: its shape, and its colour where the prompt names one."""

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
    """What a prompt asks for: one thing, `count` of one thing, or two things, perhaps in a relation."""

    things: tuple[Thing, ...]
    count: int = 1
    relation: str | None = None

    @property
    def tag(self) -> Tag:
        """The GenEval category; a relation or a count outweighs the colours beside it."""
        if self.count > 1:
            return "counting"
        if self.relation:
            return "position"
        colored = any(thing.color for thing in self.things)
        if len(self.things) == 1:
            return "colors" if colored else "single_object"
        return "color_attr" if colored else "two_object"

    def canonical(self) -> Meaning:
        """The one form that all meanings with the same truth share: things sorted, the relation turned with them."""
        if len(self.things) < 2 or self.things[0] <= self.things[1]:
            return self
        relation = RELATIONS[self.relation] if self.relation else None
        return Meaning(self.things[::-1], self.count, relation)

    def turned(self) -> Meaning:
        """The same truth told from the other thing."""
        relation = RELATIONS[self.relation] if self.relation else None
        return Meaning(self.things[::-1], self.count, relation)

    @property
    def key(self) -> str:
        one = self.canonical()
        return "|".join(
            [*(f"{t.color or ''} {t.shape}".strip() for t in one.things), str(one.count), one.relation or ""]
        )

    def wordings(self) -> Iterator[str]:
        """Every way in which the grammar says this, in a fixed order."""
        for lead_in in LEAD_INS:
            if self.count > 1:
                for number in (NUMBERS[self.count], str(self.count)):
                    yield f"{lead_in}{number} {self.things[0].plural}"
            elif len(self.things) == 1:
                yield lead_in + self.things[0].phrase
            else:
                for told in (self, self.turned()):
                    first, second = told.things
                    yield f"{lead_in}{first.phrase} {told.relation or 'and'} {second.phrase}"

    def metadata(self, prompt: str) -> dict[str, Any]:
        """GenEval's line for a prompt of this meaning (`include`, `exclude`, `tag`; position: reference first)."""
        told = self
        if self.relation and self.relation not in prompt:
            told = self.turned()
        things = told.things[::-1] if told.relation else told.things
        include: list[dict[str, Any]] = []
        for index, thing in enumerate(things):
            clause: dict[str, Any] = {"class": thing.shape, "count": self.count}
            if thing.color:
                clause["color"] = thing.color
            if told.relation and index == 1:
                clause["position"] = [told.relation, 0]
            include.append(clause)
        line: dict[str, Any] = {"tag": self.tag, "include": include, "prompt": prompt}
        if self.count > 1:
            line["exclude"] = [{"class": self.things[0].shape, "count": self.count + 1}]
        return line


def is_seen(meaning: Meaning) -> bool:
    """Whether every colour-shape binding of the meaning occurs in training images."""
    return all((thing.color, thing.shape) not in UNSEEN_BINDINGS for thing in meaning.things)


def canonical_meanings(tag: Tag) -> list[Meaning]:
    """All meanings of GenEval's six categories: 6, 15, 18, 48, 60 and 840 of them."""
    pairs = list(itertools.combinations(sorted(SHAPES), 2))
    match tag:
        case "single_object":
            return [Meaning((Thing(s),)) for s in SHAPES]
        case "two_object":
            return [Meaning((Thing(a), Thing(b))) for a, b in pairs]
        case "counting":
            return [Meaning((Thing(s),), count=n) for s in SHAPES for n in NUMBERS]
        case "colors":
            return [Meaning((Thing(s, c),)) for s in SHAPES for c in COLORS]
        case "position":
            return [Meaning((Thing(a), Thing(b)), relation=r) for a, b in pairs for r in RELATIONS]
        case "color_attr":
            hues = list(itertools.permutations(COLORS, 2))
            return [Meaning((Thing(a, c), Thing(b, d))) for a, b in pairs for c, d in hues]


def _rank(text: str) -> int:
    return seed_of(text, bits=256)


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
    dealt: dict[str, Split] = {}
    for tag, (test, dev) in _SHARES.items():
        meanings = sorted(canonical_meanings(tag), key=lambda m: _rank(m.key))
        unseen, seen = [m for m in meanings if not is_seen(m)], [m for m in meanings if is_seen(m)]
        cut = (2 * len(unseen) + 2) // 3  # unseen bindings never train: two thirds go to test, the rest to dev
        num_test = max(round(test * len(meanings)) - cut, 0)
        num_dev = max(round(dev * len(meanings)) - (len(unseen) - cut), 0)
        dealt.update(dict.fromkeys((m.key for m in unseen[:cut] + seen[:num_test]), "test"))
        dealt.update(dict.fromkeys((m.key for m in unseen[cut:] + seen[num_test : num_test + num_dev]), "dev"))
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
        meanings = sorted((m for m in canonical_meanings(tag) if split_of(m) == split), key=lambda m: _rank(m.key))
        told = [sorted(m.wordings(), key=_rank) for m in meanings]
        rounds = itertools.zip_longest(*told)
        by_turns = [(m, w) for round_ in rounds for m, w in zip(meanings, round_, strict=True) if w is not None]
        lines += [m.metadata(w) for m, w in by_turns[:per_tag]]
    return lines
