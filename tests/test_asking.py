"""Requests that are under way at once: of several errors the first one is told."""

import threading

import pytest
from serving import serving

from contrapose.asking import Asking
from contrapose.endpoints import Endpoint
from contrapose.errors import UserError


def test_of_several_errors_the_first_one_is_told(tmp_path):
    """Those who only were not waited for any more say that a server is busy, and all come to light together."""
    num_busy = 7
    is_asked, is_over = threading.Semaphore(0), threading.Semaphore(0)

    def reply(prompt, n):
        is_asked.release()
        return 503, b""

    def busy():
        try:
            return Endpoint(stub.url, backoff_s=60).post({"messages": [{"content": "a"}]})
        finally:
            is_over.release()

    def refused():
        wait_for(is_asked)
        raise UserError("the key was refused")

    def wait_for(semaphore):
        for _ in range(num_busy):
            assert semaphore.acquire(timeout=30)

    jobs = [lambda: {"an answer": 1}, *[busy] * num_busy, refused]
    asking = Asking(at_once=len(jobs), cache=tmp_path / "answers.sqlite")
    with serving(reply) as stub, pytest.raises(UserError, match="the key was refused"):
        asking.carry_out(jobs, lambda num: wait_for(is_over) if num == 1 else None)
