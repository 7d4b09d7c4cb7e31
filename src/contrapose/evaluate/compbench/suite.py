"""The suite "compbench": T2I-CompBench (Huang et al. 2023, Karine-Huang/T2I-CompBench)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal

import numpy as np
from PIL.Image import Image

from contrapose.contents import digest_of, digest_of_parts
from contrapose.errors import UserError
from contrapose.evaluate.compbench.phrases import Phrases
from contrapose.evaluate.compbench.rules import (
    DEPTHS,
    PLACES,
    complex_score,
    depth_score,
    numeracy_score,
    overlap,
    pair_score,
    spatial_score,
    without_doubles,
    word_of,
)
from contrapose.evaluate.compbench.things import counts_of, thing_of, things_around
from contrapose.judges.judge import Judge, Marks
from contrapose.ranges import Pixels, Share, check_unused, checked
from contrapose.store.prompts import Prompt

if TYPE_CHECKING:
    from contrapose.evaluate.compbench.blip import BlipVQA
    from contrapose.evaluate.compbench.depth import NearnessMap
    from contrapose.evaluate.compbench.owl import OwlDetector
    from contrapose.judges.towers import Towers

ATTRIBUTES = ("color", "shape", "texture")
ACTIONS = "non_spatial"
SPATIAL = "spatial"
NUMERACY = "numeracy"
COMPLEX = ("complex", "complex_spatial", "complex_action")
IN_DEPTH = "3d_spatial"
BOXED = (SPATIAL, IN_DEPTH, NUMERACY, *COMPLEX)  # those that take a detector
OF_LINE: Final = "tag"
Category = Literal[
    "tag", "color", "shape", "texture", "non_spatial", "spatial", "3d_spatial", "numeracy", "complex",
    "complex_spatial", "complex_action",
]  # fmt: skip
NAME = "compbench"
TITLE = "T2I-CompBench (CompBench-OWL, not comparable)"
OWL = "google/owlv2-base-patch16-ensemble"
DPT = "Intel/dpt-hybrid-midas"


@dataclass(frozen=True)
class CompBenchJudge:
    """`compbench`, 0 to 1, by the rule of the prompt's category, and of attributes why it is low.

    color, shape, texture   prod over noun phrases of P(yes) / (P(yes) + P(no)), asked "{phrase}?" (BLIP-VQA)
    non_spatial             cos(image, prompt) by CLIP
    spatial, numeracy       `spatial_score` and `numeracy_score` of an OWLv2's boxes
    3d_spatial              `pair_score` of these boxes and the `depth_score` by a DPT
    complex                 `complex_score` of the three
    """

    blip: BlipVQA | None
    """None where no attributes are judged."""
    towers: Towers | None
    """None where no actions are judged."""
    owl: OwlDetector | None
    """None where nothing is judged by boxes."""
    nearness: NearnessMap | None
    """None where no depth is judged."""
    phrases: Phrases
    category: str
    version: str

    name: ClassVar[str] = NAME
    higher_is_better: ClassVar[dict[str, bool]] = {"compbench": True}

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        """Raises `UserError` for a prompt of no category that is judged, and for one without noun phrases."""
        values: list[float] = []
        reasons: list[str | None] = []
        for image, prompt in zip(images, prompts, strict=True):
            value, reason = self._score(image, prompt)
            values.append(value)
            reasons.append(reason or None)
        return {self.name: Marks(np.array(values, dtype=np.float64), reasons)}

    def _score(self, image: Image, prompt: Prompt) -> tuple[float, str]:
        """The score by the prompt's category, and why it is low."""
        category = category_of(prompt, self.category)
        if category == ACTIONS:
            return self._cosine(image, prompt.text), ""
        phrases = self.phrases.of(prompt)
        if category in (SPATIAL, IN_DEPTH):
            ends = (thing_of(phrases[0]), thing_of(phrases[-1]))
            return self._places(image, prompt.text, ends, in_depth=category == IN_DEPTH)
        if category == NUMERACY:
            return self._numbers(image, counts_of(phrases))
        chances = self._chances(image, phrases)
        attributes = float(np.prod(list(chances.values())))
        doubted = [f"{phrase}: {chance:.2f}" for phrase, chance in chances.items() if chance <= 0.5]
        reason = "\n".join(doubted)
        if category in ATTRIBUTES:
            return attributes, reason
        kind = category.removeprefix("complex").removeprefix("_")
        places = 0.0
        action = 0.0
        if kind != "action":
            places, unseen = self._places(image, prompt.text, things_around(prompt.text))
            reason = f"{reason}\n{unseen}".strip()
        if kind != "spatial":
            action = self._cosine(image, prompt.text)
        return complex_score(kind, attributes, places, action), reason

    def _places(
        self, image: Image, text: str, names: tuple[str, str] | None, in_depth: bool = False
    ) -> tuple[float, str]:
        """0 for a complex prompt that does not name two things around one place, as in the authors' code."""
        if names is None:
            return 0.0, "the prompt names no two things around one place"
        assert self.owl is not None
        boxes = self.owl.find(image, names)
        first, last = (next(iter(boxes[name]), None) for name in names)
        word = word_of(text, DEPTHS if in_depth else PLACES)
        if in_depth:
            position = 0.0
            if first is not None and last is not None:
                assert self.nearness is not None
                nearer = self.nearness.nearer(image, first, last)
                position = depth_score(word, overlap(first, last), nearer)
            score = pair_score(first, last, position)
        else:
            score = spatial_score(word, first, last)
        unseen = [name for name in boxes if not boxes[name]]
        if unseen:
            return score, f"not seen: {', '.join(unseen)}"
        is_there = score > pair_score(first, last, 0.0)
        return score, "" if is_there else f"{names[0]} is not {word} {names[1]}"

    def _numbers(self, image: Image, counts: Sequence[tuple[str, int]]) -> tuple[float, str]:
        assert self.owl is not None
        boxes = self.owl.find(image, [name for name, _ in counts])
        reasons: list[str] = []
        for name, count in counts:
            number = len(without_doubles(boxes[name]))
            if number != count:
                reasons.append(f"{name}: {number}, not {count}")
        return numeracy_score(counts, boxes), "\n".join(reasons)

    def _chances(self, image: Image, phrases: Sequence[str]) -> dict[str, float]:
        """By phrase, the chance that it is there; one that a prompt names twice counts twice, under two names."""
        assert self.blip is not None
        seen = self.blip.look(image)
        chances: dict[str, float] = {}
        for phrase in phrases:
            name = phrase
            while name in chances:
                name += " (again)"
            chances[name] = self.blip.chance_of_yes(seen, f"{phrase}?")
        return chances

    def _cosine(self, image: Image, text: str) -> float:
        import torch

        assert self.towers is not None
        with torch.inference_mode():
            return float(self.towers.cosine([image.convert("RGB")], [text]))


