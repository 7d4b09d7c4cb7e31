"""Which card a run fits on, and the smallest change of its settings that makes it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from contrapose.backbones.settings import Quantisation
from contrapose.estimate.estimate import skeleton_of
from contrapose.estimate.settings import Setup
from contrapose.estimate.standing import CONTEXT

GIB = 2**30
USABLE = 0.95  # of a card: the driver keeps some, and the allocator's fragments take some
Changes = tuple[str, ...]
Way = tuple[Changes, Setup]
"""Flags, and the setup that they make."""


@dataclass(frozen=True)
class CardFit:
    """Whether a run fits on a card of so many GiB: `changes` are the settings that make it fit, None when none do."""

    card: float
    changes: Changes | None
    bytes: int
    """Needed with the changes, or as it is when none help."""
    roomiest: tuple[int, int] | None = None
    """The largest micro-batch that fits beyond the run's own, with the bytes that it takes; None when there is none."""

    @property
    def flags(self) -> str:
        """The settings that make it fit, as they are typed."""
        return " ".join(self.changes or ())

    def __str__(self) -> str:
        size = gib(self.bytes)
        if self.changes is None:
            return f"does not fit, whatever is changed ({size} as it is)"
        if self.changes:
            return f"with {self.flags} ({size})"
        if self.roomiest is None:
            return f"fits ({size})"
        micro_batch, needed = self.roomiest
        return f"fits ({size}), up to --micro-batch {micro_batch} ({gib(needed)})"


def gib(count: float) -> str:
    """A number of bytes in words."""
    return f"{count / GIB:.1f} GiB"


def fit_card(setup: Setup, card: float) -> CardFit:
    """Whether the setup fits on a card of so many GiB, or what makes it fit."""
    way = first_fitting(setup, card)
    if way is None:
        return CardFit(card, None, needed_by(setup))
    changes, changed = way
    return CardFit(card, changes, needed_by(changed), None if changes else _roomiest(setup, card * GIB * USABLE))


def first_fitting(setup: Setup, card: float) -> Way | None:
    """The first way in `ways` of `bases` that fits on a card of so many GiB; None where none does."""
    budget = card * GIB * USABLE
    for base_changes, base in bases(setup):
        bones = skeleton_of(base)
        if max(bones.standing(base).total, bones.encoders + CONTEXT) > budget:
            continue
        for changes, way in ways(base):
            if needed_by(way) <= budget:
                return (*base_changes, *changes), way
    return None


def bases(setup: Setup) -> Iterator[Way]:
    """The setup with what changes the network or its optimiser, smallest change first."""
    changes: Changes = ()
    yield changes, setup
    if setup.precision == "fp32":
        setup = _with(setup, precision="bf16")
        changes = ("--precision bf16",)
        yield changes, setup
    if setup.run.sharding.shard != "none":  # which goes with neither of what follows
        return
    if setup.run.full:
        if setup.run.optimisation.optimizer == "adamw":
            yield (*changes, "--optimizer adamw-8bit"), _optimised(setup, optimizer="adamw-8bit")
        setup = _with(setup, full=False)
        changes = (*changes, "--no-full")
        yield changes, setup
    quantize = setup.run.loading.quantize
    if quantize == "none":
        yield (*changes, "--quantize int8"), _quantised(setup, "int8")
    if quantize != "nf4":
        yield (*changes, "--quantize nf4"), _quantised(setup, "nf4")


def ways(setup: Setup) -> Iterator[Way]:
    """The setup with what changes activations alone: checkpointing, smaller micro-batches, split pairs."""
    changes: Changes = ()
    yield changes, setup
    if not setup.run.gradient_checkpointing:
        setup = _with(setup, gradient_checkpointing=True)
        changes = ("--gradient-checkpointing",)
        yield changes, setup
    o = setup.run.optimisation
    for size in range(o.micro_batch - 1, 0, -1):
        if o.batch_size % size == 0:
            yield (*changes, f"--micro-batch {size}"), _optimised(setup, micro_batch=size)
    _, num_trained = setup.rows
    if num_trained > 1 and not setup.run.split_pairs:
        if o.micro_batch > 1:
            changes = (*changes, "--micro-batch 1")
        yield (*changes, "--split-pairs"), _with(_optimised(setup, micro_batch=1), split_pairs=True)


def needed_by(setup: Setup) -> int:
    """Bytes that the larger of the two phases takes: reading text, or training."""
    bones = skeleton_of(setup)
    return max(bones.memory(setup).total, bones.encoders + CONTEXT)


def _roomiest(setup: Setup, budget: float) -> tuple[int, int] | None:
    """The largest micro-batch within a number of bytes, and what it takes, where that is more than the setup's own."""
    o = setup.run.optimisation
    for size in range(o.batch_size, o.micro_batch, -1):
        if o.batch_size % size == 0:
            needed = needed_by(_optimised(setup, micro_batch=size))
            if needed <= budget:
                return size, needed
    return None


def _with(setup: Setup, **changes: Any) -> Setup:
    return replace(setup, run=replace(setup.run, **changes))


def _optimised(setup: Setup, **changes: Any) -> Setup:
    return _with(setup, optimisation=replace(setup.run.optimisation, **changes))


def _quantised(setup: Setup, kind: Quantisation) -> Setup:
    return _with(setup, loading=replace(setup.run.loading, quantize=kind))
