"""How servers are asked about images: several at once, again where they are busy, and never twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

from PIL.Image import Image

from contrapose.containers.images import digest
from contrapose.endpoints import Endpoint
from contrapose.errors import UserError, one_line
from contrapose.files import users_cache
from contrapose.judges.answer_cache import AnswerCache
from contrapose.ranges import Few, Range, checked
from contrapose.runfile import Practical

ANSWERS = "answers.sqlite"
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

Job = Callable[[], Mapping[str, Any]]
"""One request: the answers by their keys in the cache."""


@dataclass(frozen=True)
@checked
class Asking:
    """How a server is asked; decides no result."""

    at_once: Practical[Few] = 8
    """Requests that are under way at once."""
    tries: Practical[Few] = 6
    """How often a request is made before a server that is busy or silent is given up."""
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
        return Endpoint(address, task, self.tries, self.timeout)

    def carry_out(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """Make the requests, several at once, and keep the answers as they come; all of them by key.

        After an error no further request is begun, and what the others answer is kept. Raises the first one.
        """
        answers: dict[str, Any] = {}
        cache = self.answers
        first_error: BaseException | None = None
        pool = ThreadPoolExecutor(self.at_once)
        try:
            running: set[Future[Mapping[str, Any]]] = {pool.submit(job) for job in jobs}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                new: dict[str, Any] = {}
                for future in done:
                    error = future.exception()
                    if error is None:
                        new |= future.result()
                    first_error = first_error or error
                cache.add(new)
                answers |= new
                if first_error is not None:
                    running = {future for future in running if not future.cancel()}
        finally:
            pool.shutdown(cancel_futures=True)
        if first_error is not None:
            raise first_error
        return answers


def digest_of_pixels(image: Image) -> str:
    """A digest of what is seen of an image, whatever its file."""
    return digest(image.convert("RGB"))


def check_metric_name(where: str, name: str) -> None:
    """Raise `UserError` for what no number may be called in tables and pages."""
    if not _METRIC.fullmatch(name):
        raise UserError(
            f"{where}: {one_line(repr(name))} is no name of a number; use letters, digits, _, . and -, 64 at most"
        )


def as_png(image: Image) -> bytes:
    """The RGB image as a PNG file, packed loosely: it is sent once and never kept."""
    file = BytesIO()
    image.convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


def only_model(endpoint: Endpoint, fix: str) -> str:
    """The name of the one model that a server of OpenAI's protocol has; `UserError` where there are others or none."""
    models = endpoint.beside("models")
    listing = models.get()
    entries = listing.get("data") if isinstance(listing, dict) else None
    names: list[str] = []
    for entry in entries if isinstance(entries, list) else ():
        name = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(name, str) and name:
            names.append(name)
    if len(names) != 1:
        raise UserError(f"endpoint {models.url}: has not one model but {', '.join(names[:5]) or 'none'}; {fix}")
    return names[0]
