"""The option that says where a command computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """Where a command computes; a device that cannot be used is told before anything else is done."""

    device: str | None = None
    """Where models run: cpu, cuda, cuda:1, mps; the fastest of this machine when unset."""

    def __post_init__(self) -> None:
        if self.device is not None:
            from contrapose.backbones.loading import check_device

            check_device(self.device)

    @property
    def name(self) -> str:
        """The device, or the fastest of this machine; of several processes each has a GPU in turn, but of cuda:1."""
        from contrapose.backbones.loading import best_device
        from contrapose.processes import launched

        if self.device not in (None, "cuda"):
            return self.device
        process = launched()
        return best_device(process.number_here if process else 0)
