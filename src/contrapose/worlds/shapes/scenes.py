"""Captioned scenes: renders that make a meaning true, and the careless captions that the web would give them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from contrapose.worlds.shapes.grammar import (
    LEAD_INS,
    NUMBERS,
    RELATIONS,
    UNSEEN_BINDINGS,
    Kind,
    Meaning,
    is_seen,
    split_of,
)
from contrapose.worlds.shapes.render import COLORS, IMAGE_SIZE, SHAPES, Object, Scene, fits

# Least and largest radius in pixels by number of objects: more of them need more room.
_RADII = {1: (12.0, 18.0), 2: (10.5, 13.5), 3: (9.0, 11.0), 4: (8.5, 10.5)}
# Direction from the second object to the first; y points down in an image, so above is negative.
_ANGLES = {"left of": math.pi, "right of": 0.0, "above": -math.pi / 2, "below": math.pi / 2}
_SPREAD = math.radians(38)  # how far a relation may lean before it would also satisfy a neighbouring one


def _place(rng: np.random.Generator, colored: list[tuple[str, str]], relation: str | None) -> Scene | None:
    """Objects of these shapes and colours at random places; None where one fits nowhere or the relation fails."""
    low, high = _RADII[len(colored)]
    scene: Scene = ()
    for shape, color in colored:
        for _ in range(40):
            # placed by the radius alone, although `fits` asks for more: an example's number stands for these draws
            radius = rng.uniform(low, high)
            x, y = rng.uniform(radius, IMAGE_SIZE - radius, 2)
            candidate = Object(shape, color, float(x), float(y), float(radius))
            if fits(candidate, scene):
                scene = (*scene, candidate)
                break
        else:
            return None
    if relation:
        first, second = scene
        lean = math.atan2(first.y - second.y, first.x - second.x) - _ANGLES[relation]
        # the remainder brings the difference of two angles into -pi..pi
        if abs(math.remainder(lean, 2 * math.pi)) >= _SPREAD:
            return None
    return scene


def _color(rng: np.random.Generator, shape: str) -> str:
    """A colour in which training may show the shape."""
    return str(rng.choice([c for c in COLORS if (c, shape) not in UNSEEN_BINDINGS]))


def scene_of(meaning: Meaning, rng: np.random.Generator) -> Scene:
    """A random scene in which the meaning holds; colours that it leaves open are drawn from the seen bindings."""
    while True:
        objects = [kind for kind in meaning.kinds for _ in range(meaning.count)]
        colored = [(kind.shape, kind.color or _color(rng, kind.shape)) for kind in objects]
        # a crowded or wrongly leaning scene is drawn anew, colours included
        scene = _place(rng, colored, meaning.relation)
        if scene:
            return scene


@dataclass(frozen=True)
class SceneMix:
    """Shares of what scenes show."""

    single: float
    """A single object; the rest are pairs."""
    count: float
    """Two to four of a kind."""
    related: float
    """Of the pairs, those in a relation."""


PHOTOGRAPHED = SceneMix(single=0.18, count=0.27, related=0.5)
# More of what is hard to learn, which counts and relations are.
PRETRAINED = SceneMix(single=0.12, count=0.33, related=0.65)


def _draw_meaning(rng: np.random.Generator, mixture: SceneMix) -> Meaning:
    """A meaning from a mixture over the grammar: GenEval's six categories, and coloured counts and relations."""
    shares = [mixture.single, mixture.count, 1 - mixture.single - mixture.count]
    form = rng.choice(["one", "count", "two"], p=shares)
    # both are drawn for every form: an example's number stands for this order of draws
    shapes = [str(s) for s in rng.permutation(SHAPES)[:2]]
    colors: list[str | None] = [_color(rng, s) for s in shapes]
    if form == "one":
        return Meaning((Kind(shapes[0], colors[0] if rng.random() < 0.8 else None),))
    if form == "count":
        named = colors[0] if rng.random() < 0.35 else None
        return Meaning((Kind(shapes[0], named),), count=int(rng.choice(list(NUMBERS))))
    bare = rng.random()
    if bare < 0.35:
        colors = [None, None]
    elif bare < 0.45:
        colors[int(rng.integers(2))] = None
    relation = str(rng.choice(list(RELATIONS))) if rng.random() < mixture.related else None
    kinds = tuple(Kind(shape, color) for shape, color in zip(shapes, colors, strict=True))
    return Meaning(kinds, relation=relation)


def training_meaning(rng: np.random.Generator, mixture: SceneMix = PHOTOGRAPHED) -> Meaning:
    """A meaning of the training side: never one that dev or test asks for, never an unseen binding."""
    while True:
        meaning = _draw_meaning(rng, mixture)
        if is_seen(meaning) and split_of(meaning) == "train":
            return meaning


def _other(rng: np.random.Generator, options: tuple[str, ...], current: str | None) -> str:
    return str(rng.choice([o for o in options if o != current]))


def _mistaken(meaning: Meaning, rng: np.random.Generator) -> Meaning:
    """One attribute of the meaning replaced by a wrong one."""
    kinds = list(meaning.kinds)
    index = int(rng.integers(len(kinds)))
    kind = kinds[index]
    # what a meaning need not have is listed twice, so that it goes wrong twice as often as a shape where it is there
    choices = ["shape"] + ["color"] * 2 * bool(kind.color) + ["count"] * 2 * (meaning.count > 1)
    choices += ["relation"] * 2 * bool(meaning.relation)
    choices += ["bindings"] * 2 * (len(kinds) == 2 and all(k.color for k in kinds))
    match rng.choice(choices):
        case "shape":
            # neither shape of the meaning: a star beside a star would be a count
            shown = {k.shape for k in kinds}
            absent = tuple(shape for shape in SHAPES if shape not in shown)
            kinds[index] = replace(kind, shape=_other(rng, absent, None))
        case "color":
            kinds[index] = replace(kind, color=_other(rng, COLORS, kind.color))
        case "count":
            return replace(meaning, count=int(_other(rng, tuple(map(str, NUMBERS)), str(meaning.count))))
        case "relation":
            return replace(meaning, relation=_other(rng, tuple(RELATIONS), meaning.relation))
        case "bindings":
            first, second = kinds
            kinds = [replace(first, color=second.color), replace(second, color=first.color)]
    return replace(meaning, kinds=tuple(kinds))


def _incomplete(meaning: Meaning, rng: np.random.Generator) -> Meaning:
    """Part of the meaning left unsaid."""
    if len(meaning.kinds) == 2:
        if meaning.relation and rng.random() < 0.4:
            return replace(meaning, relation=None)
        return Meaning((meaning.kinds[int(rng.integers(2))],))
    if meaning.count > 1:
        return Meaning(meaning.kinds)
    return Meaning((Kind(meaning.kinds[0].shape),))


def caption(
    meaning: Meaning, rng: np.random.Generator, carelessness: float = 0.25, lead_ins: Sequence[str] = LEAD_INS
) -> str:
    """A wording of the meaning; with probability `carelessness` of a wrong or incomplete one, as captions on the web.

    A careless caption, too, never says what dev or test ask for.
    """
    spoken = meaning
    if rng.random() < carelessness:
        spoil = _mistaken if rng.random() < 0.7 else _incomplete
        # a slip that says what is held out is tried again; after twenty the caption stays right
        for _ in range(20):
            candidate = spoil(meaning, rng)
            if candidate != meaning and is_seen(candidate) and split_of(candidate) == "train":
                spoken = candidate
                break
    return str(rng.choice(list(spoken.wordings(lead_ins))))
