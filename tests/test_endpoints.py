"""One question over HTTP, asked again while a server is busy, and told in one line where it cannot be worked with."""

import io
import socket
import ssl
import threading
from contextlib import ExitStack
from email.message import Message
from urllib.error import HTTPError

import pytest
from serving import serving

from contrapose.endpoints import Endpoint, RefusedInput, waiting
from contrapose.errors import UserError


@pytest.fixture(autouse=True)
def _no_key_no_proxy(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def endpoint(stub, **settings):
    return Endpoint(stub.url, backoff_s=0.01, **settings)


def question(text):
    return {"model": "tiny", "messages": [{"role": "user", "content": text}]}


def content(answer):
    return answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_tried_again(status):
    with serving(lambda prompt, n: (200, "fine") if n >= 2 else (status, b"busy")) as stub:
        assert content(endpoint(stub).post(question("a"))) == "fine"
    assert stub.asked["a"] == 3


def test_retry_after_is_kept(monkeypatch):
    waits = []
    monkeypatch.setattr("contrapose.endpoints.time.sleep", waits.append)
    with serving(
        lambda prompt, n: (200, "fine") if n >= 4 else (429, b"", ("Retry-After", ["7", "999", "soon", "0"][n]))
    ) as stub:
        endpoint(stub).post(question("a"))
    assert waits == [7, 60, 0.04, 0.08]


def test_a_refusal_that_is_cut_short_is_told(monkeypatch):
    """The server hangs up before it has said why."""

    class CutShort(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionResetError("reset by peer")

    def refuse(self, payload):
        raise HTTPError(self.url, 400, "", Message(), CutShort())

    monkeypatch.setattr(Endpoint, "_send", refuse)
    with pytest.raises(UserError, match="HTTP 400: the server refused the request"):
        Endpoint("http://127.0.0.1:1").post(question("a"))


def test_a_server_that_stays_busy_is_named():
    with (
        serving(lambda prompt, n: (429, b"busy")) as stub,
        pytest.raises(UserError, match=r"still HTTP 429 after 0\.03 seconds; is the server running"),
    ):
        endpoint(stub, patience_s=0.03).post(question("a"))
    assert 2 <= stub.asked["a"] <= 4, "with pauses of 10 and 20 ms, and once more when the time is up"


def test_a_redirect_does_not_carry_the_key_away(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(lambda prompt, n: (200, "stolen")) as thief:
        with (
            serving(lambda prompt, n: (302, b"", ("Location", thief.url))) as stub,
            pytest.raises(UserError, match="302"),
        ):
            endpoint(stub).post(question("a"))
        assert thief.requests == []


def test_no_server_is_told():
    with serving(lambda prompt, n: (200, "")) as stub:
        pass
    with pytest.raises(UserError, match=r"still .*refused; is the server running"):
        endpoint(stub, patience_s=0).post(question("a dog"))
    with pytest.raises(UserError, match="is the server running"):
        Endpoint("http://no-such-host.invalid", patience_s=0).post(question("a dog"))


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), False),
        (ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol"), True),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), False),
    ],
)
def test_what_may_pass_is_waited_for_and_what_cannot_is_told_at_once(error, passes, monkeypatch):
    connect = socket.create_connection
    errors = [error]
    monkeypatch.setattr("contrapose.endpoints.time.sleep", lambda _: None)

    def fail_once(*where, **how):
        if errors:
            raise errors.pop()
        return connect(*where, **how)

    with serving(lambda prompt, n: (200, "fine")) as stub:
        monkeypatch.setattr(socket, "create_connection", fail_once)
        if passes:
            assert content(endpoint(stub).post(question("a"))) == "fine"
        else:
            with pytest.raises(UserError, match="is the server running and the address right"):
                endpoint(stub).post(question("a"))
    assert not errors and stub.asked["a"] == passes


def test_a_server_that_is_started_again_is_waited_for(caplog):
    """Nothing listens until it was asked three times; what it says is told once."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    later = []

    def start(_):
        if len(later) == 2:
            with_server.enter_context(serving(lambda prompt, n: (200, "fine"), port=port))
        later.append(1)

    gone = Endpoint(f"http://127.0.0.1:{port}", backoff_s=0.01)
    with ExitStack() as with_server, pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr("contrapose.endpoints.time.sleep", start)
        assert content(gone.post(question("a"))) == "fine" and len(later) == 3
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and "refused); it is asked again for 5 minutes" in told[0]


def test_one_that_gives_up_keeps_nobody_waiting():
    """Of several requests the first one that has waited long enough ends the others' pauses."""
    with serving(lambda prompt, n: (503, b"")) as stub:
        over = threading.Event()
        over.set()
        with waiting(until=over), pytest.raises(UserError, match="still HTTP 503"):
            Endpoint(stub.url, backoff_s=60).post(question("a"))


@pytest.mark.parametrize("address", ["localhost:8000", "file:///etc/passwd", "http://", "http://a:b", "http://a b"])
def test_an_address_that_is_none_is_told(address):
    with pytest.raises(UserError, match="is no address"):
        Endpoint(address)


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_address_forms(end):
    assert Endpoint("http://h:1" + end).url == "http://h:1/v1/chat/completions"


def test_another_task_of_a_server_is_asked_by_its_name():
    assert Endpoint("http://h:1/v1/embeddings/", task="embeddings").url == "http://h:1/v1/embeddings"


@pytest.mark.parametrize(("status", "body"), [(413, b""), (400, b"prompt too long"), (422, b"Content_Filter")])
def test_one_input_that_is_refused_is_told_apart(status, body):
    with serving(lambda prompt, n: (status, body)) as stub, pytest.raises(RefusedInput, match=f"HTTP {status}") as told:
        endpoint(stub).post(question("a"))
    assert told.value.code == status and len(stub.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b'{"error":\n "bad key"}', "HTTP 401.*OPENAI_API_KEY.*bad key"),
        (404, b"", "HTTP 404.*no model tiny"),
        (400, b"unsupported parameter: max_tokens", "HTTP 400.*max_tokens"),
        (200, b"<html>hello", "'<html>hello' is no JSON"),
        (200, b"[" * 30_000, "is no JSON"),
    ],
)
def test_what_the_user_must_fix_is_told_at_once_in_one_line(status, body, message):
    with serving(lambda prompt, n: (status, body)) as stub, pytest.raises(UserError, match=message) as told:
        endpoint(stub).post(question("a"))
    assert "\n" not in str(told.value) and len(stub.requests) == 1


def test_a_connection_that_is_lost_is_tried_again():
    """The server hangs up before a word, as one does that is restarted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        num_accepted = []

        def hang_up():
            for _ in range(3):
                server.accept()[0].close()
                num_accepted.append(1)

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        pauses = []
        with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="is the server running"):
            # nobody is there after the third time, whose patience ends
            patch.setattr("contrapose.endpoints._paused", lambda seconds: pauses.append(seconds) or len(pauses) == 3)
            Endpoint(f"http://127.0.0.1:{server.getsockname()[1]}", backoff_s=0.01).post(question("a"))
        thread.join(timeout=10)
    assert len(num_accepted) == 3 and pauses == [0.01, 0.02, 0.04]
