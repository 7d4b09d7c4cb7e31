"""Servers that answer in JSON, such as those of OpenAI's protocol: one question over HTTP, asked again while busy."""

from __future__ import annotations

import http.client
import json
import logging
import math
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import IO, Annotated, Any, NamedTuple

from contrapose.durations import in_words
from contrapose.errors import UserError
from contrapose.ranges import AtLeast0, Range, checked

# What a server says when it refuses this one input rather than the request as such; only the input is lost then.
REFUSALS = (
    "context length",
    "context_length",
    "context size",
    "context_size",
    "context window",
    "content_filter",
    "content management",
    "too long",
)
PATIENCE_S = 300.0
LONGEST_WAIT_S = 60.0
MOST_BYTES = 1 << 24  # of an answer
_SELDOM_S = 60.0
_told_at: dict[str, float] = {}  # when it was last told of each address that it keeps one waiting
_log = logging.getLogger(__name__)


class RefusedInput(Exception):
    """The server is well, and refuses this one input by the HTTP status `code`: it is too long, or not allowed."""

    def __init__(self, code: int):
        super().__init__(f"HTTP {code}")
        self.code = code


class RefusedRequest(UserError):
    """The server refuses the request as such, by the HTTP status `code`; `reason` is what it says of that itself."""

    def __init__(self, message: str, code: int, reason: str):
        super().__init__(message)
        self.code = code
        self.reason = reason


class GivenUp(UserError):
    """The server at `url` did not answer for as long as it was waited for."""

    def __init__(self, message: str, url: str):
        super().__init__(message)
        self.url = url


