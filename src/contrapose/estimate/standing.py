"""Bytes that are on the GPU for every batch: weights in their precision, and the optimiser's state."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from contrapose.backbones.settings import Quantisation
from contrapose.train.settings import OptimizerName

CONTEXT = 600 << 20  # bytes that CUDA and its libraries take before the first tensor


@dataclass(frozen=True)
class Memory:
    """Bytes on the GPU in a training step, by part."""

    weights: int
    """The frozen network under the adapters."""
    reference: int
    """The frozen copy beside a full trainee, and every other policy that is asked; an average's float32 weights too."""
    trained: int
    """What is trained, in fp32."""
    gradients: int
    optimizer: int
    average: int
    """The exponential moving average of what is trained, which is what is saved."""
    activations: int
    """Kept between forward and backward."""
    working: int
    """The most that comes on top: recomputation, gradients on their way, the reference's forward."""
    context: int = CONTEXT

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def module_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def float32_bytes(module: nn.Module) -> int:
    """Bytes of a float32 copy of those parameters that are stored in less."""
    return sum(4 * parameter.numel() for parameter in module.parameters() if parameter.dtype != torch.float32)


def weight_bytes(module: nn.Module, kind: Quantisation) -> int:
    """Bytes of a frozen module whose linear layers are quantised in this way, and nothing else of it.

    nf4: half a byte a weight and a float32 scale for every 64; int8: one byte, and a float32 scale for every row;
    torchao-int8: one byte, and a scale and a zero point for every row, counted as float32 both.
    """
    if kind == "none":
        return module_bytes(module)
    linear = [part.weight for part in module.modules() if isinstance(part, nn.Linear)]
    counted = {id(weight) for weight in linear}
    total = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()) if id(tensor) not in counted)
    for weight in linear:
        if kind == "nf4":
            total += math.ceil(weight.numel() / 2) + 4 * math.ceil(weight.numel() / 64)
        else:
            of_row = 4 if kind == "int8" else 8
            total += weight.numel() + of_row * weight.shape[0]
    return total


def state_bytes(parameter: Tensor, optimizer: OptimizerName) -> int:
    """The optimiser's state of one tensor: two moments in float32 or 8 bits, or a row and a column of the second."""
    count = parameter.numel()
    if optimizer == "adafactor":
        if parameter.ndim < 2:
            return 4 * count
        return 4 * (count // parameter.shape[-1] + count // parameter.shape[-2])
    # bitsandbytes leaves small tensors in float32; pages may leave the GPU, and are counted as if they stayed
    if optimizer.endswith("-8bit") and count >= 4096:
        return 2 * count + 8 * math.ceil(count / 256)  # and keeps a float32 scale of each moment for every 256 values
    return 8 * count
