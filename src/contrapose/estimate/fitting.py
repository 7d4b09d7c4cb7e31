"""Which card a run fits on, and the smallest change of its settings that makes it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from contrapose.estimate.estimate import skeleton_of
from contrapose.estimate.settings import Setup
from contrapose.estimate.standing import CONTEXT

CARDS = (12, 16, 24, 48, 80)  # GiB
USABLE = 0.95  # of a card: the driver keeps some, and the allocator's fragments take some


@dataclass(frozen=True)
class CardFit:
    """Whether a run fits on a card of so many GiB: `changes` are the settings that make it fit, None when none do."""

    card: int
    changes: tuple[str, ...] | None
    bytes: int
    """Needed with the changes, or as it is when none help."""

    def __str__(self) -> str:
        size = f"{self.bytes / 2**30:.1f} GiB"
        if self.changes is None:
            return f"does not fit ({size} as it is)"
        if self.changes:
            return f"with {', '.join(self.changes)} ({size})"
        return f"fits ({size})"


def fit(setup: Setup, card: int) -> CardFit:
    """The first way in `ways` that fits on a card of so many GiB."""
    budget = card * 2**30 * USABLE
    for base_changes, base in bases(setup):
        bones = skeleton_of(base)
        if max(bones.standing(base).total, bones.encoders + CONTEXT) > budget:
            continue
        for changes, way in ways(base):
            needed = _needed(way)
            if needed <= budget:
                return CardFit(card, (*base_changes, *changes), needed)
    return CardFit(card, None, _needed(setup))


def bases(setup: Setup) -> Iterator[tuple[tuple[str, ...], Setup]]:
    """The setup with what changes the network or its optimiser, smallest change first."""
    changes: tuple[str, ...] = ()
    yield changes, setup
    if setup.precision == "fp32":
        setup = replace(setup, precision="bf16")
        changes = ("--precision bf16",)
        yield changes, setup
    if setup.full:
        if setup.optimizer == "adamw":
            yield (*changes, "--optimizer adamw-8bit"), replace(setup, optimizer="adamw-8bit")
        setup = replace(setup, full=False)
        changes = (*changes, "LoRA (no --full)")
        yield changes, setup
    if setup.quantize == "none":
        yield (*changes, "--quantize int8"), replace(setup, quantize="int8")
    if setup.quantize != "nf4":
        yield (*changes, "--quantize nf4"), replace(setup, quantize="nf4")


def ways(setup: Setup) -> Iterator[tuple[tuple[str, ...], Setup]]:
    """The setup with what changes activations alone: checkpointing, smaller micro-batches, split pairs."""
    changes: tuple[str, ...] = ()
    yield changes, setup
    if not setup.gradient_checkpointing:
        setup = replace(setup, gradient_checkpointing=True)
        changes = ("--gradient-checkpointing",)
        yield changes, setup
    for size in range(setup.micro_batch - 1, 0, -1):
        if setup.batch_size % size == 0:
            yield (*changes, f"--micro-batch {size}"), replace(setup, micro_batch=size)
    _, num_trained = setup.rows
    if num_trained > 1 and not setup.split_pairs:
        if setup.micro_batch > 1:
            changes = (*changes, "--micro-batch 1")
        yield (*changes, "--split-pairs"), replace(setup, micro_batch=1, split_pairs=True)


def _needed(setup: Setup) -> int:
    bones = skeleton_of(setup)
    return max(bones.memory(setup).total, bones.encoders + CONTEXT)