@dataclass(frozen=True)
@checked
class Endpoint:
    """One address of a server, `{address}/v1/{task}`; the key, where one is needed, is in OPENAI_API_KEY.

    429, 5xx, and connections that are lost, refused or silent for timeout_s, are tried again for patience_s, after
    backoff_s * 2^k seconds, a minute at most, or as long as Retry-After says. Raises `UserError` for an address that is
    none.
    """

    address: str
    """May end before or after `/v1`, or with the task too."""
    task: str | None = "chat/completions"
    """None where the address is the whole of it."""
    patience_s: AtLeast0 = PATIENCE_S
    timeout_s: Annotated[float, Range(0, 86400, low_open=True)] = 120.0
    backoff_s: AtLeast0 = 1.0

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.address)
            # reading the port raises ValueError where it is no number, and port 0 is nobody's
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or any(letter.isspace() for letter in self.address):
            raise UserError(f"endpoint {self.address!r}: is no address; write it like http://127.0.0.1:8000/v1")

    @property
    def url(self) -> str:
        """The whole address that is asked."""
        if self.task is None:
            return self.address
        base = self.address.rstrip("/").removesuffix(f"/{self.task}").removesuffix("/v1")
        return f"{base}/v1/{self.task}"

    def beside(self, task: str) -> Endpoint:
        """Another task of the same server."""
        return replace(self, address=self.url.removesuffix(f"/{self.task}"), task=task)

    def get(self) -> Any:
        """Return what the server tells unasked, parsed; `UserError` where it cannot be worked with."""
        return self._asked(None)

    def post(self, payload: Mapping[str, Any]) -> Any:
        """Return the server's answer to this JSON object, parsed.

        Raises `RefusedInput` where only this input is refused, and `UserError` where the server cannot be worked with:
        `RefusedRequest` where it says so itself.
        """
        return self._asked(payload)

    def _asked(self, payload: Mapping[str, Any] | None) -> Any:
        trial = 0
        # another process may have waited in place of this one
        patience = 0.0 if _waiting.get().in_vain_for == self.url else self.patience_s
        given_up_at: float | None = None
        while True:
            wait = self.backoff_s * 2 ** min(trial, 60)
            try:
                return self._parsed(self._send(payload))
            except urllib.error.HTTPError as error:
                busy = error.code in (408, 429) or error.code >= 500
                if not busy:
                    words = b""
                    with suppress(OSError, http.client.HTTPException):  # it may hang up in the middle of them
                        words = error.read(2000)
                    raise self._refusal(error.code, words, payload) from None
                problem = f"HTTP {error.code}"
                asked_for = error.headers.get("Retry-After") or ""
                # a date, which the header may hold too, is not waited for; nor is it asked without a pause
                if asked_for.isascii() and asked_for.isdigit():
                    wait = float(asked_for) or wait
            except (OSError, http.client.HTTPException) as error:
                problem = self._lost(error)
            now = time.monotonic()
            given_up_at = given_up_at or now + patience
            left = given_up_at - now
            if left <= 0:
                raise self._given_up(problem)
            self._tell(problem, trial)
            # once more when the time is up, however long the pauses have grown
            if _paused(min(wait, LONGEST_WAIT_S, left)):
                raise self._given_up(problem)
            trial += 1

    def _given_up(self, problem: str) -> GivenUp:
        waited = f" after {in_words(self.patience_s)}" if self.patience_s else ""
        return GivenUp(
            f"endpoint {self.url}: still {problem}{waited}; is the server running and the address right? What was "
            "answered is kept, and the same command carries on",
            self.url,
        )

    def _tell(self, problem: str, trial: int) -> None:
        """Note that a server lets itself be waited for, once a minute however many ask it."""
        now = time.monotonic()
        if trial > 0 and now - _told_at.get(self.url, -math.inf) >= _SELDOM_S:
            _told_at[self.url] = now
            _log.info(
                f"endpoint {self.url}: does not answer ({problem}); it is asked again for {in_words(self.patience_s)}"
            )

    def _send(self, payload: Mapping[str, Any] | None) -> bytes:
        headers = {"Accept": "application/json"}
        question = None
        if payload is not None:
            headers["Content-Type"] = "application/json"
            question = json.dumps(payload).encode("ascii")
        if key := os.environ.get("OPENAI_API_KEY", "").strip():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, question, headers)
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout_s) as response:
            body: bytes = response.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise UserError(f"endpoint {self.url}: its answer is larger than 16 MB; is the address right?")
        if response.length:  # bytes that were announced and never came
            raise http.client.IncompleteRead(body, response.length)
        return body

    def _parsed(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):  # the second from thousands of nested brackets
            begin = body[:80].decode("utf-8", "replace")
            raise UserError(f"endpoint {self.url}: {begin!r} is no JSON; is the address right?") from None

    def _lost(self, error: OSError | http.client.HTTPException) -> str:
        """How the connection was lost; `UserError` where no server can be at the address, now or later."""
        reason = getattr(error, "reason", error)
        if _is_final(reason):
            raise UserError(f"endpoint {self.url}: {reason}; is the server running and the address right?") from None
        return str(reason) or type(reason).__name__

    def _refusal(self, code: int, body: bytes, payload: Mapping[str, Any] | None) -> RefusedRequest | RefusedInput:
        message = " ".join(body.decode("utf-8", "replace").split())
        names_the_input = any(words in message.lower() for words in REFUSALS)
        if code == 413 or (code in (400, 422) and names_the_input):
            return RefusedInput(code)
        model = (payload or {}).get("model")
        absent = f"no such address, or no model {model} there; check both" if model else "no such address; check it"
        fixes = {
            401: "the key was refused; set the environment variable OPENAI_API_KEY",
            403: "the key may not use this model; set the environment variable OPENAI_API_KEY",
            404: absent,
        }
        fix = fixes.get(code, "the server refused the request")
        line = f"endpoint {self.url}: HTTP {code}: {fix} (server: {message[:200]})"
        return RefusedRequest(line, code, message)


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


class _Waiting(NamedTuple):
    until: threading.Event | None = None
    in_vain_for: str | None = None


_AS_PATIENT = _Waiting()
_waiting: ContextVar[_Waiting] = ContextVar("waiting", default=_AS_PATIENT)


@contextmanager
def waiting(until: threading.Event, in_vain_for: str | None = None) -> Iterator[None]:
    """Within the block this thread waits for no server once `until` is set.

    The one at the address `in_vain_for` is asked once: another process has waited for it.
    """
    token = _waiting.set(_Waiting(until, in_vain_for))
    try:
        yield
    finally:
        _waiting.reset(token)


def _paused(seconds: float) -> bool:
    """Let so many seconds pass; True where nobody waits for an answer any more."""
    over = _waiting.get().until
    if over is not None:
        return over.wait(seconds)
    time.sleep(seconds)
    return False


def _is_final(reason: object) -> bool:
    """Whether a connection failed by what waiting does not change."""
    if isinstance(reason, socket.gaierror):
        return reason.errno != socket.EAI_AGAIN  # a name that nobody knows, if somebody could be asked
    if isinstance(reason, ssl.SSLError):
        return not isinstance(reason, ssl.SSLEOFError)  # a certificate that is not trusted, if nobody just hung up
    return isinstance(reason, str)  # an address that urllib makes nothing of


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: urllib would carry the key along to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None
