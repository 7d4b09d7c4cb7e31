"""A call of a denoiser, taken apart by rows: in whichever way a pipeline hands over its batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_TIMES = ("timestep", "t")


class Call:
    """Arguments of one forward: tensors with the batch as first axis, lists with an entry a row, and the rest.

    Those that are `rowless` are one for the whole batch, whatever their shape.
    """

    def __init__(self, inputs: tuple[Any, ...], named: dict[str, Any], rowless: Collection[str] = ()):
        self.inputs = inputs
        self.named = named
        self.rowless = rowless
        self.sample = inputs[0] if inputs else next(named[n] for n in ("hidden_states", "sample", "x") if n in named)
        self.rows = len(self.sample)

    @property
    def time(self) -> float:
        """The time of the first row, as the network is told it."""
        given = next((self.named[name] for name in _TIMES if name in self.named), None)
        time = self.inputs[1] if given is None else given
        return float(time.flatten()[0] if isinstance(time, Tensor) else time)

    @property
    def device(self) -> torch.device:
        return self.sample[0].device

    def alike(self, first: slice, second: slice) -> bool:
        """Whether these rows are of the same samples, as those with and without a prompt are."""
        one, other = self.sample[first], self.sample[second]
        return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    def of(self, rows: Sequence[slice]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these rows one after the other."""
        if list(rows) == [slice(0, self.rows)]:
            return self.inputs, self.named
        named = {n: v if n in self.rowless else self._chosen(v, rows) for n, v in self.named.items()}
        return tuple(self._chosen(value, rows) for value in self.inputs), named

    def _chosen(self, value: Any, rows: Sequence[slice]) -> Any:
        if isinstance(value, Tensor):
            whole = value.ndim == 0 or len(value) != self.rows
            return value if whole else torch.cat([value[some] for some in rows])
        if isinstance(value, dict):
            return {name: self._chosen(entry, rows) for name, entry in value.items()}
        if isinstance(value, list) and isinstance(self.sample, list) and len(value) == self.rows:
            return [entry for some in rows for entry in value[some]]
        if isinstance(value, (list, tuple)):
            return type(value)(self._chosen(entry, rows) for entry in value)
        return value


def prediction_of(answer: Any) -> Any:
    """The prediction in what a forward gave: a tuple's first entry, or an output's `sample`."""
    return answer[0] if isinstance(answer, tuple) else answer.sample


def stacked(prediction: Tensor | list[Tensor]) -> Tensor:
    """Rows in one tensor, from a tensor or an entry a row."""
    return torch.stack(prediction) if isinstance(prediction, list) else prediction


def like(answer: Any, rows: Iterable[Tensor]) -> Any:
    """These rows in the form in which the network answered."""
    whole = torch.cat(list(rows))
    given: Any = list(whole.unbind(0)) if isinstance(prediction_of(answer), list) else whole
    if isinstance(answer, tuple):
        return (given, *answer[1:])
    return type(answer)(sample=given)
