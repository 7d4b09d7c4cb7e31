"""CHATS' proxy prompt: (1 + a) emb(null) - a emb(c), in whichever way a pipeline hands over its texts.

Rows of text are taken together by their place, as the paper does with CLIP's 77. Where padding is masked or cut off,
the shorter text goes on with its last row as far as the longer one goes, which is how CLIP fills up a text: with its
end. So nothing depends on what stands in padding, and no row has a prompt without its counterweight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contrapose.guiding.rows import Call

_TEXTS = ("encoder_hidden_states", "pooled_projections", "text_embeds")
_MASK = "encoder_attention_mask"


def with_proxy(call: Call, none: slice, other: Call, given: slice, proxy: float) -> Call:
    """The call with the proxy in place of the texts of its rows `none`, the prompts being rows `given` of `other`.

    A proxy of 0 leaves the call as it is.
    """
    if not proxy:
        return call
    if isinstance(call.sample, list):  # the texts are the last input, an entry a row
        texts = _listed(call.inputs[2], none, other.inputs[2], given, proxy)
        return Call((*call.inputs[:2], texts), call.named, call.rowless)
    if _MASK in call.named:
        return Call(call.inputs, call.named | _masked(call.named, none, other.named, given, proxy), call.rowless)
    return Call(call.inputs, _changed(call.named, none, other.named, given, proxy), call.rowless)


def _mixed(null: Tensor, prompt: Tensor, proxy: float) -> Tensor:
    return (1 + proxy) * null - proxy * prompt


def _changed(named: dict[str, Any], none: slice, other: dict[str, Any], given: slice, proxy: float) -> dict[str, Any]:
    """Texts of one length, pooled ones too."""
    found = dict(named)
    for name, value in named.items():
        if isinstance(value, dict):
            found[name] = _changed(value, none, other[name], given, proxy)
        elif name in _TEXTS:
            found[name] = value.clone()
            found[name][none] = _mixed(value[none], other[name][given], proxy)
    return found


def _masked(named: dict[str, Any], none: slice, other: dict[str, Any], given: slice, proxy: float) -> dict[str, Any]:
    """Texts with a mask, 1 where there is text."""
    text, mask = named["encoder_hidden_states"].clone(), named[_MASK].clone()
    prompt, there = other["encoder_hidden_states"][given], other[_MASK][given]
    text[none] = _mixed(_continued(text[none], mask[none]), _continued(prompt, there), proxy)
    mask[none] = torch.maximum(mask[none], there)
    return {"encoder_hidden_states": text, _MASK: mask}


def _continued(text: Tensor, mask: Tensor) -> Tensor:
    """Each text [b, l, d] going on with its last row where the mask [b, l] ends it."""
    places = torch.arange(text.shape[1], device=text.device)[None]
    last = (mask != 0).sum(1, keepdim=True) - 1
    return text.gather(1, torch.minimum(places, last)[..., None].expand_as(text))


def _listed(texts: list[Tensor], none: slice, prompts: list[Tensor], given: slice, proxy: float) -> list[Tensor]:
    found = list(texts)
    found[none] = [
        _mixed(*(_longer(text, max(len(null), len(prompt))) for text in (null, prompt)), proxy)
        for null, prompt in zip(texts[none], prompts[given], strict=True)
    ]
    return found


def _longer(text: Tensor, length: int) -> Tensor:
    return torch.cat([text, text[-1:].expand(length - len(text), -1)])
