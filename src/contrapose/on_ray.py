"""Workers on the machines of a Ray cluster: where each one is started, what it tells, and what if it is lost.

A worker is an actor: a process of its own, on a machine that has what it needs. One that is lost, with its machine or
alone, is started again where there is room. No file is lost or made twice by that, since claims end with their process
(`contrapose.workers`); of Ray nothing is asked but to start processes and to watch them. The machines share a disk.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from contrapose.errors import UserError, one_line

_OFTEN = 1.0  # seconds between two looks at what workers tell
_CONNECTING = 5.0  # seconds that an address may take to answer: Ray itself would try for many minutes
_MOST_LOSSES = 5  # of one worker, before it has come any further
_OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # what Ray asks for by options of their own


class HowFar(NamedTuple):
    """How far a worker is with something, by what it has seen done."""

    title: str
    done: int
    total: int | None


class Remark(NamedTuple):
    """A line that a worker has to say, for `stdout` or `stderr`."""

    text: str
    stream: str = "stderr"


News = HowFar | Remark
Job = Callable[[Callable[[News], None]], "str | None"]
"""What a worker does, telling its news; it returns None when it is done, or in one line why it cannot be done."""


class _Placed(NamedTuple):
    host: str


class _Ended(NamedTuple):
    refusal: str | None


class _Actor:
    """A worker where it works: the first thing in a process that Ray has started for it."""

    def work(self, job: Job, number: int, of: int, folder: str) -> Iterator[Sequence[News | _Placed | _Ended]]:
        """Do the job as worker `number` of so many, in a folder that is there, yielding the news of each second."""
        yield [_Placed(socket.gethostname())]
        # As torchrun would say it. Of GPUs a worker sees those that Ray gave it.
        os.environ.update(RANK=str(number), WORLD_SIZE=str(of), LOCAL_RANK=str(number))
        try:
            os.chdir(folder)
        except OSError:
            message = f"{folder}: is not on {socket.gethostname()}; start this in a folder that all machines see"
            yield [_Ended(message)]
            return
        news: SimpleQueue[News] = SimpleQueue()
        with ThreadPoolExecutor(1) as thread:
            ending = thread.submit(job, news.put)
            while not ending.done():
                wait([ending], timeout=_OFTEN)
                yield _latest([news.get() for _ in range(news.qsize())])
        yield [*_latest([news.get() for _ in range(news.qsize())]), _Ended(ending.result())]


def _latest(news: list[News]) -> list[News]:
    """The news without progress that went on since."""
    last = {item.title: item for item in news if isinstance(item, HowFar)}
    return [item for item in news if not isinstance(item, HowFar) or item is last[item.title]]


@dataclass(eq=False)
class _Member:
    """A worker as it is seen from where all are started."""

    number: int
    actor: Any = None
    news: Any = None
    host: str = ""
    """Where it works; empty while it waits for room."""
    is_new: bool = True
    """Whether it has not worked anywhere yet."""
    num_losses: int = 0
    """How often it was lost since it last came further."""
    furthest: dict[str, int] = field(default_factory=dict)

    def heard(self, news: News) -> None:
        """Note how far it is: one that comes further is not about to fail for ever."""
        if isinstance(news, HowFar) and news.done > self.furthest.get(news.title, 0):
            self.furthest[news.title] = news.done
            self.num_losses = 0


def amounts(resources: Iterable[str]) -> dict[str, float]:
    """How much of which resource, of texts such as GPU:1; `UserError` for one that says no amount, and for none."""
    needs: dict[str, float] = {}
    for text in resources:
        name, _, number = text.rpartition(":")
        try:
            amount = float(number)
        except ValueError:
            amount = 0.0
        if not name or not 0 < amount < float("inf"):
            raise UserError(f"resources {text}: a name and how much of it is wanted, such as GPU:1, CPU:4 or judge:1")
        if name == "GPU" and amount > 1 and not amount.is_integer():
            raise UserError(f"resources {text}: a share of one GPU is wanted, or a whole number of them")
        if name in needs:
            raise UserError(f"resources {text}: says again how much {name} is wanted; name it once")
        needs[name] = amount
    if not needs:
        raise UserError("resources: at least one is wanted, such as CPU:1")
    return needs


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be part of the Ray cluster at an address, or of the one that this process is part of already.

    Raises `UserError` where Ray is not installed, and where no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise UserError("ray is not installed; run 'pip install contrapose[ray]' on every machine") from None
    if ray.is_initialized():
        yield
        return
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    _check_answers(address)
    of_one = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **of_one)
    except (OSError, RuntimeError, ValueError) as error:
        fix = "start one by 'ray start --head', or take --address local for this machine alone"
        raise UserError(f"address {address}: no cluster of Ray to be part of; {fix} ({one_line(error)})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise `UserError` for an address with a port where nobody answers."""
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise UserError(f"address {address}: is for clients; start this on a machine of the cluster, with HOST:6379")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), _CONNECTING).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"address {address}: no cluster of Ray answers ({one_line(error)})") from None


