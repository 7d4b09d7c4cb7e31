"""Captioned scenes: renders that make a meaning true, and the careless captions that the web would give them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from contrapose.worlds.shapes.grammar import (
    NUMBERS,
    RELATIONS,
    UNSEEN_BINDINGS,
    Meaning,
    Thing,
    is_seen,
    split_of,
)
from contrapose.worlds.shapes.render import COLORS, IMAGE_SIZE, SHAPES, Object, Scene, fits

# Radius in pixels by number of objects.
_RADII = {1: (12.0, 18.0), 2: (10.5, 13.5), 3: (9.0, 11.0), 4: (8.5, 10.5)}
_ANGLES = {"left of": math.pi, "right of": 0.0, "above": -math.pi / 2, "below": math.pi / 2}
_SPREAD = math.radians(38)  # how far a relation may lean before it would also satisfy a neighbouring one


def _place(rng: np.random.Generator, things: list[tuple[str, str]], relation: str | None) -> Scene | None:
    low, high = _RADII[len(things)]
    scene: Scene = ()
    for shape, color in things:
        for _ in range(40):
            radius = rng.uniform(low, high)
            x, y = rng.uniform(radius, IMAGE_SIZE - radius, 2)
            candidate = Object(shape, color, float(x), float(y), float(radius))
            if fits(candidate, scene):
                scene = (*scene, candidate)
                break
        else:
            return None
    if relation and not _holds(relation, scene[0], scene[1]):
        return None
    return scene


def _holds(relation: str, first: Object, second: Object) -> bool:
    lean = math.atan2(first.y - second.y, first.x - second.x) - _ANGLES[relation]
    return abs(math.remainder(lean, 2 * math.pi)) < _SPREAD


def _color(rng: np.random.Generator, shape: str) -> str:
    return str(rng.choice([c for c in COLORS if (c, shape) not in UNSEEN_BINDINGS]))


def scene_of(meaning: Meaning, rng: np.random.Generator) -> Scene:
    """A random scene in which the meaning holds; colours that it leaves open are drawn from the seen bindings."""
    while True:
        wanted = [thing for thing in meaning.things for _ in range(meaning.count)]
        things = [(thing.shape, thing.color or _color(rng, thing.shape)) for thing in wanted]
        scene = _place(rng, things, meaning.relation)
        if scene:
            return scene


def _draw_meaning(rng: np.random.Generator) -> Meaning:
    """A meaning from a mixture over the grammar: GenEval's six categories, and coloured counts and relations."""
    kind = rng.choice(["one", "count", "two"], p=[0.18, 0.27, 0.55])
    shapes = [str(s) for s in rng.permutation(SHAPES)[:2]]
    colors: list[str | None] = [_color(rng, s) for s in shapes]
    if kind == "one":
        return Meaning((Thing(shapes[0], colors[0] if rng.random() < 0.8 else None),))
    if kind == "count":
        named = colors[0] if rng.random() < 0.35 else None
        return Meaning((Thing(shapes[0], named),), count=int(rng.choice(list(NUMBERS))))
    bare = rng.random()
    if bare < 0.35:
        colors = [None, None]
    elif bare < 0.45:
        colors[int(rng.integers(2))] = None
    relation = str(rng.choice(list(RELATIONS))) if rng.random() < 0.5 else None
    return Meaning(tuple(Thing(s, c) for s, c in zip(shapes, colors, strict=True)), relation=relation)


def training_meaning(rng: np.random.Generator) -> Meaning:
    """A meaning of the training side: never one that dev or test asks for, never an unseen binding."""
    while True:
        meaning = _draw_meaning(rng)
        if is_seen(meaning) and split_of(meaning) == "train":
            return meaning


def _other(rng: np.random.Generator, options: tuple[str, ...], current: str | None) -> str:
    return str(rng.choice([o for o in options if o != current]))


def _mistaken(meaning: Meaning, rng: np.random.Generator) -> Meaning:
    """One attribute of the meaning replaced by a wrong one."""
    things = list(meaning.things)
    index = int(rng.integers(len(things)))
    thing = things[index]
    choices = ["shape"] + ["color"] * 2 * bool(thing.color) + ["count"] * 2 * (meaning.count > 1)
    choices += ["relation"] * 2 * bool(meaning.relation)
    choices += ["bindings"] * 2 * (len(things) == 2 and all(t.color for t in things))
    match rng.choice(choices):
        case "shape":
            others = {t.shape for t in things}
            things[index] = replace(thing, shape=_other(rng, tuple(s for s in SHAPES if s not in others), None))
        case "color":
            things[index] = replace(thing, color=_other(rng, COLORS, thing.color))
        case "count":
            return replace(meaning, count=int(_other(rng, tuple(map(str, NUMBERS)), str(meaning.count))))
        case "relation":
            return replace(meaning, relation=_other(rng, tuple(RELATIONS), meaning.relation))
        case "bindings":
            first, second = things
            things = [replace(first, color=second.color), replace(second, color=first.color)]
    return replace(meaning, things=tuple(things))


def _incomplete(meaning: Meaning, rng: np.random.Generator) -> Meaning:
    """Part of the meaning left unsaid."""
    if len(meaning.things) == 2:
        if meaning.relation and rng.random() < 0.4:
            return replace(meaning, relation=None)
        return Meaning((meaning.things[int(rng.integers(2))],))
    if meaning.count > 1:
        return Meaning(meaning.things)
    return Meaning((Thing(meaning.things[0].shape),))


def caption(meaning: Meaning, rng: np.random.Generator, carelessness: float = 0.25) -> str:
    """A wording of the meaning; with probability `carelessness` of a wrong or incomplete one, as captions on the web.

    A careless caption, too, never says what dev or test ask for.
    """
    told = meaning
    if rng.random() < carelessness:
        spoil = _mistaken if rng.random() < 0.7 else _incomplete
        for _ in range(20):
            candidate = spoil(meaning, rng)
            if candidate != meaning and is_seen(candidate) and split_of(candidate) == "train":
                told = candidate
                break
    return str(rng.choice(list(told.wordings())))
