"""What adapters do to one layer, by kind: from the tensors of a file to the change of the layer's weight.

LoRA   W + s B A                           Hu et al. 2021, arXiv 2106.09685; rsLoRA is the same with another s
DoRA   m (W + s B A) / |W + s B A|         a norm for each output; Liu et al. 2024, arXiv 2402.09353, eq. 5
LoKr   W + s (W1 kron W2)                  Yeh et al. 2023, arXiv 2309.14859; either factor may be a product of two
LoHa   W + s (B1 A1) * (B2 A2)             element by element; Hyeon-Woo et al. 2021, arXiv 2108.06098
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

Cast = Callable[[Tensor], Tensor]
HALVES = ("lora_A.weight", "lora_B.weight")
MAGNITUDE = "lora_magnitude_vector"
_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
ENDS = (*HALVES, MAGNITUDE, *_LOKR, *_LOHA)
"""Ends of the names of a layer's tensors, as peft gives them."""
OTHER_ENDS = {"lora_down.weight": HALVES[0], "lora_up.weight": HALVES[1], "dora_scale": MAGNITUDE}
"""Those that kohya's tools and LyCORIS give otherwise, by theirs."""


class LayerAdapter(Protocol):
    """An adapter of one layer."""

    @property
    def scale(self) -> float:
        """s."""

    @property
    def rank(self) -> int:
        """Columns of the products that it is made of."""

    @property
    def kind(self) -> str:
        """What it is called."""

    @property
    def inputs(self) -> int:
        """How many inputs the layer has, those of a convolution's kernel times its size."""

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by the ends of their names."""

    def change(self, weight: Tensor) -> Tensor:
        """What it adds to a layer's weight, of its shape."""

    def cast(self, cast: Cast) -> LayerAdapter:
        """The same with each of its tensors changed."""

    def scaled(self, scale: float, rank: int) -> LayerAdapter:
        """The same with another s, and of this rank where the tensors do not tell it."""

    def fits(self, layer: nn.Module | None) -> bool:
        """Whether it is of a layer as wide as this one."""


class LowRank(NamedTuple):
    """y += scale B A x on one layer; of a convolution's, A has its kernel and B is one pixel large."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def alpha(self) -> float:
        """scale times rank."""
        return self.scale * self.rank

    @property
    def kind(self) -> str:
        return "lora"

    @property
    def inputs(self) -> int:
        return self.down[0].numel()

    def tensors(self) -> dict[str, Tensor]:
        return dict(zip(HALVES, (self.down, self.up), strict=True))

    def change(self, weight: Tensor | None = None) -> Tensor:
        """scale B A, of the shape of the layer's weight."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        return product.reshape(len(self.up), *self.down.shape[1:]) * self.scale

    def cast(self, cast: Cast) -> LowRank:
        return LowRank(cast(self.down), cast(self.up), self.scale)

    def scaled(self, scale: float, rank: int) -> LowRank:
        return self._replace(scale=scale)

    def fits(self, layer: nn.Module | None) -> bool:
        down = tuple(self.down.shape)
        up = tuple(self.up.shape)
        if isinstance(layer, nn.Conv2d):
            # a kernel as large as the layer's, then one of one pixel
            kernel = (self.rank, layer.in_channels, *layer.kernel_size)
            return down == kernel and up[:2] == (layer.out_channels, self.rank) and layer.groups == 1
        inputs = getattr(layer, "in_features", None)
        outputs = getattr(layer, "out_features", None)
        return down == (self.rank, inputs) and up == (outputs, self.rank)