def num_places(needs: Mapping[str, float]) -> int:
    """For how many workers the machines that are up have room when nothing else runs there.

    Raises `UserError` where none of them has what one worker needs.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num = 0
    for has in machines:
        # tenths of a GPU are no binary fractions
        num += min(int(has.get(name, 0) / amount + 1e-6) for name, amount in needs.items())
    if num:
        return num
    most: dict[str, float] = {}
    for has in machines:
        for name, amount in has.items():
            if not name.startswith(("node:", "object_store")):
                most[name] = max(amount, most.get(name, 0))
    wanted = ", ".join(f"{name}:{amount:g}" for name, amount in needs.items())
    at_most = ", ".join(f"{name}:{amount:g}" for name, amount in sorted(most.items()))
    raise UserError(f"resources {wanted}: no machine of the cluster has them; one has at most {at_most or 'nothing'}")


class Crew:
    """The workers that do one job together, each on a machine that has what it needs."""

    def __init__(self, job: Job, needs: Mapping[str, float], num: int):
        import ray

        self._job = job
        self._needs = needs
        self._num = num
        named = {_OPTIONS[name]: amount for name, amount in needs.items() if name in _OPTIONS}
        by_name = {name: amount for name, amount in needs.items() if name not in _OPTIONS}
        self._actors = ray.remote(_Actor).options(**{"num_cpus": 0, **named}, resources=by_name)
        self._members = [_Member(number) for number in range(num)]

    def work(self) -> Generator[tuple[int, News], None, None]:
        """Let all work until the job is done, yielding the news of each with its number.

        A worker that is lost is started again. When one is done, nothing is left that another one would have to begin:
        those that have found no place by then are not started any more. All are stopped when the generator is closed.

        Raises `UserError` for what a worker refuses, and for one that is lost over and over and comes no further.
        """
        import ray

        is_waiting = False
        try:
            for member in self._members:
                self._start(member)
            while self._members:
                streams = {member.news: member for member in self._members}
                ready, _ = ray.wait(list(streams), num_returns=len(streams), timeout=_OFTEN)
                for stream in ready:
                    # another one may have made it needless
                    if streams[stream] in self._members:
                        yield from self._news_of(streams[stream])
                was_waiting = is_waiting
                is_waiting = not any(member.host for member in self._members) and self._has_no_place()
                if is_waiting and not was_waiting:
                    yield 0, Remark("no machine that is up has what a worker needs; waiting for one")
        finally:
            for member in self._members:
                ray.kill(member.actor)

    def _start(self, member: _Member) -> None:
        member.host = ""
        member.actor = self._actors.remote()
        work = member.actor.work.options(num_returns="streaming")
        member.news = work.remote(self._job, member.number, self._num, str(Path.cwd()))

    def _news_of(self, member: _Member) -> Iterator[tuple[int, News]]:
        """What a worker tells, after which it may have ended, or have been started again."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            news = ray.get(next(member.news))
        except RayTaskError:
            raise  # a fault of ours, with the worker's traceback
        except RayError as error:
            yield member.number, self._lost(member, error)
            self._start(member)
            return
        for item in news:
            if isinstance(item, _Placed):
                member.host = item.host
                member.is_new = False
            elif isinstance(item, _Ended):
                self._ended(member, item.refusal)
            else:
                member.heard(item)
                yield member.number, item

    def _lost(self, member: _Member, error: Exception) -> Remark:
        """Note the loss, and what is said of it."""
        import ray

        *_, reason = str(error).splitlines()
        if "failed to import" in str(error):  # Ray's words where it has not found the actor's class
            raise UserError(
                f"a machine of the cluster has another contrapose or none ({reason}); install the same on all"
            )
        ray.kill(member.actor)  # it may only be out of reach
        member.num_losses += 1
        place = f" on {member.host}" if member.host else ""
        name = f"worker {member.number + 1} of {self._num}{place}"
        if member.num_losses == _MOST_LOSSES:
            raise UserError(
                f"{name} was lost {_MOST_LOSSES} times before it came any further; what is made stays, and the same "
                f"command carries on ({reason.strip()})"
            )
        return Remark(f"{name} was lost, and is started again")

    def _ended(self, member: _Member, refusal: str | None) -> None:
        import ray

        if refusal is not None:
            raise UserError(refusal)
        for needless in [other for other in self._members if other is member or other.is_new]:
            self._members.remove(needless)
            ray.kill(needless.actor)  # what it took is free for those that wait for room

    def _has_no_place(self) -> bool:
        try:
            return not num_places(self._needs)
        except UserError:
            return True
