"""How servers are asked: several questions at once, again where a server is busy, and none twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Annotated, Any

from contrapose.answer_cache import FIX, AnswerCache
from contrapose.endpoints import PATIENCE_S, Endpoint, GivenUp, waiting
from contrapose.errors import UserError
from contrapose.files import users_cache
from contrapose.ranges import AtLeast0, Few, Range, checked
from contrapose.runfile import Practical

ANSWERS = "answers.sqlite"
_GIVEN_UP = "given up"  # in the cache, when and on which server; the keys of answers are digests

Job = Callable[[], Mapping[str, Any]]
"""One request: the answers by their keys in the cache."""


@dataclass(frozen=True)
@checked
class Asking:
    """How a server is asked; decides no result."""

    at_once: Practical[Few] = 8
    """Requests that are under way at once."""
    patience: Practical[AtLeast0] = PATIENCE_S
    """Seconds for which a server that is busy, silent or gone is asked again, with growing pauses, before the run
    ends."""
    timeout: Practical[Annotated[float, Range(0, 86400, low_open=True)]] = 120.0
    """Seconds after which a server that says nothing counts as silent."""
    cache: Practical[Path | None] = None
    """File that keeps the answers, so that nothing is asked twice; answers.sqlite in the user's cache when unset."""

    @property
    def answers(self) -> AnswerCache:
        """The cache."""
        return AnswerCache(Path(self.cache) if self.cache else users_cache() / ANSWERS)

    def endpoint(self, address: str, task: str | None = "chat/completions") -> Endpoint:
        """Where is asked; `UserError` for an address that is none."""
        return Endpoint(address, task, self.patience, self.timeout)

    def carry_out(
        self,
        jobs: Sequence[Job],
        tell: Callable[[int], None] | None = None,
        in_line_since: float | None = None,
    ) -> dict[str, Any]:
        """Make the requests, several at once, and keep the answers as they come; all of them by key.

        `tell` is told how many requests are answered. After an error no further request is begun, and what the others
        answer is kept. Raises the first one. A server that another process has given up on after `in_line_since`, in
        seconds since 1970, when this one began to wait for its turn, is asked and not waited for once more.
        """
        answers: dict[str, Any] = {}
        cache = self.answers
        first_error: BaseException | None = None
        num_done = 0
        still_to_do = iter(jobs)
        running: set[Future[Mapping[str, Any]]] = set()
        is_over = Event()
        given_up = _given_up_after(in_line_since, cache)

        def begun(job: Job) -> Mapping[str, Any]:
            if is_over.is_set():
                return {}
            try:
                with waiting(until=is_over, in_vain_for=given_up):
                    return job()
            except BaseException:
                if is_over.is_set():
                    return {}  # it was not waited for any more
                is_over.set()
                raise

        with ThreadPoolExecutor(self.at_once) as pool:
            try:
                while True:
                    if not is_over.is_set():
                        # as many again stand ready, so that no thread idles while answers are kept
                        ready = islice(still_to_do, 2 * self.at_once - len(running))
                        running |= {pool.submit(begun, job) for job in ready}
                    if not running:
                        break
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    new: dict[str, Any] = {}
                    for future in done:
                        error = future.exception()
                        first_error = first_error or error
                        new |= {} if error else future.result()
                    cache.add(new)
                    answers |= new
                    num_done += len(done)
                    if tell is not None:
                        tell(num_done)
            finally:
                is_over.set()  # an interrupted one waits for what is under way alone
        if isinstance(first_error, GivenUp):
            cache.add({_GIVEN_UP: {"url": first_error.url, "at": time.time()}})
        if first_error is not None:
            raise first_error
        return answers


def _given_up_after(moment: float | None, cache: AnswerCache) -> str | None:
    """The server that a process with the same cache has given up on since then, if any."""
    if moment is None:
        return None
    note = cache.get([_GIVEN_UP]).get(_GIVEN_UP)
    match note:
        case None:
            return None
        case {"url": str(url), "at": int() | float() as given_up_at}:
            return url if given_up_at > moment else None
    raise UserError(f"{cache.path}: its note {_GIVEN_UP!r} does not say which server and when; {FIX}")
