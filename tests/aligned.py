"""Aligned runs without training, the networks that they are put together by hand, and counts of what is asked."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from training import with_lora, with_own_network

from contrapose.backbones.base import Backbone

RANK, ALPHA = 4, 10.0


class Runs(NamedTuple):
    """Two runs, and the networks that they are."""

    kind: str
    positive: Path
    negative: Path
    networks: dict[str, nn.Module]


def write_run(plain: Backbone, kind: str, seed: int, folder: Path) -> Path:
    """A run whose weights are the base's and noise, as `align` would leave them."""
    random = torch.Generator().manual_seed(seed)
    if kind == "full":
        network = copy.deepcopy(plain.denoiser.network)
        for parameter in network.parameters():
            spread = parameter.data.abs().mean()
            parameter.data.add_(torch.randn(parameter.shape, generator=random) * 0.05 * spread)
        network.save_pretrained(folder / "model" / plain.denoiser.part)
        return folder
    backbone = with_lora(with_own_network(plain), RANK, ALPHA)
    for parameter in backbone.policies.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=random) * 0.1)
    backbone.save(folder)
    return folder


def network_of(base: nn.Module, run: Path, part: str) -> nn.Module:
    """A whole network of its own: the run's weights, or W + (alpha / rank) B A where it holds adapters."""
    network = copy.deepcopy(base)
    [path] = [*run.glob("*.safetensors"), *(run / "model").glob(f"{part}/*.safetensors")]
    tensors = load_file(path)
    if path.parent != run:
        network.load_state_dict(tensors)
        return network
    assert _scale(path, part) == ALPHA / RANK
    prefixes = (f"{part}.", "base_model.model.")
    for key in (key for key in tensors if key.endswith(".lora_A.weight")):
        layer = key.removesuffix(".lora_A.weight")
        name = next(layer.removeprefix(prefix) for prefix in prefixes if layer.startswith(prefix))
        change = tensors[f"{layer}.lora_B.weight"] @ tensors[key] * (ALPHA / RANK)
        network.get_submodule(name).weight.data += change.to(network.dtype)
    return network


def _scale(path: Path, part: str) -> float:
    with safe_open(path, "pt") as file:
        told = file.metadata().get("lora_adapter_metadata")
    config = json.loads(told or (path.parent / "adapter_config.json").read_text())
    return (config.get(f"{part}.lora_alpha") or config["lora_alpha"]) / (config.get(f"{part}.r") or config["r"])


@contextmanager
def counted(network: nn.Module) -> Iterator[list[int]]:
    """Rows of every forward of any network of this class."""
    kind, rows = type(network), []
    forward = kind.forward

    @functools.wraps(forward)
    def counting(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        rows.append(len(inputs[0] if inputs else named.get("hidden_states", named.get("sample"))))
        return forward(self, *inputs, **named)

    kind.forward = counting
    try:
        yield rows
    finally:
        kind.forward = forward


def answered(network: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """What a network says to a recorded call's inputs, its rows in one tensor."""
    with torch.no_grad():
        return in_rows(network(**{**inputs, "return_dict": False})[0])


def in_rows(output: Tensor | Sequence[Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else torch.stack(list(output))


def apart(one: Tensor, other: Tensor) -> float:
    """Largest difference, in units of the largest value."""
    return float((one - other).abs().max() / other.abs().max())
