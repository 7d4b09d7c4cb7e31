"""Which layers of a network adapters are put on: by ends of names, by patterns, or by a word for many."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from contrapose.backbones.settings import ALL_LINEAR, ATTENTION
from contrapose.errors import UserError

_LISTED = 40  # ends of names that an error lists
_IN_BLOCK = re.compile(r".*\.\d+\.(?=\D)")  # what stands before a layer's name within its block


def chosen(network: nn.Module, part: str, targets: Sequence[str], usual: tuple[str, ...]) -> tuple[str, ...] | str:
    """Layers in peft's words: the `usual` ends of names for `attention` alone, else every layer by its whole name.

    A target that is no word is the end of a layer's name, or a regular expression of the whole name. Raises `UserError`
    for one that matches no layer, telling what there is.
    """
    if tuple(targets) == (ATTENTION,):
        return usual
    layers: dict[str, nn.Module] = {}
    for name, layer in network.named_modules():
        # linear layers, quantised ones too, and convolutions in which all inputs reach all outputs
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            layers[name] = layer
    names: set[str] = set()
    for target in targets:
        matching = _matching(layers, target, usual)
        if not matching:
            within_blocks = sorted({_IN_BLOCK.sub("", name) for name in layers})
            raise UserError(
                f"lora_targets {target!r:.100}: matches no layer of this model's {part}; there are "
                f"{', '.join(within_blocks[:_LISTED])}{' ...' if len(within_blocks) > _LISTED else ''}"
            )
        names |= matching
    ordered = tuple(name for name in layers if name in names)
    # peft takes a whole name for an end as well: where that would reach further layers, a pattern says which are meant
    if any(_ends_with_one(other, ordered) for other in layers.keys() - names):
        return "|".join(map(re.escape, ordered))
    return ordered


def _matching(layers: dict[str, nn.Module], target: str, usual: tuple[str, ...]) -> set[str]:
    """The layers that a target means."""
    if target == ALL_LINEAR:
        return {name for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    ends = usual if target == ATTENTION else (target,)
    by_end = {name for name in layers if _ends_with_one(name, ends)}
    return by_end or {name for name in layers if re.fullmatch(target, name)}


def _ends_with_one(name: str, ends: Sequence[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)
