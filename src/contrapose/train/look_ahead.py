"""What is needed next is made by a thread of its own while the network works on what is there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import torch

NAME = "look-ahead"
T = TypeVar("T")


class _End:
    """Stands behind the last item."""


class LookAhead(Generic[T]):
    """Items in their order, each made in one thread, up to `num_ahead` of them before they are asked for.

    With 0 each is made when it is asked for. What goes wrong in the thread is raised where the item is asked for. The
    thread lives as long as the `with` block.
    """

    def __init__(self, num_ahead: int):
        self.num_ahead = num_ahead
        self.waited = 0.0
        """Seconds for which items were not there yet when they were asked for, or the thread was not at rest."""
        self._pending: deque[Future[T | _End]] = deque()
        gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None

        def begin() -> None:
            # a new thread is on the first GPU, whichever this process computes on
            if gpu is not None:
                torch.cuda.set_device(gpu)

        self._thread = ThreadPoolExecutor(1, NAME, begin)

    def __enter__(self) -> LookAhead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """These items; the ones before must all have been asked for."""
        self.rest()
        iterator = iter(items)
        pending = self._pending = deque()
        while True:
            while len(pending) <= self.num_ahead:
                pending.append(self._thread.submit(next, iterator, _End()))
            begun = time.perf_counter()
            item = pending.popleft().result()
            self.waited += time.perf_counter() - begun
            if isinstance(item, _End):
                return
            yield item

    def rest(self) -> None:
        """Wait until the thread has nothing to do, which lasts until the next item is asked for."""
        begun = time.perf_counter()
        wait(self._pending)
        self.waited += time.perf_counter() - begun
