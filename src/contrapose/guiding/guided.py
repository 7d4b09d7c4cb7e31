"""A pipeline under all the guidance that the sampler's settings ask for, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from contrapose.backbones.base import Backbone
from contrapose.backbones.embeddings import Embeddings
from contrapose.core.group import Condition
from contrapose.core.guidance import NAG, PGD, AnyGuidance, AttentionLimit, AttentionScale, FreeScale
from contrapose.errors import UserError
from contrapose.guiding.guide import guide
from contrapose.guiding.nag import attention_guided
from contrapose.ranges import Share, checked

S = TypeVar("S", bound="Guiding")


@dataclass(frozen=True, kw_only=True)
@checked
class Guiding:
    """What leads the sampler beside its prompt; whatever samples images inherits these."""

    positive: Path | None = None
    """An aligned run that guides the sampler towards what it predicts."""
    negative: Path | None = None
    """An aligned run that guides the sampler away from what it predicts."""
    guidance: AnyGuidance = field(default_factory=PGD)
    """How the runs guide: pgd, cpgd, npo or chats, with strength, schedule and interval."""
    guidance_scale: FreeScale | None = None
    """Guidance scale, 1 is off; what is usual for the model when unset."""
    negative_prompt: str | None = None
    """What is not wanted: read in place of no prompt by the guidance scale, and by --nag-scale. "" is an empty text,
    which SDXL's pipeline reads and tells from no prompt."""
    nag_scale: AttentionScale | None = None
    """Strength of attention guidance (NAG) away from the negative prompt, or from none; 1, or unset, is off."""
    nag_tau: AttentionLimit | None = None
    """How many times longer than the prompt's the guided attention may be; 2.5 when unset."""
    nag_alpha: Share | None = None
    """Share of the guided attention, 0 to 1; 0.25 when unset."""


def settled(settings: S, backbone: Backbone) -> S:
    """The settings with everything spelled out that is left to the model or to NAG.

    Raises `UserError` for settings that do nothing here, and for those out of range.
    """
    settings = backbone.with_usual(settings)
    nag = _attention(settings)
    calls_twice = backbone.unconditional_rows == "none"
    if settings.guidance.by_row and (settings.positive or settings.negative):
        if calls_twice:
            raise UserError("this guidance needs true_cfg_scale on this model: use contrapose.guide in Python")
        if settings.guidance_scale <= 1:
            raise UserError("this guidance works on rows with and without a prompt: set --guidance-scale above 1")
    if not (settings.positive or settings.negative) and settings.guidance != PGD():
        raise UserError("scale, schedule, interval and rescale guide by a run: name one with --positive")
    if settings.negative_prompt is not None and nag is None and (calls_twice or settings.guidance_scale <= 1):
        mend = "--nag-scale" if calls_twice else "--guidance-scale above 1, or --nag-scale"
        raise UserError(f"negative_prompt: nothing reads it; set {mend}")
    return settings if nag is None else replace(settings, nag_scale=nag.scale, nag_tau=nag.tau, nag_alpha=nag.alpha)


def _attention(settings: Guiding) -> NAG | None:
    own = {"scale": settings.nag_scale, "tau": settings.nag_tau, "alpha": settings.nag_alpha}
    given = {name: value for name, value in own.items() if value is not None}
    if settings.nag_scale is None:
        if given:
            raise UserError(f"nag_{next(iter(given))}: does nothing by itself; set --nag-scale too")
        return None
    return NAG(**given)


@contextmanager
def guided(settings: Guiding, backbone: Backbone, embeddings: Embeddings) -> Iterator[None]:
    """The backbone's pipeline under the guidance of settings that are `settled`."""
    runs: Any = nullcontext()
    if settings.positive or settings.negative:
        runs = guide(backbone.pipe, settings.positive, settings.negative, settings.guidance)
    with runs:
        nag = _attention(settings)
        if nag is None or nag.off:
            yield
            return
        prompt = settings.negative_prompt
        negative = embeddings([prompt]) if prompt else unprompted(settings, backbone, embeddings)
        with attention_guided(backbone.network, type(backbone), negative, nag):
            yield


def unprompted(settings: Guiding, backbone: Backbone, embeddings: Embeddings) -> Condition:
    """What rows without the prompt read, one row: the negative prompt as the stock pipeline reads it, or none."""
    if settings.negative_prompt is not None:
        return backbone.unconditional(settings.negative_prompt)
    return embeddings.unconditional()
