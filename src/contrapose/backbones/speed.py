"""The same predictions sooner: compiled networks, other kernels of attention, convolutions in another memory layout."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

import torch
from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn
from torch import nn
from torch.utils._triton import has_triton

from contrapose.backbones.networks import Network
from contrapose.backbones.settings import AttentionName, Haste
from contrapose.errors import UserError, one_line

COMPILER = "inductor"
"""The backend of torch.compile."""
_FORMS = 64
"""Forms of a network that are compiled: by policy, gradient, training or evaluation, precision and shape."""


def hasten(
    networks: Iterable[Network], speed: Haste, dtype: torch.dtype, device: torch.device, trained: bool = False
) -> None:
    """Have networks that compute in `dtype` predict as `speed` says, in place; names and values of weights stay.

    TF32 is the whole process's. Raises `UserError` where the networks, the device or what is installed here do not go
    with a setting; with `trained`, also for attention without a backward pass.
    """
    torch.set_float32_matmul_precision("high" if speed.tf32 else "highest")
    if speed.attention is not None:
        _check_attention(speed.attention, dtype, device, trained)
    if speed.compile:
        _check_compiler(device)
    for network in networks:
        if speed.attention is not None:
            _set_attention(network, speed.attention)
        if speed.channels_last:
            _put_channels_last(network)
        if speed.compile:
            # in place, so that no name of a weight changes
            network.compile(backend=COMPILER, recompile_limit=_FORMS)


def _check_attention(name: AttentionName, dtype: torch.dtype, device: torch.device, trained: bool) -> None:
    """Raise `UserError` where these kernels do not run here, tried on a few numbers."""
    query = torch.randn(1, 128, 2, 64, dtype=dtype, device=device, requires_grad=trained)
    reason = None
    try:
        with attention_backend(name):
            attended = dispatch_attention_fn(query, query, query)
        if trained:
            attended.sum().backward()
    except Exception as error:  # each package has its own way of not being there
        reason = one_line(error)
    if reason is None and trained and query.grad is None:
        reason = "it has no backward pass"
    if reason is not None:
        bits = str(dtype).removeprefix("torch.")
        raise UserError(f"attention {name}: cannot be used here on {device.type} in {bits}: {reason}")


def _set_attention(network: Network, name: AttentionName) -> None:
    processors = [getattr(module, "processor", None) for module in network.modules()]
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise UserError(
            f"attention {name}: a {type(network).__name__} of diffusers has torch's own attention alone; leave the "
            "setting out"
        )
    # diffusers makes it that of all networks besides, which the block takes back
    with attention_backend("native"):
        network.set_attention_backend(name)


def _put_channels_last(network: Network) -> None:
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    # where patches do not overlap, the convolution is a product of matrices
    if not any(layer.kernel_size != layer.stride for layer in layers):
        raise UserError(f"channels_last: a {type(network).__name__} has no convolutions; leave the setting out")
    for layer in layers:
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)


def _check_compiler(device: torch.device) -> None:
    """Raise `UserError` where torch.compile lacks what it writes its kernels with."""
    if COMPILER != "inductor":
        return
    if device.type == "cuda" and not has_triton():
        package = "triton-windows" if importlib.util.find_spec("_winapi") else "triton"
        raise UserError(f"compile: needs Triton on this GPU; run 'pip install {package}', or leave the setting out")
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:
            raise UserError(
                f"compile: needs a C++ compiler ({one_line(error)}); install one, or leave the setting out"
            ) from error
