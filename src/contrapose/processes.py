"""Which of several processes this is, as launchers such as torchrun, accelerate and srun tell it in the environment."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from contrapose.errors import UserError, one_line

if TYPE_CHECKING:
    from torch.distributed import TCPStore

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=2)
"""Of processes for another, such as the first one that alone reads a network."""
_FIRST_S = 3.0  # seconds that the first process has to tell what all would tell
_OFTEN_S = 0.05  # seconds between two looks whether it has

_LAUNCHERS = (  # the variables in which each tells a process its number, of how many, and which it is on its machine
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, accelerate
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # srun: a batch script itself is no step
)


_ENGINES = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}


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


def may_meet_in_vain() -> bool:
    """Whether torchrun starts processes again where one failed, and keeps the addresses of those before.

    It keeps one store for all attempts, unless its processes meet by c10d and TORCH_DISABLE_SHARE_RDZV_TCP_STORE is 1;
    and gloo may take an address that a process had before for its new one.
    """
    return _number("TORCHELASTIC_MAX_RESTARTS", 0) > 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def check_engine() -> None:
    """Raise `UserError` where accelerate, by its file or a flag, is to train by an engine of its own."""
    for variable, engine in _ENGINES.items():
        if os.environ.get(variable, "").lower() == "true":
            raise UserError(
                f"accelerate is told to train by {engine}, which 'contrapose align' does not; launch it with "
                "--multi-gpu, or by torchrun, and cut networks up by --shard full"
            )


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


@contextmanager
def told_once(*messages: str) -> Iterator[bool]:
    """Whether this process is to tell the user of an error, which others may have too, in one of these wordings.

    It is told within the block. The first process tells what all have; another one where neither that has told it after
    a few seconds, nor any of the rest. They know of that by the store of torchrun, which `accelerate launch` starts
    too. Where there is none, the first process alone tells.
    """
    store = _meeting_place()
    if store is None:
        yield rank() == 0
        return
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    keys = [f"contrapose told {attempt} {hashlib.sha256(message.encode()).hexdigest()}" for message in messages]
    until = time.monotonic() + (_FIRST_S if rank() > 0 else 0.0)
    try:
        while time.monotonic() < until and not any(store.check([key]) for key in keys):
            time.sleep(_OFTEN_S)
        # beside whether a wording was told, how many have come to tell it
        is_first = max([store.add(f"{key} by", 1) for key in keys]) == 1
    except RuntimeError:  # the process that kept it has ended
        is_first = rank() == 0
    yield is_first
    if is_first:
        # only now may others end: torchrun ends this process when one of them has
        with suppress(RuntimeError):
            for key in keys:
                store.set(key, "told")


def _meeting_place() -> TCPStore | None:
    """The store by which torchrun brings processes together; None where there is none, or it cannot be reached.

    One that the first process holds itself is left alone: it may end at any moment, of which torch would tell a page.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import TCPStore

    host = os.environ.get("MASTER_ADDR", "")
    try:
        port = int(os.environ.get("MASTER_PORT", ""))
        return TCPStore(host, port, timeout=timedelta(seconds=_FIRST_S), wait_for_workers=False)
    except (RuntimeError, ValueError):
        return None


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
