"""Guards around methods: losses stay, gradients change, and labels say who the loser is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from evaluated import evaluate, gradient_of
from formulas import BETA, B

from contrapose.core.guards import SDPO, Cooling, Unguarded
from contrapose.methods import METHODS, DiffusionDPO, Method

GUARDED: list[Method] = [
    cls(beta=BETA, guard=guard)
    for cls in METHODS.values()
    if "guard" in cls.__dataclass_fields__
    for guard in (SDPO(0.6), Cooling(0.5))
]


@pytest.mark.parametrize("method", GUARDED, ids=repr)
def test_a_guard_leaves_losses_and_changes_gradients(method: Method) -> None:
    """Of these pairs some are guarded, or this would prove nothing."""
    guarded, _ = evaluate(method)
    plain, _ = evaluate(replace(method, guard=Unguarded()))
    assert torch.equal(guarded.loss, plain.loss)
    kept = method.guard(guarded.measured)
    assert kept[:, 0].tolist() == [1.0] * B
    assert 0 < kept[:, 1].min() < 1
    assert gradient_of([guarded.loss]) != pytest.approx(gradient_of([plain.loss]), rel=1e-6)


@pytest.mark.parametrize("guard", [SDPO(0.6), Cooling(0.5)])
def test_a_guard_knows_the_loser_by_its_label(guard: SDPO | Cooling) -> None:
    """Sides that change places with their labels are guarded alike; of a tie each is guarded half."""
    numbers, _ = evaluate(DiffusionDPO(beta=BETA))
    measured = numbers.measured
    swapped = replace(measured, rewards=measured.rewards.flip(1), T=measured.T.flip(1), labels=measured.labels.flip(1),
                      overlap=measured.overlap.flip(1, 2))  # fmt: skip
    assert torch.equal(guard(swapped), guard(measured).flip(1))
    other_way = replace(measured, labels=measured.labels.flip(1))
    tied = replace(measured, labels=torch.full_like(measured.labels, 0.5))
    torch.testing.assert_close(guard(tied), (guard(measured) + guard(other_way)) / 2)
