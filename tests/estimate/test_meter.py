"""What is metered: the same whether an operation is run or known, and what is no operation's own is not counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contrapose.estimate import meter
from contrapose.estimate.memory import training_cost
from contrapose.estimate.meter import Meter


class NothingKnown(dict[Any, Any]):
    """Lets every operation run."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """What is known, at first nothing."""
    empty: dict[Any, Any] = {}
    monkeypatch.setattr(meter, "_records", empty)
    return empty


def test_what_is_known_costs_what_it_costs_when_it_runs(
    records: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3, stride=2, bias=False), nn.Flatten(1),
            nn.LayerNorm(8 * 36), nn.Linear(8 * 36, 16), nn.Dropout(0.5), nn.MultiheadAttention(16, 2),
        )  # fmt: skip
        images = torch.randn(3, 4, 16, 16)
    network[0].requires_grad_(False)

    def predict() -> Tensor:
        rows = network[:-1](images)[None]
        return network[-1](rows, rows, rows)[0]

    first, again = (training_cost(predict, network, None, False) for _ in range(2))  # type: ignore[arg-type]
    assert sum(value is not None for value in records.values()) > 20
    monkeypatch.setattr(meter, "_records", NothingKnown())
    assert first == again == training_cost(predict, network, None, False)  # type: ignore[arg-type]
    assert first.total > first.forward > 0


@pytest.mark.parametrize(
    ("make", "own"),
    [
        (lambda x: x.view(3, 4), 0),
        (lambda x: x.t()[1:], 0),
        (lambda x: x.add_(1.0), 0),
        (lambda x: x + 1.0, 48),
        (lambda x: x.t().clone(), 48),
        (lambda x: x.to(torch.bfloat16), 24),
        (lambda x: x.sum(), 4),
        (lambda x: torch.var_mean(x, 0)[0], 12),
        (lambda x: torch.split(x, 2)[1], 0),
        (lambda x: x.expand(2, 4, 3).contiguous(), 96),
    ],
)
def test_bytes_are_those_of_new_storages(records: dict[Any, Any], make: Callable[[Tensor], Tensor], own: int) -> None:
    x = torch.empty(4, 3, device="meta")
    shapes = []
    for _ in range(3):
        with Meter() as metered:
            result = make(x)
            assert metered.bytes == own
            assert (result.untyped_storage()._cdata == x.untyped_storage()._cdata) == (own == 0)
            shapes.append((result.shape, result.stride(), result.dtype))
            del result
            assert metered.bytes == 0 and metered.peak >= own
    assert len(set(shapes)) == 1


def test_numbers_of_other_types_are_other_arguments(records: dict[Any, Any]) -> None:
    x = torch.empty(4, dtype=torch.int64, device="meta")
    with Meter():
        assert [(x + number).dtype for number in (1, 1.0, 1, 1.0)] == [torch.int64, torch.float32] * 2
        assert [x.sum(0, keepdim=keeps).dim() for keeps in (True, False, True)] == [1, 0, 1]
