"""The suite "shapes": GenEval's verdict on images of the shapes world, with a floor and a ceiling to read scores by."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contrapose.errors import UserError
from contrapose.evaluate.rows import Measure
from contrapose.evaluate.verdict import verdict
from contrapose.worlds.shapes.detector import THRESHOLDS, ShapesDetector, artefact_rate, shape_fidelity
from contrapose.worlds.shapes.grammar import NUMBERS, RELATIONS, Meaning, Thing
from contrapose.worlds.shapes.render import COLORS, SHAPES, render
from contrapose.worlds.shapes.scenes import scene_of

LOWER_IS_BETTER = frozenset({"artefact_rate"})


def judge(image: NDArray[np.uint8], metadata: Mapping[str, Any]) -> list[Measure]:
    """`correct` (0 or 1, with the verdict's reason), `shape_fidelity` and `artefact_rate` of one image.

    Raises `UserError` when the metadata speaks of things that this world does not have.
    """
    meaning_of(metadata)
    detector = ShapesDetector()
    found = detector.detect(image)
    judged = verdict(image, metadata, found, detector.color, THRESHOLDS)
    return [
        Measure("correct", float(judged.correct), judged.reason or None),
        Measure("shape_fidelity", shape_fidelity(found)),
        Measure("artefact_rate", artefact_rate(image, found)),
    ]


def meaning_of(metadata: Mapping[str, Any]) -> Meaning:
    """The meaning that a GenEval line states; raises `UserError` when the grammar cannot say it."""
    try:
        meaning = _stated(metadata["include"])
    except (KeyError, TypeError, IndexError, ValueError):
        meaning = None
    if meaning is None:
        prompt = metadata.get("prompt")
        raise UserError(
            f"prompt {prompt!r}: its metadata is not of the shapes world ('contrapose shapes prompts' writes such); "
            "no other is judged from the command line today; contrapose.judges.scorers score any image in Python"
        )
    return meaning


def floor_metadata(lines: Sequence[Mapping[str, Any]], seed: int = 0) -> list[Mapping[str, Any]]:
    """The lines shuffled among the images, such that no image meets a line that means what its own does.

    Judged so, a model shows what chance alone scores. Raises `UserError` when one meaning holds over half the lines.
    """
    keys = [meaning_of(line).key for line in lines]
    if lines and 2 * max(Counter(keys).values()) > len(keys):
        raise UserError(
            "prompts cannot be shuffled: over half of them mean the same; use a prompt file with more meanings"
        )
    rng = np.random.default_rng(seed)
    order = [int(i) for i in rng.permutation(len(lines))]
    for here in range(len(order)):
        if keys[order[here]] == keys[here]:
            # At most half the lines share this meaning, so some place can take the line and give up its own.
            places = [p for p, o in enumerate(order) if keys[here] not in (keys[p], keys[o])]
            there = int(rng.choice(places))
            order[here], order[there] = order[there], order[here]
    return [lines[index] for index in order]


def ceiling_images(
    lines: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Yield (line's index, seed, a render that is right for the line); it depends on the prompt and the seed alone.

    The caller passes them through the autoencoder: no model that paints in its latents can do better.
    """
    for index, line in enumerate(lines):
        meaning = meaning_of(line)
        prompt = int.from_bytes(hashlib.sha256(str(line["prompt"]).encode()).digest()[:8], "big")
        for seed in seeds:
            yield index, seed, render(scene_of(meaning, np.random.default_rng([prompt, seed])))


def _stated(include: Sequence[Mapping[str, Any]]) -> Meaning | None:
    things = tuple(Thing(clause["class"], clause.get("color")) for clause in include)
    counts = [clause["count"] for clause in include]
    if any(thing.shape not in SHAPES or thing.color not in (*COLORS, None) for thing in things):
        return None
    if len(things) == 1:
        return Meaning(things, count=counts[0]) if counts[0] in (1, *NUMBERS) and "position" not in include[0] else None
    if len(things) != 2 or counts != [1, 1] or "position" in include[0]:
        return None
    if "position" not in include[1]:
        return Meaning(things)
    relation, target = include[1]["position"]
    return Meaning(things[::-1], relation=relation) if relation in RELATIONS and target == 0 else None