@dataclass(frozen=True, eq=False)
class WeightDecomposed:
    """m (W + s B A) / |W + s B A|, with a magnitude m and a norm for each output."""

    low_rank: LowRank
    magnitude: Tensor
    """One number an output, in any shape."""

    @property
    def scale(self) -> float:
        return self.low_rank.scale

    @property
    def rank(self) -> int:
        return self.low_rank.rank

    @property
    def kind(self) -> str:
        return "dora"

    @property
    def inputs(self) -> int:
        return self.low_rank.inputs

    def tensors(self) -> dict[str, Tensor]:
        return {**self.low_rank.tensors(), MAGNITUDE: self.magnitude}

    def change(self, weight: Tensor) -> Tensor:
        # in float32: the difference of two weights that are nearly the same
        base = weight.float()
        direction = base + self.low_rank.cast(Tensor.float).change()
        outputs = (-1, *[1] * (base.ndim - 1))
        norm = direction.flatten(1).norm(dim=1).view(outputs)
        return (direction * (self.magnitude.float().view(outputs) / norm) - base).to(weight.dtype)

    def cast(self, cast: Cast) -> WeightDecomposed:
        return WeightDecomposed(self.low_rank.cast(cast), cast(self.magnitude))

    def scaled(self, scale: float, rank: int) -> WeightDecomposed:
        return replace(self, low_rank=self.low_rank.scaled(scale, rank))

    def fits(self, layer: nn.Module | None) -> bool:
        return self.low_rank.fits(layer) and self.magnitude.numel() == len(self.low_rank.up)


@dataclass(frozen=True, eq=False)
class Kronecker:
    """W + s (W1 kron W2); each factor is whole, or a product of two."""

    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]
    scale: float = 1.0
    rank: int = 0
    """That of the factor which is a product; where none is, the one that is told."""

    @property
    def kind(self) -> str:
        return "lokr"

    @property
    def inputs(self) -> int:
        return self.first[-1].shape[1] * self.second[-1][0].numel()

    def tensors(self) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for name, factor in (("lokr_w1", self.first), ("lokr_w2", self.second)):
            ends = ("",) if len(factor) == 1 else ("_a", "_b")
            named |= {f"{name}{end}": value for end, value in zip(ends, factor, strict=True)}
        return named

    def change(self, weight: Tensor) -> Tensor:
        first = self.first[0] if len(self.first) == 1 else self.first[0] @ self.first[1]
        second = self.second[0] if len(self.second) == 1 else self.second[0] @ self.second[1]
        return (torch.kron(first, second.flatten(1)) * self.scale).reshape(weight.shape)

    def cast(self, cast: Cast) -> Kronecker:
        return replace(self, first=tuple(map(cast, self.first)), second=tuple(map(cast, self.second)))

    def scaled(self, scale: float, rank: int) -> Kronecker:
        return replace(self, scale=scale, rank=self.rank or rank)

    def fits(self, layer: nn.Module | None) -> bool:
        outputs = len(self.first[0]) * len(self.second[0])
        return _is_of(layer, outputs, self.inputs)


@dataclass(frozen=True, eq=False)
class Hadamard:
    """W + s (B1 A1) * (B2 A2), element by element."""

    factors: tuple[Tensor, Tensor, Tensor, Tensor]
    """B1, A1, B2, A2."""
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return len(self.factors[1])

    @property
    def kind(self) -> str:
        return "loha"

    @property
    def inputs(self) -> int:
        return self.factors[1].shape[1]

    def tensors(self) -> dict[str, Tensor]:
        return dict(zip(_LOHA, self.factors, strict=True))

    def change(self, weight: Tensor) -> Tensor:
        up1, down1, up2, down2 = self.factors
        return ((up1 @ down1) * (up2 @ down2) * self.scale).reshape(weight.shape)

    def cast(self, cast: Cast) -> Hadamard:
        up1, down1, up2, down2 = map(cast, self.factors)
        return replace(self, factors=(up1, down1, up2, down2))

    def scaled(self, scale: float, rank: int) -> Hadamard:
        return replace(self, scale=scale)

    def fits(self, layer: nn.Module | None) -> bool:
        return _is_of(layer, len(self.factors[0]), self.inputs)


