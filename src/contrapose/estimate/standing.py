"""Bytes that are on the GPU for every batch: weights in their precision, and the optimiser's state."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from contrapose.backbones.settings import Quantisation
from contrapose.train.settings import OptimizerName
from contrapose.train.sharding import blocks

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

    def of_one(self, num_shards: int) -> Memory:
        """What one of so many cards holds, over which all that stands is cut up evenly."""
        parts = ("weights", "reference", "trained", "gradients", "optimizer", "average")
        return replace(self, **{part: math.ceil(getattr(self, part) / num_shards) for part in parts})


def module_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def gathered_bytes(network: nn.Module, dtype: torch.dtype, full: bool) -> int:
    """Most bytes that a network in shards is gathered in at once, beside the shards.

    What is in no block, and two blocks, since the next one comes while one computes; in full training also the
    gradients of two blocks as they are made, and in float32 as they are summed.
    """
    around: dict[int, str] = {}
    named = dict(network.named_modules())
    names = {id(module): name for name, module in named.items()}
    of_blocks = [names[id(block)] for block in blocks(network)]
    for name in of_blocks:  # outer ones come first, and inner ones then take theirs
        around |= dict.fromkeys(map(id, named[name].parameters()), name)
    sizes: Counter[str] = Counter()
    for parameter in network.parameters():
        sizes[around.get(id(parameter), "")] += parameter.numel()
    with_outer: list[int] = []
    for name in of_blocks:
        outer = [other for other in of_blocks if name == other or name.startswith(f"{other}.")]
        with_outer.append(sum(sizes[other] for other in outer))
    largest = max(with_outer, default=0)
    gradients = 2 * largest * (dtype.itemsize + 4) if full else 0
    return (sizes[""] + 2 * largest) * dtype.itemsize + gradients


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
