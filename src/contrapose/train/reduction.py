"""How the gradients of several processes become those of all: summed in buckets while the backward pass goes on.

The loop tells what is before it, and does not know which way its gradients go: each process that makes as many backward
passes as the others may hold the whole model, as here, or a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from contrapose.tensors import is_cut

BUCKET_BYTES = 25 * 2**20
"""Of gradients that go together; as in torch's `DistributedDataParallel`."""


class Reduction(Protocol):
    """Makes the gradients of an optimiser step those of all processes, which make as many backward passes each."""

    def before_backward(self, is_last: bool) -> None:
        """A backward pass begins; with `is_last`, what gets a gradient in it gets no further one in this step."""

    def finish(self) -> None:
        """Let every gradient be the sum over all processes; a parameter that has none in any process keeps none."""


class NothingToSum:
    """The reduction of a process alone, and of networks in shards, whose backward passes sum gradients themselves."""

    def before_backward(self, is_last: bool) -> None:
        pass

    def finish(self) -> None:
        pass


def reduction_of(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> Reduction:
    """The reduction for processes that hold the whole model each, or a share of it."""
    if accelerator.num_processes == 1 or is_cut(parameters[0]):
        return NothingToSum()
    return Buckets(parameters)


def summed(metrics: Mapping[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """The sums of these numbers over all processes, which have them by the same names; in one transfer."""
    if accelerator.num_processes == 1:
        return dict(metrics)
    sums: Tensor = accelerator.reduce(torch.stack(list(metrics.values())), "sum")
    return dict(zip(metrics, sums.unbind(), strict=True))


@dataclass(eq=False)
class Bucket:
    """Parameters whose gradients go together, as one flat tensor."""

    parameters: dict[int, nn.Parameter] = field(default_factory=dict)
    """By their places among all."""
    waiting: set[int] = field(default_factory=set)
    """Places of those whose gradients are not complete yet."""
    sums: Tensor | None = None
    """Once sent, where the sums over all processes arrive: the gradients', and of how many processes have each."""
    work: torch.distributed.Work | None = None
    """What tells when they have arrived."""
    lacking: dict[int, nn.Parameter] = field(default_factory=dict)
    """Those that have no gradient in this process, by their places in the bucket."""

    def add(self, place: int, parameter: nn.Parameter) -> None:
        """Let this parameter's gradient go with the others."""
        self.parameters[place] = parameter
        self.waiting.add(place)

    @torch.no_grad()
    def send(self) -> None:
        """Sum the gradients over all processes; they lie in the bucket from now on, so that none is there twice."""
        parameters = list(self.parameters.values())
        size = sum(parameter.numel() for parameter in parameters)
        self.sums = parameters[0].new_empty(size + len(parameters))
        counts = self.sums[size:].fill_(1)
        views: list[Tensor] = []
        gradients: list[Tensor] = []
        offset = 0
        for place, parameter in enumerate(parameters):
            # ordered in memory as the parameter is, which optimisers expect
            strides = torch.empty_like(parameter, device="meta").stride()
            view = self.sums.as_strided(parameter.size(), strides, offset)
            offset += parameter.numel()
            if parameter.grad is None:
                view.zero_()
                counts[place].zero_()
                self.lacking[place] = parameter
            else:
                views.append(view)
                gradients.append(parameter.grad)
            parameter.grad = view
        if views:
            torch._foreach_copy_(views, gradients)
        self.work = torch.distributed.all_reduce(self.sums, async_op=True)

    def receive(self) -> None:
        """Wait for the sums, and take gradients away from parameters that have none in any process."""
        assert self.sums is not None and self.work is not None, "it has been sent"
        self.work.wait()
        if self.lacking:
            # the host waits for the device here alone: as a rule every parameter has a gradient in every process
            counts = self.sums[-len(self.parameters) :].tolist()
            for place, parameter in self.lacking.items():
                if counts[place] == 0:  # a gradient of zeros would let the optimiser's weight decay change it
                    parameter.grad = None
        self.sums = None
        self.work = None
        self.lacking = {}
        self.waiting = set(self.parameters)


class Buckets:
    """Sums gradients of whole models: a bucket is sent once its gradients are complete, in one order in all processes.

    The order is that in which gradients were complete in the first step that is taken here, as the first process had
    it. It follows from the network, so that a resumed run has the same: over three processes and more, what a sum is
    rounded to depends on where in a bucket its numbers lie.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], bucket_bytes: int = BUCKET_BYTES):
        self._parameters = list(parameters)
        self._bucket_bytes = bucket_bytes
        self._is_last = False
        self._completed: dict[int, None] = {}
        """Places of parameters in the order in which their gradients were complete, in the first step."""
        self._buckets: list[Bucket] = []
        self._bucket_of: dict[int, Bucket] = {}
        self._num_sent = 0
        for place, parameter in enumerate(self._parameters):
            parameter.register_post_accumulate_grad_hook(partial(self._accumulated, place))

    def before_backward(self, is_last: bool) -> None:
        self._is_last = is_last

    def finish(self) -> None:
        self._is_last = False
        if not self._buckets:
            self._lay_out()
        for bucket in self._buckets[self._num_sent :]:
            bucket.send()
        for bucket in self._buckets:
            bucket.receive()
        self._num_sent = 0

    def _accumulated(self, place: int, _: Tensor) -> None:
        """The parameter at this place has its gradient of a backward pass."""
        if not self._is_last:
            return
        if not self._buckets:
            self._completed[place] = None
            return
        bucket = self._bucket_of[place]
        assert bucket.sums is None, "a gradient that has been sent does not change"
        bucket.waiting.discard(place)
        # in their order: processes that sent them in another would sum what does not belong together
        for following in self._buckets[self._num_sent :]:
            if following.waiting:
                return
            following.send()
            self._num_sent += 1

    def _lay_out(self) -> None:
        """Part the parameters into buckets; those that have no gradient come last, where they keep none waiting."""
        without_gradient = [place for place in range(len(self._parameters)) if place not in self._completed]
        (places,) = broadcast_object_list([[*self._completed, *without_gradient]])
        room = 0
        kind: tuple[torch.dtype, torch.device] | None = None
        for place in places:
            parameter = self._parameters[place]
            num_bytes = parameter.numel() * parameter.element_size()
            if num_bytes > room or kind != (parameter.dtype, parameter.device):
                self._buckets.append(Bucket())
                room = self._bucket_bytes
                kind = (parameter.dtype, parameter.device)
            room -= num_bytes
            self._buckets[-1].add(place, parameter)
            self._bucket_of[place] = self._buckets[-1]