def _is_of(layer: nn.Module | None, outputs: int, inputs: int) -> bool:
    """Whether a weight of so many rows and columns is this layer's, flat."""
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        sizes = (layer.out_channels, layer.in_channels * height * width)
        return layer.groups == 1 and (outputs, inputs) == sizes
    return (outputs, inputs) == (getattr(layer, "out_features", None), getattr(layer, "in_features", None))


class Misshapen(ValueError):
    """Tensors of one layer that make no adapter; says why."""


def assembled(tensors: Mapping[str, Tensor]) -> LayerAdapter:
    """The adapter of a layer from its tensors by the ends of their names, with a scale of 1; `Misshapen` for none."""
    for value in tensors.values():
        if not value.is_floating_point() or not bool(value.float().isfinite().all()):
            raise Misshapen("has weights that are not finite (NaN or infinite)")
    left = dict(tensors)
    adapter: LayerAdapter
    if any(end in left for end in _LOHA):
        adapter = _hadamard(left)
    elif any(end in left for end in _LOKR):
        first, second = (_factor(left, name) for name in ("lokr_w1", "lokr_w2"))
        ranks = [len(factor[1]) for factor in (second, first) if len(factor) == 2]
        adapter = Kronecker(first, second, rank=ranks[0] if ranks else 0)
    else:
        low_rank = _halves(left)
        adapter = low_rank
        if MAGNITUDE in left:
            # in peft's shape, whatever tool wrote it
            shape = (-1,) if low_rank.down.ndim == 2 else (1, -1, 1, 1)
            adapter = WeightDecomposed(low_rank, left.pop(MAGNITUDE).reshape(shape))
    if left:
        raise Misshapen(f"has a {min(left)} that is no part of a {adapter.kind}")
    return adapter


def _halves(left: dict[str, Tensor]) -> LowRank:
    if not any(half in left for half in HALVES):
        raise Misshapen(f"has a {min(left)} without lora_A and lora_B")
    for half, other in ("AB", "BA"):
        if f"lora_{half}.weight" not in left:
            raise Misshapen(f"has its lora_{other} and no lora_{half}; one half is missing")
    down, up = (left.pop(half) for half in HALVES)
    matrices = down.ndim == up.ndim and down.ndim in (2, 4) and up.shape[2:].numel() == 1
    if not matrices or len(down) != up.shape[1] or not down.numel() or not up.numel():
        shapes = f"{list(down.shape)} and {list(up.shape)}"
        raise Misshapen(f"has halves of shapes {shapes}, which are not a pair of one rank")
    return LowRank(down, up, 1.0)


def _hadamard(left: dict[str, Tensor]) -> Hadamard:
    up1, down1, up2, down2 = (_taken(left, end) for end in _LOHA)
    are_alike = up1.shape == up2.shape and down1.shape == down2.shape
    if not are_alike or not _is_product(up1, down1):
        shapes = [list(value.shape) for value in (up1, down1, up2, down2)]
        raise Misshapen(f"has factors of shapes {shapes}, which are not two pairs of one rank")
    return Hadamard((up1, down1, up2, down2))


def _factor(left: dict[str, Tensor], name: str) -> tuple[Tensor, ...]:
    """A Kronecker factor: whole, or the two of a product."""
    if name in left:
        matrix = left.pop(name)
        if matrix.ndim not in (2, 4) or not matrix.numel():
            raise Misshapen(f"has a {name} of shape {list(matrix.shape)}, which is no matrix")
        return (matrix,)
    up, down = (_taken(left, f"{name}_{end}") for end in "ab")
    if not _is_product(up, down):
        raise Misshapen(f"has a {name} of shapes {list(up.shape)} and {list(down.shape)}, which are not of one rank")
    return (up, down)


def _taken(left: dict[str, Tensor], end: str) -> Tensor:
    if end not in left:
        raise Misshapen(f"has no {end}; a factor is missing")
    return left.pop(end)


def _is_product(up: Tensor, down: Tensor) -> bool:
    return up.ndim == down.ndim == 2 and up.shape[1] == len(down) and bool(up.numel() and down.numel())
