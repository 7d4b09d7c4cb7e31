"""A call of a denoiser, taken apart by rows of its batch, whatever form the pipeline gives the batch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_SAMPLES = ("hidden_states", "sample", "x")
_TIMES = ("timestep", "t")


class Call:
    """Arguments of one forward: tensors with the batch as first axis, lists with an entry a row, and the rest.

    Arguments named in `rowless` are one for the whole batch, in any shape. `sample` holds the noisy latents, a
    tensor [rows, ...] or a list of tensors; `rows` is the size of the batch.
    """

    def __init__(self, inputs: tuple[Any, ...], named: dict[str, Any], rowless: Collection[str] = ()):
        self.inputs = inputs
        self.named = named
        self.rowless = rowless
        # networks call their latents and times otherwise, and pipelines pass them by place or by name
        self.sample: Tensor | list[Tensor] = inputs[0] if inputs else _first_of(_SAMPLES, named)
        self.rows = len(self.sample)

    @property
    def time(self) -> float:
        """The time of the first row, in the network's own unit."""
        time = _first_of(_TIMES, self.named)
        if time is None:
            time = self.inputs[1]
        if isinstance(time, Tensor):
            time = time.flatten()[0]
        return float(time)

    @property
    def device(self) -> torch.device:
        return self.sample[0].device

    def alike(self, first: slice, second: slice) -> bool:
        """Whether both halves hold the same latents, as rows with and without a prompt do under CFG."""
        half = self.sample[first]
        other = self.sample[second]
        return len(half) == len(other) and all(torch.equal(a, b) for a, b in zip(half, other, strict=True))

    def of(self, rows: Sequence[slice]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with these rows, one slice after the other."""
        if list(rows) == [slice(0, self.rows)]:
            # the very tensors of the pipeline, so that a call of all rows is the stock one to the bit
            return self.inputs, self.named
        named = dict(self.named)
        for name, value in self.named.items():
            if name not in self.rowless:
                named[name] = self._chosen(value, rows)
        return tuple(self._chosen(value, rows) for value in self.inputs), named

    def _chosen(self, value: Any, rows: Sequence[slice]) -> Any:
        """These rows of an argument; what has no rows comes back as it is."""
        if isinstance(value, Tensor):
            if value.ndim == 0 or len(value) != self.rows:
                return value
            return torch.cat([value[place] for place in rows])
        if isinstance(value, dict):
            return {name: self._chosen(entry, rows) for name, entry in value.items()}
        # where latents come as a list, so do texts; any other list holds arguments, such as a ControlNet's residuals
        if isinstance(value, list) and isinstance(self.sample, list) and len(value) == self.rows:
            return [entry for place in rows for entry in value[place]]
        if isinstance(value, (list, tuple)):
            return type(value)(self._chosen(entry, rows) for entry in value)
        return value


def _first_of(names: Iterable[str], arguments: Mapping[str, Any]) -> Any:
    """The argument with the first of these names that is passed; None where there is none."""
    return next((arguments[name] for name in names if name in arguments), None)


def prediction_of(answer: Any) -> Any:
    """The prediction in a forward's answer: a tuple's first entry, or an output's `sample`."""
    return answer[0] if isinstance(answer, tuple) else answer.sample


def stacked(prediction: Tensor | list[Tensor]) -> Tensor:
    """A prediction's rows in one tensor, from a tensor or from a list with an entry a row."""
    return torch.stack(prediction) if isinstance(prediction, list) else prediction


def like(answer: Any, rows: Iterable[Tensor]) -> Any:
    """These rows in the form of a network's answer: a tensor or a list, in a tuple or in an output object."""
    prediction: Tensor | list[Tensor] = torch.cat(list(rows))
    if isinstance(prediction_of(answer), list):
        prediction = list(prediction)
    if isinstance(answer, tuple):
        return (prediction, *answer[1:])
    return type(answer)(sample=prediction)
