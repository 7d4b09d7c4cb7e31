"""Buckets of gradients: what they sum, when they are sent, and what they leave without a gradient.

The other process is one whose gradients are the same, or none at all; real ones are in tests/journeys.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from contrapose.processes import shared_out
from contrapose.train import reduction
from contrapose.train.reduction import Buckets

NUMBERS = 8 * 8  # of a layer


class Sent:
    """What was sent to the other process, and which parameters had neither a gradient nor been sent at that time."""

    def __init__(self, network: nn.Module, monkeypatch: pytest.MonkeyPatch, is_alike: bool = True):
        self.network = network
        self.numbers: list[int] = []
        self.lacking: list[list[str]] = []
        self.is_alike = is_alike
        monkeypatch.setattr(torch.distributed, "all_reduce", self._all_reduce)
        monkeypatch.setattr(reduction, "broadcast_object_list", lambda objects: objects)

    def _all_reduce(self, tensor: Tensor, async_op: bool) -> SimpleNamespace:
        assert async_op, "the backward pass goes on meanwhile"
        self.numbers.append(tensor.numel())
        self.lacking.append([name for name, p in self.network.named_parameters() if p.grad is None])

        def arrive() -> None:
            if self.is_alike:
                tensor.mul_(2)

        return SimpleNamespace(wait=arrive)


class Network(nn.Module):
    """Three layers that are used, the last one registered first, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in ("third", "first", "unused", "second"):
            self.register_module(name, nn.Linear(8, 8, bias=False))

    def forward(self, x: Tensor, checkpointed: bool = False) -> Tensor:
        for name in ("first", "second", "third"):
            layer = self.get_submodule(name)
            x = checkpoint(layer, x, use_reentrant=False).tanh() if checkpointed else layer(x).tanh()
        return x


def step(network: Network, buckets: Buckets, checkpointed: bool = False) -> dict[str, Tensor | None]:
    """The gradients of two micro-batches of two parts each."""
    network.zero_grad()
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    for is_last in (False, False, False, True):
        buckets.before_backward(is_last)
        network(x, checkpointed).square().mean().backward()
    buckets.finish()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_bucket_is_sent_once_its_gradients_are_complete(monkeypatch: pytest.MonkeyPatch, checkpointed: bool) -> None:
    """Not before its last part; what is unused comes last."""
    network = Network()
    sent = Sent(network, monkeypatch)
    buckets = Buckets(list(network.parameters()), bucket_bytes=4 * NUMBERS)
    for _ in range(3):
        gradients = step(network, buckets, checkpointed)
    assert sent.numbers == [NUMBERS + 1] * 4 * 3, "each gradient once a step, and of how many processes it is"
    first = [["unused.weight"]] * 3 + [[]]
    assert sent.lacking == first * 3, "the first micro-batches have left gradients for all"
    monkeypatch.undo()
    alone = step(Network(), SimpleNamespace(before_backward=lambda is_last: None, finish=lambda: None))
    for name in ("first.weight", "second.weight", "third.weight"):
        assert torch.equal(gradients[name], 2 * alone[name])


def test_buckets_are_on_their_way_before_the_pass_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one micro-batch, gradients that are still to come show how early the first ones went."""
    network = Network()
    sent = Sent(network, monkeypatch)
    buckets = Buckets(list(network.parameters()), bucket_bytes=4 * NUMBERS)
    x = torch.randn(3, 8)
    for _ in range(2):
        network.zero_grad()
        buckets.before_backward(is_last=True)
        network(x).square().mean().backward()
        buckets.finish()
    assert sent.lacking[:4] == [["unused.weight"]] * 3 + [[]], "the first step finds the order"
    later = [["first.weight", "unused.weight", "second.weight"], ["first.weight", "unused.weight"], ["unused.weight"]]
    assert sent.lacking[4:] == [*later, []]


@pytest.mark.parametrize("size", [4 * NUMBERS, 2**20])
@pytest.mark.parametrize("is_alike", [True, False])
def test_what_has_no_gradient_anywhere_keeps_none(monkeypatch: pytest.MonkeyPatch, size: int, is_alike: bool) -> None:
    network = Network()
    sent = Sent(network, monkeypatch, is_alike)
    buckets = Buckets(list(network.parameters()), size)
    for _ in range(2):
        gradients = step(network, buckets)
        assert [name for name, gradient in gradients.items() if gradient is None] == ["unused.weight"]
    assert len(sent.numbers) == (8 if size == 4 * NUMBERS else 2)


def test_what_has_a_gradient_in_another_process_alone_gets_that(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    Sent(network, monkeypatch)

    def all_reduce(tensor: Tensor, async_op: bool) -> SimpleNamespace:
        return SimpleNamespace(wait=lambda: tensor.add_(1))  # which has ones, of every parameter

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    gradients = step(network, Buckets(list(network.parameters())))
    assert torch.equal(gradients["unused.weight"], torch.ones(8, 8))


def test_gradients_are_ordered_in_memory_as_their_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """As optimisers that take many at once expect."""
    layer = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    Sent(layer, monkeypatch)
    buckets = Buckets(list(layer.parameters()))
    buckets.before_backward(is_last=True)
    layer(torch.randn(1, 4, 8, 8)).square().mean().backward()
    expected = 2 * layer.weight.grad
    buckets.finish()
    assert layer.weight.grad.stride() == layer.weight.stride()
    assert torch.equal(layer.weight.grad, expected)


def test_all_processes_get_as_many() -> None:
    assert [shared_out("abcde", number, 3) for number in range(3)] == [
        [("a", True), ("d", True)],
        [("b", True), ("e", True)],
        [("c", True), ("e", False)],
    ]
    assert shared_out("ab", 0, 1) == [("a", True), ("b", True)]
