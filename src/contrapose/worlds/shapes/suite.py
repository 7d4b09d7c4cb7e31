"""The suite "shapes": GenEval's verdict on images of the shapes world, with a floor and a ceiling to read scores by."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contrapose.errors import UserError
from contrapose.evaluate.images import metadata_of
from contrapose.evaluate.verdict import as_marks, verdict
from contrapose.judges.judge import Marks
from contrapose.pixels import to_pixels, to_tensor
from contrapose.seeds import seed_of
from contrapose.store.prompts import Prompt
from contrapose.worlds.shapes.grammar import NUMBERS, RELATIONS, Kind, Meaning
from contrapose.worlds.shapes.render import COLORS, SHAPES, render
from contrapose.worlds.shapes.scenes import scene_of
from contrapose.worlds.shapes.shipped import shipped_model

_AT_ONCE = 32  # renders that go through the autoencoder together


class ShapesJudge:
    """Prompt following by an analytic detector, and looks by the background's pixels.

    `correct` (0 or 1, with the verdict's reason), `shape_fidelity` and `artefact_rate`; `roughness`, `tint`, `gradient`
    and `specks` (`Appearance`).
    """

    name = "shapes"
    version = "4"
    higher_is_better: ClassVar[dict[str, bool]] = {
        "correct": True,
        "shape_fidelity": True,
        "artefact_rate": False,
        "roughness": False,
        "tint": False,
        "gradient": False,
        "specks": False,
    }

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        """Raises `UserError` when a prompt speaks of what this world does not have."""
        from contrapose.worlds.shapes.appearance import Appearance, appearance
        from contrapose.worlds.shapes.detector import THRESHOLDS, ShapesDetector, artefact_rate, shape_fidelity

        detector = ShapesDetector()
        verdicts = []
        fidelities = []
        artefacts = []
        appearances = []
        for image, prompt in zip(images, prompts, strict=True):
            meaning_of(prompt)
            pixels = np.asarray(image.convert("RGB"))
            objects = detector.detect(pixels)
            verdicts.append(verdict(pixels, metadata_of(prompt), objects, detector.color, THRESHOLDS))
            fidelities.append(shape_fidelity(objects))
            artefacts.append(artefact_rate(pixels, objects))
            appearances.append(appearance(pixels))
        marks = {
            "correct": as_marks(verdicts),
            "shape_fidelity": Marks(np.array(fidelities)),
            "artefact_rate": Marks(np.array(artefacts)),
        }
        for measure in fields(Appearance):
            marks[measure.name] = Marks(np.array([getattr(seen, measure.name) for seen in appearances]))
        return marks


@dataclass(frozen=True)
class Shapes:
    """The suite "shapes": GenEval's verdict by the shapes world's analytic detector, for prompts of this world."""

    autoencoder: str = ""
    """Model whose autoencoder the ceiling's renders pass through; the shipped shapes model when empty."""

    @property
    def _model(self) -> str:
        return self.autoencoder or str(shipped_model())

    title: ClassVar[str] = ""
    counted: ClassVar[str] = (
        "An object counts where its outline overlaps that of a shape by more than 0.6, or 0.7 where objects are to be "
        "counted (soft intersection over union), and has the colour that most of it is nearest to. One that runs into "
        "another may be missed, however plain it is to the eye."
    )

    @property
    def bounds(self) -> Shapes:
        return self

    def load(self, device: str) -> ShapesJudge:
        return ShapesJudge()

    def check(self, prompts: Iterable[Prompt]) -> None:
        for prompt in prompts:
            meaning_of(prompt)

    def inputs(self) -> dict[str, str]:
        from contrapose.backbones.digests import model_digest
        from contrapose.backbones.settings import Loading

        return {"autoencoder": model_digest(self._model, Loading())}

    def floor(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        return shuffled(prompts)

    def draw_ceiling(self, prompts: Sequence[Prompt], seeds: Sequence[int], out: Path) -> None:
        """Right renders of every prompt, through the autoencoder: no model that paints in its latents can do better."""
        from contrapose.backbones.families.table import load_backbone

        for number, prompt in enumerate(prompts):
            (out / f"{number:05d}" / "samples").mkdir(parents=True)
            line = json.dumps(metadata_of(prompt), ensure_ascii=False) + "\n"
            (out / f"{number:05d}" / "metadata.jsonl").write_text(line, encoding="utf-8")
        backbone = load_backbone(self._model)
        renders = list(ceiling_images(prompts, seeds))
        for first in range(0, len(renders), _AT_ONCE):
            batch = renders[first : first + _AT_ONCE]
            images = np.stack([pixels for _, _, pixels in batch])
            decoded = to_pixels(backbone.images.decode(backbone.images.encode(to_tensor(images))))
            for (number, seed, _), pixels in zip(batch, decoded, strict=True):
                Image.fromarray(pixels).save(out / f"{number:05d}" / "samples" / f"{seed:04d}.png", format="PNG")


def meaning_of(prompt: Prompt) -> Meaning:
    """The meaning that a prompt's GenEval line states; raises `UserError` when the grammar cannot say it."""
    try:
        meaning = _stated(prompt.fields["include"])
    except (KeyError, TypeError, IndexError, ValueError):
        meaning = None
    if meaning is None:
        raise UserError(
            f"prompt {prompt.text!r}: its metadata is not of the shapes world ('contrapose shapes prompts' writes "
            "such); images of other prompts are judged by '--suite scores'"
        )
    return meaning


def shuffled(prompts: Sequence[Prompt], seed: int = 0) -> list[Prompt]:
    """The prompts in another order, such that none stands where one of its meaning stood.

    Judged so, a model shows what chance alone scores. Raises `UserError` when one meaning holds over half the prompts.
    """
    keys = [meaning_of(prompt).key for prompt in prompts]
    if prompts and 2 * max(Counter(keys).values()) > len(keys):
        raise UserError(
            "prompts cannot be shuffled: over half of them mean the same; use a prompt file with more meanings"
        )
    rng = np.random.default_rng(seed)
    order = [int(index) for index in rng.permutation(len(prompts))]
    for here in range(len(order)):
        if keys[order[here]] == keys[here]:
            # At most half the prompts share this meaning, so some place can take the prompt and give up its own.
            places = [place for place, index in enumerate(order) if keys[here] not in (keys[place], keys[index])]
            place = int(rng.choice(places))
            order[here], order[place] = order[place], order[here]
    return [prompts[index] for index in order]


def ceiling_images(prompts: Sequence[Prompt], seeds: Sequence[int]) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Yield (prompt's index, seed, a render that is right for it), which depends on the prompt and the seed alone."""
    for index, prompt in enumerate(prompts):
        meaning = meaning_of(prompt)
        entropy = seed_of(prompt.text, bits=64)
        for seed in seeds:
            yield index, seed, render(scene_of(meaning, np.random.default_rng([entropy, seed])))


def _stated(include: Sequence[Mapping[str, Any]]) -> Meaning | None:
    """What GenEval's clauses mean; None where this world's grammar has no words for it."""
    kinds = tuple(Kind(clause["class"], clause.get("color")) for clause in include)
    counts = [clause["count"] for clause in include]
    if any(kind.shape not in SHAPES or kind.color not in (*COLORS, None) for kind in kinds):
        return None
    # a place is told of the second clause, and only against the first
    if "position" in include[0]:
        return None
    if len(kinds) == 1:
        return Meaning(kinds, count=counts[0]) if counts[0] in (1, *NUMBERS) else None
    if len(kinds) != 2 or counts != [1, 1]:
        return None
    if "position" not in include[1]:
        return Meaning(kinds)
    relation, target = include[1]["position"]
    # a meaning's relation is told of its first kind, so the clauses' order turns
    return Meaning(kinds[::-1], relation=relation) if relation in RELATIONS and target == 0 else None
