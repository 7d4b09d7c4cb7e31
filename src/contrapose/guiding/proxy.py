"""CHATS' proxy prompt, whatever form the pipeline gives its texts.

    proxy = (1 + a) emb(null) - a emb(c)

Token rows are combined position by position, as the paper does with CLIP's 77. Where padding is masked or cut off, the
shorter text is extended by repeating its last row, as CLIP pads with its end token: the proxy then does not depend on
the contents of padding, and no token row of the prompt stands without a counterpart.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from contrapose.guiding.rows import Call

_TEXTS = ("encoder_hidden_states", "pooled_projections", "text_embeds")
_MASKS = ("encoder_attention_mask", "encoder_hidden_states_mask")


def with_proxy(call: Call, bare: slice, other: Call, prompted: slice, proxy: float) -> Call:
    """The call with the proxy in place of the texts of its rows `bare`; rows `prompted` of `other` hold the prompts.

    `other` is the call itself where the pipeline passes both halves of CFG at once. A proxy of 0 changes nothing.
    """
    if not proxy:
        return call
    if isinstance(call.sample, list):  # the texts are the last input, an entry a row
        texts = _listed(call.inputs[2], bare, other.inputs[2], prompted, proxy)
        return Call((*call.inputs[:2], texts), call.named, call.rowless)
    mask = next((name for name in _MASKS if name in call.named), None)
    if mask is not None:
        masked = _masked(mask, call.named, bare, other.named, prompted, proxy)
        return Call(call.inputs, call.named | masked, call.rowless)
    return Call(call.inputs, _unmasked(call.named, bare, other.named, prompted, proxy), call.rowless)


def _mixed(null: Tensor, prompt: Tensor, proxy: float) -> Tensor:
    """(1 + a) emb(null) - a emb(c)."""
    return (1 + proxy) * null - proxy * prompt


def _unmasked(
    named: dict[str, Any], bare: slice, other: dict[str, Any], prompted: slice, proxy: float
) -> dict[str, Any]:
    """Arguments with texts of one length, pooled embeddings included: there the proxy has nothing to extend."""
    changed = dict(named)
    for name, value in named.items():
        if isinstance(value, dict):  # a pooled text may be among a network's added conditions
            changed[name] = _unmasked(value, bare, other[name], prompted, proxy)
        elif name in _TEXTS:
            changed[name] = value.clone()
            changed[name][bare] = _mixed(value[bare], other[name][prompted], proxy)
    return changed


def _masked(
    name: str, named: dict[str, Any], bare: slice, other: dict[str, Any], prompted: slice, proxy: float
) -> dict[str, Any]:
    """Texts [b, l, d] and their mask [b, l], 1 where there is text; the proxy is as long as the longer text.

    In calls of their own, texts with and without a prompt may be of two lengths.
    """
    length = max(call["encoder_hidden_states"].shape[1] for call in (named, other))
    text, mask = _filled(named["encoder_hidden_states"], named[name], length)
    prompt, prompt_mask = _filled(other["encoder_hidden_states"], other[name], length)
    proxied = _mixed(_continued(text[bare], mask[bare]), _continued(prompt[prompted], prompt_mask[prompted]), proxy)
    text[bare] = proxied
    mask[bare] = torch.maximum(mask[bare], prompt_mask[prompted])
    return {"encoder_hidden_states": text, name: mask}


def _filled(text: Tensor, mask: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
    """A copy of texts [b, l, d] and their mask, all text where there is none, with padding up to this length."""
    if mask is None:
        mask = torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
    extra = length - text.shape[1]
    return functional.pad(text, (0, 0, 0, extra)).clone(), functional.pad(mask, (0, extra)).clone()


def _continued(text: Tensor, mask: Tensor) -> Tensor:
    """Each text [b, l, d] with its last row repeated from where its mask [b, l] ends."""
    places = torch.arange(text.shape[1], device=text.device)[None]
    last = (mask != 0).sum(1, keepdim=True) - 1
    # place i reads row min(i, last)
    return text.gather(1, torch.minimum(places, last)[..., None].expand_as(text))


def _listed(texts: list[Tensor], bare: slice, prompts: list[Tensor], prompted: slice, proxy: float) -> list[Tensor]:
    """Texts [l, d] of any length each, with the proxy in place of those of rows `bare`."""
    changed = list(texts)
    proxies: list[Tensor] = []
    for null, prompt in zip(texts[bare], prompts[prompted], strict=True):
        length = max(len(null), len(prompt))
        proxies.append(_mixed(_extended(null, length), _extended(prompt, length), proxy))
    changed[bare] = proxies
    return changed


def _extended(text: Tensor, length: int) -> Tensor:
    """A text [l, d] with its last row repeated up to this length."""
    return torch.cat([text, text[-1:].expand(length - len(text), -1)])
