"""Which card a run fits on, and the smallest change of its settings that makes it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from contrapose.estimate.estimate import Setup, skeleton_of
from contrapose.estimate.standing import CONTEXT

CARDS = (12, 16, 24, 48, 80)  # GiB
USABLE = 0.95  # of a card: the driver keeps some, and the allocator's fragments take some


@dataclass(frozen=True)
class Verdict:
    """Whether a run fits on a card of so many GiB: `changes` are the settings that make it fit, None when none do."""

    card: int
    changes: tuple[str, ...] | None
    bytes: int
    """Needed with the changes, or as it is when none help."""

    def __str__(self) -> str:
        need = f"{self.bytes / 2**30:.1f} GiB"
        if self.changes is None:
            return f"does not fit ({need} as it is)"
        return f"fits ({need})" if not self.changes else f"with {', '.join(self.changes)} ({need})"


def fit(setup: Setup, card: int) -> Verdict:
    """The first way in `ways` that fits on a card of so many GiB."""
    budget = card * 2**30 * USABLE
    for base_changes, base in bases(setup):
        bones = skeleton_of(base)
        if max(bones.standing(base).total, bones.encoders + CONTEXT) > budget:
            continue
        for changes, way in ways(base):
            needed = _needed(way)
            if needed <= budget:
                return Verdict(card, (*base_changes, *changes), needed)
    return Verdict(card, None, _needed(setup))


def bases(setup: Setup) -> Iterator[tuple[tuple[str, ...], Setup]]:
    """The setup with what changes the network or its optimiser, smallest change first."""
    changes: tuple[str, ...] = ()
    yield changes, setup
    if setup.precision == "fp32":
        setup, changes = replace(setup, precision="bf16"), ("--precision bf16",)
        yield changes, setup
    if setup.full:
        if setup.optimizer == "adamw":
            yield (*changes, "--optimizer adamw-8bit"), replace(setup, optimizer="adamw-8bit")
        setup, changes = replace(setup, full=False), (*changes, "LoRA (no --full)")
        yield changes, setup
    kinds = ("int8", "nf4")
    for kind in kinds[kinds.index(setup.quantize) + 1 if setup.quantize in kinds else 0 :]:
        yield (*changes, f"--quantize {kind}"), replace(setup, quantize=kind)


def ways(setup: Setup) -> Iterator[tuple[tuple[str, ...], Setup]]:
    """The setup with what changes activations alone: checkpointing, smaller micro-batches, split pairs."""
    changes: tuple[str, ...] = ()
    yield changes, setup
    if not setup.gradient_checkpointing:
        setup, changes = replace(setup, gradient_checkpointing=True), ("--gradient-checkpointing",)
        yield changes, setup
    for size in (n for n in range(setup.micro_batch - 1, 0, -1) if setup.batch_size % n == 0):
        yield (*changes, f"--micro-batch {size}"), replace(setup, micro_batch=size)
    if setup.rows[1] > 1 and not setup.split_pairs:
        changes = (*changes, "--micro-batch 1") if setup.micro_batch > 1 else changes
        yield (*changes, "--split-pairs"), replace(setup, micro_batch=1, split_pairs=True)


def _needed(setup: Setup) -> int:
    bones = skeleton_of(setup)
    return max(bones.memory(setup).total, bones.encoders + CONTEXT)
