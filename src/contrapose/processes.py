"""Which of several processes this is, as launchers such as torchrun, accelerate and srun tell it in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from contrapose.errors import UserError, one_line

T = TypeVar("T")

_LAUNCHERS = (  # the variables in which each tells a process its number, of how many, and which it is on its machine
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, accelerate
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # srun: a batch script itself is no step
)


class Launched(NamedTuple):
    """Which of several processes this is, as a launcher says it."""

    number: int
    of: int
    number_here: int
    """Among those of this machine."""


def launched() -> Launched | None:
    """What torchrun, accelerate or srun says of this process; None where none of them started several."""
    for names in _LAUNCHERS:
        values = [os.environ.get(name, "") for name in names]
        if all(value.isdecimal() for value in values[:2]) and int(values[1]) > 1:
            here = int(values[2]) if values[2].isdecimal() else int(values[0])
            return Launched(int(values[0]), int(values[1]), here)
    return None


def num_processes() -> int:
    """How many processes torchrun or accelerate started that talk to one another; 1 without them."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process among them, from 0; the first one does the file work."""
    return _number("RANK", 0)


def of_all(value: T) -> list[T]:
    """What each of the processes that talk to one another gives, by their ranks; all of these are to call this."""
    from torch import distributed

    if not distributed.is_initialized():
        return [value]
    values = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


@contextmanager
def together() -> Iterator[None]:
    """What one process fails at ends all of them, which are all to come here, so that none waits for it later on.

    Nothing within may wait for other processes. Raises the error in the process that has it, and `UserError` that tells
    of it in the others.
    """
    error: Exception | None = None
    reason: str | None = None
    try:
        yield
    except Exception as raised:
        error = raised
        reason = str(raised) if isinstance(raised, UserError) else f"{type(raised).__name__}: {one_line(raised)}"
    messages = of_all(reason)
    if error is not None:
        raise error
    for number, message in enumerate(messages):
        if message is not None:
            raise UserError(message if number == 0 else f"process {number}: {message}")


def shared_out(items: Sequence[T], number: int, of: int) -> list[tuple[T, bool]]:
    """This process's share of what several do together, every `of`-th; and of each item whether it counts.

    All processes get as many, as they have to where one waits for another in the middle of an item: what is lacking at
    the end is made up by the last item, which does not count.
    """
    share = [(item, True) for item in items[number::of]]
    most = -(-len(items) // of)
    return share + [(items[-1], False)] * (most - len(share))


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default