def category_of(prompt: Prompt, setting: str) -> str:
    """The category that a prompt is judged by: the setting's, or its line's tag.

    Raises `UserError` for none, and for one that is not judged.
    """
    category = (prompt.tag or "").replace("_val", "") if setting == OF_LINE else setting
    judged = (*ATTRIBUTES, ACTIONS, *BOXED)
    if category not in judged:
        named = f"category {category!r} is not judged" if category else "its line names no category"
        raise UserError(
            f"prompt {prompt.text!r}: {named}; name one of {', '.join(judged)} with --category, or as `tag` in its line"
        )
    return category


@dataclass(frozen=True)
@checked
class CompBench:
    """The suite "compbench": is each thing that the prompt names there, as it is described, placed or counted?

    Differs from the authors' code: noun phrases are split by rule unless a file gives spaCy's, BLIP's positions are
    interpolated from 384 to 480 pixels, answers are not rounded to four digits, things are found by an OWLv2, and CLIP
    reads complex prompts with their adjectives.
    """

    category: Category = OF_LINE
    """What the prompts are about; tag is what each line says itself in its `tag`."""
    phrases: Path | None = None
    """JSON of each prompt's noun phrases, {prompt: [phrase, ...]}, such as spaCy's; split by rule where unset."""
    blip: str = "Salesforce/blip-vqa-capfilt-large"
    """Folder or hub id of the BLIP that answers questions about attributes."""
    side: Pixels = 480
    """Side of the squares to which images are squashed for BLIP."""
    clip: str = "openai/clip-vit-base-patch32"
    """Folder or hub id of the CLIP model that judges actions."""
    owl: str = ""
    """Folder or hub id of the OWLv2 that finds things, such as google/owlv2-base-patch16-ensemble, which spatial,
    3d_spatial, numeracy and complex take; tables then say CompBench-OWL, not comparable."""
    depth: str = ""
    """Folder or hub id of the DPT that tells how near things are, such as Intel/dpt-hybrid-midas, which 3d_spatial
    takes beside the OWLv2."""
    least_score: Share = 0.2
    """What the OWLv2's score of a thing must exceed."""

    bounds: ClassVar[None] = None
    counted: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not self.owl:
            check_unused(self, ("least_score",), "is of what an OWLv2 finds, and none is named with --owl")
        if self.category == ACTIONS:
            check_unused(self, ("phrases",), f"{ACTIONS} is judged by whole prompts")
        if self.owl and self.category in (*ATTRIBUTES, ACTIONS):
            raise UserError(f"owl: {self.category} is judged without a detector; leave it out")
        if self.depth and self.category not in (OF_LINE, IN_DEPTH):
            raise UserError(f"depth: {self.category} is judged without it; leave it out")

    @property
    def title(self) -> str:
        return TITLE if self.owl else ""

    def write_results(self, rows: Path, out: Path) -> None:
        from contrapose.evaluate.compbench.results import write_answers
        from contrapose.evaluate.rows import read_rows

        write_answers(read_rows(rows), self.category, out)

    def load(self, device: str) -> Judge:
        """Raises `UserError` when weights are missing or broken, or the file of phrases is none."""
        from contrapose.evaluate.compbench.blip import load_blip
        from contrapose.evaluate.compbench.depth import load_nearness
        from contrapose.evaluate.compbench.owl import load_owl
        from contrapose.judges.pretrained import fingerprint
        from contrapose.judges.towers import load_towers

        phrases = Phrases(self.phrases)
        blip = None
        towers = None
        owl = None
        nearness = None
        versions: list[str] = []
        if self.category in (OF_LINE, *ATTRIBUTES, *COMPLEX):
            blip = load_blip(NAME, self.blip, self.side, device)
            versions.append(blip.version)
        if self.category in (OF_LINE, ACTIONS, *COMPLEX):
            towers = load_towers(NAME, self.clip, self.clip, "fp32", device)
            versions.append(fingerprint(towers.network))
        if self.owl:
            owl = load_owl(NAME, self.owl, self.least_score, device)
            versions.append(owl.version)
        if self.depth:
            nearness = load_nearness(NAME, self.depth, device)
            versions.append(nearness.version)
        return CompBenchJudge(blip, towers, owl, nearness, phrases, self.category, digest_of_parts(versions))

    def check(self, prompts: Sequence[Prompt]) -> None:
        phrases = Phrases(self.phrases)
        for prompt in prompts:
            category = category_of(prompt, self.category)
            if category in BOXED and not self.owl:
                raise UserError(
                    f"prompt {prompt.text!r}: category {category!r} takes a detector; name one with --owl {OWL}, and "
                    "know that scores do not compare with those of others"
                )
            if category == IN_DEPTH and not self.depth:
                raise UserError(f"prompt {prompt.text!r}: category {category!r} takes depths; name --depth {DPT} too")
            if category == NUMERACY and not counts_of(phrases.of(prompt)):
                raise UserError(f"prompt {prompt.text!r}: counts nothing; give phrases such as 'two dogs' by --phrases")
            if category != ACTIONS:
                phrases.of(prompt)

    def inputs(self) -> dict[str, str]:
        return {} if self.phrases is None else {"phrases": digest_of(self.phrases)}
