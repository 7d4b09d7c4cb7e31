"""CHATS' proxy prompt in each of the ways in which pipelines hand over texts, row by row against the formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contrapose.guiding.proxy import with_proxy
from contrapose.guiding.rows import Call

A = 0.5
NONE, GIVEN = slice(0, 1), slice(1, 2)
SAMPLES = torch.zeros(2, 1)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_texts_of_one_length_are_changed_and_nothing_else() -> None:
    text, pooled, added, ids = _random(2, 5, 3), _random(2, 3), _random(2, 4), _random(2, 6)
    named = {
        "encoder_hidden_states": text,
        "pooled_projections": pooled,
        "added_cond_kwargs": {"text_embeds": added, "time_ids": ids},
    }
    call = Call((SAMPLES, 3), named)
    changed = with_proxy(call, NONE, call, GIVEN, A).named
    found = changed["encoder_hidden_states"], changed["pooled_projections"], changed["added_cond_kwargs"]["text_embeds"]
    for now, before in zip(found, (text, pooled, added), strict=True):
        torch.testing.assert_close(now[0], 1.5 * before[0] - 0.5 * before[1])
        assert torch.equal(now[1], before[1])
    assert changed["added_cond_kwargs"]["time_ids"] is ids
    assert call.named["encoder_hidden_states"] is text, "the caller's are left alone"


@pytest.mark.parametrize("lengths", [(1, 4), (4, 1), (2, 5), (3, 3)])
def test_the_shorter_text_goes_on_with_its_end(lengths: tuple[int, int]) -> None:
    """Masked or cut off, it is the same, and what stands in padding is not read."""
    text = _random(2, 6, 3)
    mask = (torch.arange(6)[None] < torch.tensor(lengths)[:, None]).long()
    none, given = (row[:length] for row, length in zip(text, lengths, strict=True))
    longest = max(lengths)
    expected = torch.stack(
        [1.5 * none[min(i, len(none) - 1)] - 0.5 * given[min(i, len(given) - 1)] for i in range(longest)]
    )
    for padding in (0.0, torch.nan):
        padded = torch.where(mask[..., None] > 0, text, padding)
        call = Call((), {"hidden_states": SAMPLES, "encoder_hidden_states": padded, "encoder_attention_mask": mask})
        named = with_proxy(call, NONE, call, GIVEN, A).named
        assert named["encoder_attention_mask"].sum(1).tolist() == [longest, lengths[1]]
        torch.testing.assert_close(named["encoder_hidden_states"][0, :longest], expected)
        assert named["encoder_hidden_states"][1].equal(padded[1]) or padding != 0.0
    cut = Call((list(SAMPLES), SAMPLES[:, 0], [none, given]), {})
    found, kept = with_proxy(cut, NONE, cut, GIVEN, A).inputs[2]
    torch.testing.assert_close(found, expected)
    assert kept is given


def test_prompts_of_another_call() -> None:
    none, given = (Call((), {"hidden_states": SAMPLES, "pooled_projections": _random(2, 3) + i}) for i in range(2))
    rows = slice(0, 2)
    found = with_proxy(none, rows, given, rows, A).named["pooled_projections"]
    torch.testing.assert_close(found, 1.5 * _random(2, 3) - 0.5 * (_random(2, 3) + 1))


def test_a_proxy_of_zero_is_no_prompt() -> None:
    call = Call((list(SAMPLES), SAMPLES[:, 0], [_random(2, 3), _random(5, 3)]), {})
    assert with_proxy(call, NONE, call, GIVEN, 0.0) is call
