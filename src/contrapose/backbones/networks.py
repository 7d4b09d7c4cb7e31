"""One network out of its folder, whole: with each of its tensors, none besides, and finite numbers in all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin
from torch import Tensor, nn

from contrapose.errors import UserError
from contrapose.processes import rank
from contrapose.runs.silence import silent_libraries
from contrapose.tensors import in_one_piece, is_cut

# Of a larger model that holds the text encoder, or of older versions of it; nothing is missing without them.
_LEFTOVERS = re.compile(
    r"\.position_ids$|\.y_embedding$|^(lm_head|vision_model|visual_projection|text_projection|logit_scale)\b"
)
Network = Any
"""A network of diffusers: a torch module, of whose `config`, `dtype` and further methods no types are declared."""

_CHUNK = 2**26  # numbers looked at together, where they have to be cast for it


def read_network(
    kind: Any,
    folder: Path | str,
    variant: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    with_leftovers: bool = False,
    **options: Any,
) -> Any:
    """The network of this class in a folder of diffusers or transformers, on the CPU; safetensors alone are read.

    Nothing is downloaded unless `local_files_only=False` is among the options, and no code beside the weights is run.
    `options` are further ones of the library's `from_pretrained`. Raises `UserError` for tensors that are missing, of
    other shapes than the configuration's, or not finite in the precision that is asked for, and for such as the network
    does not know, unless it may be one out of a larger model, `with_leftovers`.
    """
    options.setdefault("local_files_only", True)
    if issubclass(kind, ModelMixin):
        options["torch_dtype"] = dtype
    else:  # of all shapes that differ the report is to tell, not an error of the first
        options |= {"dtype": dtype, "trust_remote_code": False, "ignore_mismatched_sizes": True}
    with silent_libraries():
        network, loading = kind.from_pretrained(
            str(folder), variant=variant, use_safetensors=True, output_loading_info=True, **options
        )
    # what a quantiser keeps beside its weights is its own affair
    check_loading(folder, loading, with_leftovers or getattr(network, "hf_quantizer", None) is not None)
    check_finite(folder, network)
    return network


def network_without_values(kind: Any, folder: Path | str, dtype: torch.dtype) -> Any:
    """The network of this class in a folder of diffusers or transformers, its parameters without values.

    They are on the meta device, in the precision of `dtype`; what the network works out for itself, such as tables of
    positions, is there.
    """
    with silent_libraries(), init_empty_weights():
        if issubclass(kind, ModelMixin):
            network = kind.from_config(kind.load_config(str(folder), local_files_only=True))
        else:
            config = kind.config_class.from_pretrained(str(folder), local_files_only=True)
            network = kind._from_config(config)
    return network.to(dtype).eval()


def check_loading(folder: Path | str, loading: Mapping[str, Any], with_leftovers: bool = False) -> None:
    """Raise `UserError` where the library's report of a loading tells of tensors that do not fit the network."""
    shapes = [f"{name} ({list(stored)}, not {list(wanted)})" for name, stored, wanted in loading["mismatched_keys"]]
    unexpected = [name for name in loading["unexpected_keys"] if not _LEFTOVERS.search(name)]
    _refuse(folder, "missing", loading["missing_keys"])
    _refuse(folder, "not of the shape that its config.json says", shapes)
    if not with_leftovers:
        _refuse(folder, "unknown to the network of its config.json", unexpected)


def check_finite(where: Path | str, network: nn.Module) -> None:
    """Raise `UserError` for tensors without values, or with values that are not finite in the network's precision."""
    distinct = {id(value): (name, value) for name, value in network.state_dict(keep_vars=True).items()}  # ties once
    _refuse(where, "missing", (name for name, value in distinct.values() if value.is_meta))
    broken = (name for name, value in distinct.values() if value.is_floating_point() and not _is_finite(value.detach()))
    _refuse(where, "not finite (NaN, infinite or too large for this precision)", broken)


def _is_finite(value: Tensor) -> bool:
    """Whether all numbers are finite: both ends are NaN where any number is, which takes one pass and no copy."""
    if not value.numel() or type(value) is not Tensor:  # a quantised one is not looked into
        return True
    if value.element_size() == 1:  # float8 has no order
        return all(_is_finite(chunk.to(torch.bfloat16)) for chunk in value.flatten().split(_CHUNK))
    low, high = value.aminmax()
    return math.isfinite(low) and math.isfinite(high)


def network_in_one_piece(network: Network) -> Network | None:
    """A network that is cut up over processes, whole in the first one's own memory, and None in the others.

    All processes are to ask together. A network that is not cut up is given as it is.
    """
    state = network.state_dict()
    if not any(is_cut(value) for value in state.values()):
        return network
    gathered: dict[str, Tensor] = {}
    for name, value in state.items():
        tensor = in_one_piece(value)
        if rank() == 0:
            gathered[name] = tensor.cpu()
    if rank() > 0:
        return None
    kind: Any = type(network).__bases__[-1]  # before it was cut, which made it a class of its own
    with torch.device("meta"):
        copy = kind.from_config(network.config)
    copy.load_state_dict(gathered, assign=True)
    return copy


def _refuse(where: Path | str, what: str, names: Iterable[str]) -> None:
    names = sorted(names)
    if not names:
        return
    count = "a tensor is" if len(names) == 1 else f"{len(names)} tensors are"
    raise UserError(f"{where}: {count} {what}, such as {names[0]}; download it again")
