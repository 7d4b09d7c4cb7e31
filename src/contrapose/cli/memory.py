"""Memory that runs out, told in one line with what would fit; and told beforehand where it can be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contrapose.cli.follow import follow_once_begun
from contrapose.cli.progress import Bar
from contrapose.errors import UserError
from contrapose.processes import rank
from contrapose.progress import Progress

if TYPE_CHECKING:
    from contrapose.estimate.advice import Images
    from contrapose.train.loop import TrainState
    from contrapose.train.stages import Stage

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
log = logging.getLogger(__name__)


class OutOfMemory(UserError):
    """Memory has run out; what was saved before stays."""


def ran_out(error: Exception) -> bool:
    """Whether memory ran out: each device tells in its own words, most of them as a RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _NO_MEMORY)


@contextmanager
def advised(advice: Callable[[float | None], str], device: str = "cuda") -> Iterator[None]:
    """Raise `OutOfMemory` for memory that runs out within, with advice for a card of so many GiB (None: no GPU)."""
    from contrapose.estimate.advice import card_size

    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
    else:
        return
    # outside of the handler, where the frames that held the tensors are gone
    raise OutOfMemory(f"out of memory; {advice(card_size(device))}")


def follow_stage(stage: Stage, train: Callable[[Stage, Progress], Iterable[TrainState]]) -> None:
    """Train, and draw a bar meanwhile; tell of a GPU that is too small before, and what fits when memory runs out.

    A run on CPUs is not judged beforehand: what the estimate counts is a GPU's kernels and precision.
    """
    from contrapose.estimate.advice import after_training, card_size, warning_before
    from contrapose.runs.folder import RunFolder

    card = card_size()
    if card is not None and rank() == 0 and not RunFolder(stage.folder).finished:
        warning = warning_before(stage.run, card)
        if warning:
            log.warning(warning)
    with advised(lambda card: after_training(stage.run, card)):
        follow_once_begun(stage.title, stage.run.optimisation.train_steps, train(stage, Bar), "step")


@contextmanager
def image_memory(images: Images, device: str) -> Iterator[None]:
    """Tell of a GPU that is too small for an image before it is made or read, and how many fit when memory runs out."""
    from contrapose.estimate.advice import card_size

    card = card_size(device)
    warning = None if card is None else images.warning_before(card)
    if warning:
        log.warning(warning)
    with advised(images.after, device):
        yield
