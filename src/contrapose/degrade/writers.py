"""What writes degraded prompts: the `Writer` protocol, and a model behind an OpenAI-compatible address."""

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from contrapose.errors import UserError
from contrapose.ranges import AtLeast0, Few, Range, Tokens, checked

# What a server says when it refuses this one prompt rather than the request as such; only the prompt is lost then.
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
LONGEST_WAIT_S = 60.0


class Writer(Protocol):
    """Answers whole messages; an answer depends on (message, seed) alone, never on what else is asked or was."""

    def write(self, prompts: list[str], seed: int) -> list[str]:
        """Return one answer per message, in order."""
        ...


@dataclass(frozen=True)
@checked
class EndpointWriter:
    """A model behind `{endpoint}/v1/chat/completions`; the key, where one is needed, is in OPENAI_API_KEY.

    429, 5xx and lost connections are tried again after backoff_s * 2^k seconds, or as long as Retry-After says.
    """

    endpoint: str
    model: str
    temperature: AtLeast0 = 0.7
    max_new_tokens: Tokens = 256
    num_workers: Few = 8
    num_tries: Few = 6
    timeout_s: Annotated[float, Range(0, 86400, low_open=True)] = 120.0
    backoff_s: AtLeast0 = 1.0

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.endpoint)
            sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port)
        except ValueError:
            sound = False
        if not sound or any(letter.isspace() for letter in self.endpoint):
            raise UserError(f"endpoint {self.endpoint!r}: is no address; write it like http://127.0.0.1:8000/v1")

    def write(self, prompts: list[str], seed: int) -> list[str]:
        """Return the answers, `num_workers` asked for at a time; UserError where the server cannot be worked with."""
        pool = ThreadPoolExecutor(self.num_workers)
        try:
            return list(pool.map(lambda prompt: self._answer(prompt, seed), prompts))
        finally:
            pool.shutdown(cancel_futures=True)  # after one error the other questions need not be asked

    @property
    def url(self) -> str:
        """The address that is asked; `endpoint` may end before or after `/v1`, or be the whole of it."""
        return self.endpoint.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1") + "/v1/chat/completions"

    def _answer(self, prompt: str, seed: int) -> str:
        problem = ""
        for trial in range(self.num_tries):
            wait = self.backoff_s * 2**trial
            try:
                return self._content(self._send(prompt, seed))
            except urllib.error.HTTPError as error:
                body = error.read(2000).decode("utf-8", "replace").strip()
                if error.code not in (408, 429) and error.code < 500:
                    return self._refused(error.code, body)
                problem = f"HTTP {error.code}"
                wait = _retry_after(error.headers.get("Retry-After"), wait)
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                if isinstance(error, urllib.error.URLError) and not isinstance(
                    reason, TimeoutError | ConnectionResetError
                ):
                    raise UserError(
                        f"endpoint {self.url}: {reason}; is the server running and the address right?"
                    ) from None
                problem = str(reason) or type(reason).__name__
            if trial + 1 < self.num_tries:
                time.sleep(min(wait, LONGEST_WAIT_S))
        raise UserError(
            f"endpoint {self.url}: still {problem} after {self.num_tries} tries; run again later to carry on"
        )

    def _send(self, prompt: str, seed: int) -> bytes:
        question = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_new_tokens,
            "seed": seed,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY", "").strip():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(question).encode("ascii"), headers)
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout_s) as response:
            return response.read()

    def _content(self, body: bytes) -> str:
        try:
            content = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            begin = body[:80].decode("utf-8", "replace")
            raise UserError(f"endpoint {self.url}: {begin!r} is no chat completion; is it OpenAI-compatible?") from None
        return content if isinstance(content, str) else ""

    def _refused(self, code: int, body: str) -> str:
        if code in (400, 413, 422) and (code == 413 or any(word in body.lower() for word in REFUSALS)):
            return f"(not answered: HTTP {code})"
        mend = {
            401: "the key was refused; set the environment variable OPENAI_API_KEY",
            403: "the key may not use this model; set the environment variable OPENAI_API_KEY",
            404: f"no such address, or no model {self.model} there; check both",
        }.get(code, "the server refused the request")
        raise UserError(f"endpoint {self.url}: HTTP {code}: {mend} (server: {' '.join(body.split())[:200]})")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: urllib would carry the key along to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _retry_after(header: str | None, otherwise: float) -> float:
    return float(header) if header and header.isascii() and header.isdigit() else otherwise
