"""The suite "compbench": T2I-CompBench's attributes and actions (Huang et al. 2023, Karine-Huang/T2I-CompBench)."""

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
from contrapose.judges.judge import Judge, Marks
from contrapose.ranges import Pixels, checked
from contrapose.store.prompts import Prompt

if TYPE_CHECKING:
    from contrapose.evaluate.compbench.blip import BlipVQA
    from contrapose.judges.towers import Towers

ATTRIBUTES = ("color", "shape", "texture")
ACTIONS = "non_spatial"
OF_LINE: Final = "tag"
Category = Literal["tag", "color", "shape", "texture", "non_spatial"]


@dataclass(frozen=True)
class CompBenchJudge:
    """`compbench`, 0 to 1, by the rule of the prompt's category, and of attributes why it is low.

    color, shape, texture   prod over noun phrases of P(yes) / (P(yes) + P(no)), asked "{phrase}?" (BLIP-VQA)
    non_spatial             cos(image, prompt) by CLIP
    """

    blip: BlipVQA | None
    """None where actions alone are judged."""
    towers: Towers | None
    """None where attributes alone are judged."""
    phrases: Phrases
    category: str
    version: str

    name: ClassVar[str] = "compbench"
    higher_is_better: ClassVar[dict[str, bool]] = {"compbench": True}

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        """Raises `UserError` for a prompt of no category that is judged, and for one without noun phrases."""
        values: list[float] = []
        reasons: list[str | None] = []
        for image, prompt in zip(images, prompts, strict=True):
            if category_of(prompt, self.category) == ACTIONS:
                values.append(self._cosine(image, prompt.text))
                reasons.append(None)
                continue
            chances = self._chances(image, self.phrases.of(prompt))
            values.append(float(np.prod(list(chances.values()))))
            doubted = [f"{phrase}: {chance:.2f}" for phrase, chance in chances.items() if chance <= 0.5]
            reasons.append("\n".join(doubted) or None)
        return {self.name: Marks(np.array(values, dtype=np.float64), reasons)}

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
    category = (prompt.tag or "").removesuffix("_val") if setting == OF_LINE else setting
    if category not in (*ATTRIBUTES, ACTIONS):
        named = f"category {category!r} is not judged" if category else "its line names no category"
        raise UserError(
            f"prompt {prompt.text!r}: {named}; name one of {', '.join((*ATTRIBUTES, ACTIONS))} with --category, or as "
            "`tag` in its line"
        )
    return category


@dataclass(frozen=True)
@checked
class CompBench:
    """The suite "compbench": is each thing that the prompt names there, with its colour, shape or texture?

    Differs from the authors' code: noun phrases are split by rule unless a file gives spaCy's, BLIP's positions are
    interpolated from 384 to 480 pixels, and answers are not rounded to four digits.
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

    bounds: ClassVar[None] = None
    counted: ClassVar[str] = ""

    def load(self, device: str) -> Judge:
        """Raises `UserError` when weights are missing or broken, or the file of phrases is none."""
        from contrapose.evaluate.compbench.blip import load_blip
        from contrapose.judges.pretrained import fingerprint
        from contrapose.judges.towers import load_towers

        phrases = Phrases(self.phrases)
        blip = None
        towers = None
        versions: list[str] = []
        if self.category != ACTIONS:
            blip = load_blip("compbench", self.blip, self.side, device)
            versions.append(blip.version)
        if self.category not in ATTRIBUTES:
            towers = load_towers("compbench", self.clip, self.clip, "fp32", device)
            versions.append(fingerprint(towers.network))
        return CompBenchJudge(blip, towers, phrases, self.category, digest_of_parts(versions))

    def check(self, prompts: Sequence[Prompt]) -> None:
        phrases = Phrases(self.phrases)
        for prompt in prompts:
            if category_of(prompt, self.category) != ACTIONS:
                phrases.of(prompt)

    def inputs(self) -> dict[str, str]:
        return {} if self.phrases is None else {"phrases": digest_of(self.phrases)}
