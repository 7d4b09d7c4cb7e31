"""What every judge is, and several judges as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from contrapose.contents import digest_of_parts
from contrapose.errors import UserError
from contrapose.store.prompts import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from contrapose.judges.probes import AskedModel

Decode = Callable[["Tensor"], Sequence[Image]]
"""Makes images of latents [b, ...]."""


@dataclass(frozen=True)
class Marks:
    """One metric of a batch: a number for each image, and why, from a judge that has reasons."""

    values: NDArray[np.float64]
    """Shape [b]."""
    reasons: Sequence[str | None] = ()
    """As many as values, or none at all."""
    seen: Sequence[str | None] = ()
    """What was seen in each image, as a JSON object; as many as values, or none at all."""

    def reason(self, index: int) -> str | None:
        """Why image `index` of the batch has its value; None where the judge does not say."""
        return self.reasons[index] if self.reasons else None


class Judge(Protocol):
    """Gives each image named numbers, which depend on the image and its prompt alone."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """A digest of all that the numbers come from, such as weights: those of different versions do not compare."""
        ...

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """The names of the numbers, the one that matters most first, and whether a larger one is better."""
        ...

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        """The numbers by name, an entry for each image; images are of any size and mode.

        Raises `UserError` for a prompt that lacks what the judge goes by, and for a number that is not finite.
        """
        ...


@runtime_checkable
class LatentJudge(Protocol):
    """A judge that looks at latents where they are there, and need not see what they look like."""

    def of_latents(self, latents: Tensor, prompts: Sequence[Prompt], decode: Decode) -> dict[str, Marks]:
        """The same numbers as of the images that `decode` makes of these latents [b, ...]."""
        ...


@runtime_checkable
class AsksServer(Protocol):
    """A judge whose numbers come from a server, which answers many requests at once."""

    @property
    def at_once(self) -> int:
        """Images that it has to be given together for as many requests to be under way as may be."""
        ...


def images_at_once(judge: Judge, usual: int) -> int:
    """How many images a judge is given together: so many, or more where its server answers more at once."""
    return max(usual, judge.at_once) if isinstance(judge, AsksServer) else usual


def in_batches(decode: Decode, num: int) -> Decode:
    """The same images, of which so many are decoded at once."""

    def decoded(latents: Tensor) -> list[Image]:
        images: list[Image] = []
        for batch in latents.split(num):
            images += decode(batch)
        return images

    return decoded


class JudgeSettings(Protocol):
    """The settings of a judge, as they stand in a file."""

    def load(self, device: str) -> Judge:
        """The judge itself; raises `UserError` when the weights that it needs are missing or broken."""
        ...


@runtime_checkable
class LatentJudgeSettings(JudgeSettings, Protocol):
    """The settings of a judge that may look at latents."""

    def load_for(self, device: str, model: str, fingerprint: str) -> Judge:
        """The judge of what a model of this fingerprint draws, which it is itself where none is named.

        Raises `UserError` where no model is known, and when weights are missing or broken.
        """
        ...


@runtime_checkable
class PolicyJudgeSettings(Protocol):
    """The settings of a judge that a policy in training may be itself."""

    def of_policy(self, asked: AskedModel, policy: str) -> Judge | None:
        """The judge that a policy is which is in memory already; None where another model is named."""
        ...


def judge_of(settings: JudgeSettings, device: str, model: str, fingerprint: str) -> Judge:
    """The judge of what a model of this fingerprint draws."""
    if isinstance(settings, LatentJudgeSettings):
        return settings.load_for(device, model, fingerprint)
    return settings.load(device)


class Jury:
    """Several judges as one, which says what each of them says.

    Raises `UserError` where two judges give numbers of one name.
    """

    name = "jury"

    def __init__(self, judges: Sequence[Judge]) -> None:
        self.judges = tuple(judges)
        self.version = digest_of_parts(f"{judge.name} {judge.version}" for judge in judges)
        self.higher_is_better: dict[str, bool] = {}
        for judge in judges:
            for metric, is_better in judge.higher_is_better.items():
                if metric in self.higher_is_better:
                    raise UserError(f"judges: two of them give {metric}; name each judge once")
                self.higher_is_better[metric] = is_better

    @property
    def at_once(self) -> int:
        """What the one wants that asks most at once; 0 where none asks a server."""
        return max((images_at_once(judge, 0) for judge in self.judges), default=0)

    def __call__(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> dict[str, Marks]:
        marks: dict[str, Marks] = {}
        for judge in self.judges:
            marks |= judge(images, prompts)
        return marks

    def of_latents(self, latents: Tensor, prompts: Sequence[Prompt], decode: Decode) -> dict[str, Marks]:
        """What they say of latents, which are decoded once, and only where one of them looks at images."""

        @cache
        def images() -> Sequence[Image]:
            return decode(latents)

        marks: dict[str, Marks] = {}
        for judge in self.judges:
            marks |= marks_of(judge, latents, prompts, lambda _: images())
        return marks


def marks_of(judge: Judge, latents: Tensor, prompts: Sequence[Prompt], decode: Decode) -> dict[str, Marks]:
    """What a judge says of latents [b, ...]: of themselves, or else of the images that they are decoded to."""
    if isinstance(judge, LatentJudge):
        return judge.of_latents(latents, prompts, decode)
    return judge(decode(latents), prompts)


def score(judge: Judge, images: Sequence[Image], prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    """The one number that a judge of scores gives each image, which it gives under its own name."""
    return judge(images, prompts)[judge.name].values
