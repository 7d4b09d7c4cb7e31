"""Text whose padding the network masks: cut off when it is kept, put back when the stock pipeline is called.

Rows are `text` [b, l, d] with the longest of the batch as l, and `length` [b]. Masks are built from lengths, so that a
network never reads what stands beyond them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from contrapose.core.group import Condition


def trimmed(text: Tensor, mask: Tensor) -> Condition:
    """Rows without the padding at their end; zeros stand where a shorter row of the batch has none."""
    length = mask.bool().sum(1).cpu()
    longest = int(length.max())
    kept = mask.bool()[:, :longest]
    return {"text": text[:, :longest] * kept[..., None].to(text.dtype), "length": length}


def mask_of(condition: Condition, like: Tensor) -> Tensor:
    """1 where a row has text and 0 beyond it, [b, l], on the device of `like`; nothing waits for the device."""
    positions = torch.arange(condition["text"].shape[1])
    return (positions[None] < condition["length"][:, None]).to(like.device, non_blocking=True)


def pipeline_arguments(condition: Condition, unconditional: Condition, scale: float, tokens: int) -> dict[str, Any]:
    """Keyword arguments for a stock pipeline with masks, at its own length of text and the very size asked for."""
    text, mask = _padded(condition, tokens)
    negative_text, negative_mask = (part.expand(len(text), *part.shape[1:]) for part in _padded(unconditional, tokens))
    return {
        "prompt_embeds": text,
        "prompt_attention_mask": mask,
        "negative_prompt": None,
        "negative_prompt_embeds": negative_text,
        "negative_prompt_attention_mask": negative_mask,
        "guidance_scale": scale,
        "use_resolution_binning": False,
    }


def _padded(condition: Condition, tokens: int) -> tuple[Tensor, Tensor]:
    text = condition["text"]
    mask = mask_of(condition, text).long()
    extra = tokens - text.shape[1]
    return nn.functional.pad(text, (0, 0, 0, extra)), nn.functional.pad(mask, (0, extra))
