"""What a forward and a backward pass cost, metered on tensors without values.

The passes are the real ones, on the meta device. Two things stand in for what a GPU has: autocast, which knows no meta
device, and the fused attention, which keeps no matrix of weights. A storage counts from the call that makes it
until its last tensor is gone, as in PyTorch's allocator, less its rounding, fragments and the kernels' own scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from contrapose.backbones.networks import Network
from contrapose.estimate.meter import Meter, storage_key

# PyTorch's lists for autocast on CUDA, as far as denoisers go: products in half precision, these in float32.
_PRODUCTS = {
    "linear", "conv1d", "conv2d", "conv3d", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm",
    "einsum", "scaled_dot_product_attention",
}  # fmt: skip
_PRECISE = {
    "layer_norm", "group_norm", "softmax", "log_softmax", "pow", "__pow__", "rsqrt", "exp", "log", "reciprocal",
    "sum", "cumsum", "norm", "mse_loss", "softplus",
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Bytes and FLOPs (2 x multiply-adds) of one pass over one row.

    `saved` is kept between forward and backward; `peak` is the most that is alive at once. Neither counts parameters or
    their gradients. `saved_fixed` and `peak_fixed` are the parts that do not grow with the number of rows: weights cast
    by autocast, and gradients in flight. `forward` and `total` are FLOPs, `total` with the backward pass.
    """

    saved: int
    peak: int
    forward: int
    total: int
    saved_fixed: int = 0
    peak_fixed: int = 0

    def beside(self, two: Cost) -> Cost:
        """The same, knowing what two rows cost: bytes(n) = fixed + n slope, so fixed = 2 bytes(1) - bytes(2)."""
        return replace(self, saved_fixed=2 * self.saved - two.saved, peak_fixed=2 * self.peak - two.peak)

    def without_fixed(self) -> Cost:
        """The same but for what does not grow with the rows."""
        saved = self.saved - self.saved_fixed
        peak = self.peak - self.peak_fixed
        return replace(self, saved=saved, peak=peak, saved_fixed=0, peak_fixed=0)

    def saved_for(self, rows: int) -> int:
        """Bytes kept for the backward pass of so many rows."""
        return self.saved_fixed + rows * (self.saved - self.saved_fixed)

    def peak_for(self, rows: int) -> int:
        """Most bytes alive at once with so many rows."""
        return self.peak_fixed + rows * (self.peak - self.peak_fixed)


class AsOnGPU(TorchFunctionMode):
    """What autocast to `dtype` (None: none) and the fused attention do on CUDA; `cached` weights are cast only once."""

    def __init__(self, dtype: torch.dtype | None, cached: bool = False):
        super().__init__()
        self.dtype = dtype
        self.cache: dict[int, Tensor] | None = {} if cached else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        dtype = self._dtype_of(name)
        if dtype is not None:
            args = self._cast(args, dtype)
            kwargs = {name: self._cast(value, dtype) for name, value in kwargs.items()}
        if name == "scaled_dot_product_attention":
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _dtype_of(self, function: str) -> torch.dtype | None:
        """The precision that autocast gives a function's arguments; None where it leaves them alone."""
        if self.dtype is None:
            return None
        if function in _PRODUCTS:
            return self.dtype
        return torch.float32 if function in _PRECISE else None

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, list | tuple):
            return [self._cast(each, dtype) for each in value]
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if self.cache is None or not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in self.cache:
            self.cache[id(value)] = value.to(dtype)
        return self.cache[id(value)]


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if enable_gqa:
        key, value = (v.repeat_interleave(query.shape[1] // v.shape[1], 1) for v in (key, value))
    if attn_mask is not None:
        wide = (*query.shape[:-1], key.shape[-2])
        attn_mask = attn_mask.to(query.dtype).expand(wide)
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    return attend(query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale)[0]


def saved_bytes(run: Callable[[], Tensor], parameters: Iterable[Tensor]) -> tuple[int, Tensor]:
    """Bytes of the distinct storages that a forward pass keeps for its backward pass, parameters aside; its result."""
    of_parameters = {storage_key(parameter) for parameter in parameters}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if storage_key(tensor) not in of_parameters:
            kept[storage_key(tensor)] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    return sum(storage.nbytes() for storage in kept.values()), result


def training_cost(
    predict: Callable[[], Tensor], module: Network, dtype: torch.dtype | None, checkpointing: bool
) -> Cost:
    """Forward and backward of the mean square of a prediction; `dtype` is autocast's, None without it."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)  # they are there from the second micro-batch on
    module.train()
    if checkpointing:
        module.enable_gradient_checkpointing(partial(_checkpoint, dtype))
    with Meter() as meter:
        with AsOnGPU(dtype, cached=True):  # autocast forgets the cast weights at its end, and so does this
            saved, loss = saved_bytes(lambda: predict().float().square().mean(), module.parameters())
        forward = meter.flops
        loss.backward()
    cost = Cost(saved, meter.peak, forward, meter.flops)
    if checkpointing:
        module.disable_gradient_checkpointing()
    for parameter in trained:
        parameter.grad = None
    return cost


def _checkpoint(dtype: torch.dtype | None, block: Callable[..., Any], *arguments: Any) -> Any:
    """As the networks checkpoint their blocks, with the stand-ins in force when the block runs again."""

    def contexts() -> tuple[nullcontext[None], AsOnGPU]:
        """Around the forward pass, and around the same once more."""
        return nullcontext(), AsOnGPU(dtype)

    return checkpoint(block, *arguments, use_reentrant=False, context_fn=contexts)


@torch.no_grad()
def inference_cost(predict: Callable[[], Any], dtype: torch.dtype | None = None) -> Cost:
    """A forward pass without gradient."""
    with Meter() as meter, AsOnGPU(dtype):
        predict()
    return Cost(0, meter.peak, meter.flops, meter.flops)
