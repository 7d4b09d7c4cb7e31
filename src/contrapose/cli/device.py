"""The option that says where a command computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from contrapose.backbones.loading import best_device, check_device


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """Whatever computes on a device inherits this; one that cannot be used is told before anything else is done."""

    device: str = field(default_factory=best_device)
    """Where models run: cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        check_device(self.device)
