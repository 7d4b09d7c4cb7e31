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


@pytest.mark.parametrize(
    ("in_line_since", "num_asked"), [(0.0, 1), (1e12, 2), (None, 2)], ids=["before", "after", "no"]
)
def test_a_server_that_another_has_given_up_on_meanwhile_is_asked_once(in_line_since, num_asked, tmp_path):
    """One that began to wait for its turn before that does not wait for the server anew; one that began later does."""
    with serving(lambda prompt, n: (503, b"")) as stub:

        def give_up(patience, since):
            asking = Asking(patience=patience, cache=tmp_path / "answers.sqlite")
            endpoint = asking.endpoint(stub.url)
            with pytest.raises(UserError, match="still HTTP 503"):
                asking.carry_out([lambda: endpoint.post({"messages": [{"content": "a"}]})], in_line_since=since)

        give_up(patience=0, since=None)
        before = stub.asked["a"]
        give_up(patience=0.05, since=in_line_since)
        assert stub.asked["a"] - before == num_asked


@pytest.mark.parametrize(
    "note", [{"url": "http://a"}, {"url": 1, "at": 2.0}, {"url": "http://a", "at": "now"}, [], "a"]
)
def test_a_note_that_a_hand_has_changed_is_told(note, tmp_path):
    asking = Asking(cache=tmp_path / "answers.sqlite")
    asking.answers.add({"given up": note})
    with pytest.raises(UserError, match=r"answers\.sqlite: its note 'given up' does not say which server and when"):
        asking.carry_out([], in_line_since=0.0)
