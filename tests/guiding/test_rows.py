"""Rows of a denoiser's call, in each of the ways in which pipelines hand over their batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from contrapose.guiding.rows import Call, like, prediction_of, stacked

FIRST, SECOND, ALL = slice(0, 1), slice(1, 2), slice(0, 2)


@dataclass
class Output:
    sample: Any


def _batch(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size((2, *shape)).numel())).reshape(2, *shape)


def test_everything_with_a_batch_is_chosen() -> None:
    named = {
        "encoder_hidden_states": _batch(5, 3),
        "added_cond_kwargs": {"text_embeds": _batch(3), "resolution": None},
        "down_block_additional_residuals": (_batch(1, 2, 2), _batch(2, 1, 1)),
        "return_dict": False,
    }
    call = Call((_batch(1, 2, 2), torch.tensor(7)), named)
    inputs, chosen = call.of([SECOND, ALL])
    order = [1, 0, 1]
    assert torch.equal(inputs[0], _batch(1, 2, 2)[order])
    assert inputs[1] is call.inputs[1], "one time for all rows"
    assert torch.equal(chosen["encoder_hidden_states"], _batch(5, 3)[order])
    assert torch.equal(chosen["added_cond_kwargs"]["text_embeds"], _batch(3)[order])
    assert chosen["added_cond_kwargs"]["resolution"] is None
    assert isinstance(chosen["down_block_additional_residuals"], tuple)
    assert torch.equal(chosen["down_block_additional_residuals"][1], _batch(2, 1, 1)[order])
    assert chosen["return_dict"] is False


def test_lists_with_an_entry_a_row() -> None:
    texts = [torch.zeros(3, 4), torch.ones(7, 4)]
    call = Call((list(_batch(1, 1, 2)), torch.tensor([0.1, 0.1]), texts), {})
    (samples, times, chosen), _ = call.of([SECOND, FIRST])
    assert torch.equal(torch.stack(samples), _batch(1, 1, 2)[[1, 0]])
    assert times.shape == (2,)
    assert [len(text) for text in chosen] == [7, 3]


def test_ids_without_a_batch_are_left_whole() -> None:
    """Even where there are as many of them as rows."""
    named = {"hidden_states": _batch(4, 3), "img_ids": _batch(3), "txt_ids": _batch(3), "guidance": torch.ones(2)}
    _, chosen = Call((), {**named, "timestep": torch.ones(2)}, ("img_ids", "txt_ids")).of([ALL, ALL])
    assert chosen["img_ids"] is named["img_ids"]
    assert chosen["txt_ids"] is named["txt_ids"]
    assert len(chosen["hidden_states"]) == len(chosen["guidance"]) == 4


def test_all_rows_once_is_the_call_itself() -> None:
    call = Call((_batch(1), 3), {"encoder_hidden_states": _batch(2)})
    inputs, named = call.of([ALL])
    assert inputs is call.inputs
    assert named is call.named


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ((_batch(1), torch.tensor([7, 7])), {}),
        ((_batch(1), 7), {}),
        ((_batch(1),), {"timestep": torch.tensor(7)}),
        ((), {"hidden_states": _batch(1), "timestep": torch.tensor([7.0, 7.0])}),
        ((), {"x": list(_batch(1)), "t": torch.tensor([7.0, 7.0])}),
    ],
    ids=["second", "number", "named", "all named", "listed"],
)
def test_the_time(inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
    call = Call(inputs, named)
    assert call.time == 7.0
    assert call.rows == 2
    assert call.device == torch.device("cpu")


def test_the_same_samples_twice() -> None:
    twice = torch.cat([_batch(3), _batch(3)])
    halves, thirds = (slice(0, 2), slice(2, 4)), (slice(0, 1), slice(1, 4))
    assert Call((twice, 1), {}).alike(*halves)
    assert Call((list(twice), 1), {}).alike(*halves)
    assert not Call((twice, 1), {}).alike(*thirds)
    assert not Call((_batch(3), 1), {}).alike(FIRST, SECOND)


@pytest.mark.parametrize(
    "answer",
    [(_batch(3), "more"), Output(_batch(3)), (list(_batch(3)), "more"), Output(list(_batch(3)))],
    ids=["tuple", "output", "tuple of a list", "output of a list"],
)
def test_an_answer_in_the_form_that_it_had(answer: Any) -> None:
    rows = stacked(prediction_of(answer)) + 1
    changed = like(answer, [rows[FIRST], rows[SECOND]])
    assert type(changed) is type(answer)
    assert type(prediction_of(changed)) is type(prediction_of(answer))
    assert torch.equal(stacked(prediction_of(changed)), _batch(3) + 1)
    if isinstance(answer, tuple):
        assert changed[1] == "more"
