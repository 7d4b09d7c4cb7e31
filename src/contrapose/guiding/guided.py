"""A pipeline under all the guidance that the sampler's settings ask for, and the check of these settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from typing import Any

from contrapose.backbones.base import Backbone
from contrapose.backbones.embeddings import Embeddings
from contrapose.core.group import Condition
from contrapose.core.guidance import NAG, PGD
from contrapose.errors import UserError
from contrapose.guiding.guide import guide
from contrapose.guiding.nag import attention_guided
from contrapose.guiding.settings import Guiding, Sampling


def settled(settings: Sampling, backbone: Backbone) -> Sampling:
    """The settings with the usual values of the model and of NAG where a setting is unset.

    Raises `UserError` for settings that have no effect on this model, and for settings out of range.
    """
    settings = backbone.sampler.with_usual(settings)
    guiding = settings.guiding
    scale = settings.guidance_scale
    assert scale is not None, "filled in by `with_usual`"
    nag = _attention(guiding)
    calls_twice = backbone.family.unconditional_rows == "none"
    if guiding.guidance.by_row and guiding.by_runs:
        if calls_twice:
            raise UserError("this guidance needs true_cfg_scale on this model: use contrapose.guide in Python")
        if scale <= 1:
            raise UserError("this guidance works on rows with and without a prompt: set --guidance-scale above 1")
    if not guiding.by_runs and guiding.guidance != PGD():
        raise UserError("scale, schedule, interval and rescale guide by a run: name one with --positive")
    if guiding.negative_prompt is not None and nag is None and (calls_twice or scale <= 1):
        fix = "--nag-scale" if calls_twice else "--guidance-scale above 1, or --nag-scale"
        raise UserError(f"negative_prompt: nothing reads it; set {fix}")
    if nag is None:
        return settings
    filled = {f"nag_{name}": value for name, value in vars(nag).items()}
    return replace(settings, guiding=replace(guiding, **filled))


def _attention(guiding: Guiding) -> NAG | None:
    """The attention guidance of the settings, with NAG's defaults where one is unset; None without a `nag_scale`."""
    chosen: dict[str, Any] = {}
    for field in fields(NAG):
        name = f"nag_{field.name}"
        if getattr(guiding, name) is not None:
            chosen[field.name] = getattr(guiding, name)
    if guiding.nag_scale is None:
        if chosen:
            raise UserError(f"nag_{next(iter(chosen))}: does nothing by itself; set --nag-scale too")
        return None
    return NAG(**chosen)


@contextmanager
def guided(guiding: Guiding, backbone: Backbone, embeddings: Embeddings) -> Iterator[None]:
    """The backbone's pipeline under the guidance of these settings, which `settled` has filled in."""
    runs: Any = nullcontext()
    if guiding.by_runs:
        runs = guide(backbone.sampler.stock, guiding.positive, guiding.negative, guiding.guidance)
    with runs:
        nag = _attention(guiding)
        if nag is None or nag.off:
            yield
            return
        prompt = guiding.negative_prompt
        negative = embeddings([prompt]) if prompt else unprompted(guiding, backbone, embeddings)
        with attention_guided(backbone.denoiser.network, backbone.family, negative, nag):
            yield


def unprompted(guiding: Guiding, backbone: Backbone, embeddings: Embeddings) -> Condition:
    """The text of the unconditional rows, one row: the negative prompt as the stock pipeline reads it, or no prompt."""
    if guiding.negative_prompt is not None:
        return backbone.text.unconditional(guiding.negative_prompt)
    return embeddings.unconditional()
