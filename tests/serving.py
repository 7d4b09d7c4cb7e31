"""A server on this machine that speaks OpenAI's protocol as a test wants it: well, badly, late or not at all.

Asked about an image it replies by the question; asked by anything else than messages, by the whole JSON object.
"""

import json
import math
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def prompt_of(message):
    """The prompt that a filled template asks about, read back from its last quoted line."""
    return json.loads(message.rsplit("Prompt: ", 1)[1].removesuffix("\nAnswer:"))


class Stub:
    """What the server does: `reply(prompt, n)` is called with the prompt and how often it was asked before.

    A text that it returns is sent as a chat completion, bytes as they are, and anything else as JSON. `tells` is what
    it says unasked: JSON by path.
    """

    def __init__(self, reply, tells):
        self.reply, self.tells = reply, tells
        self.asked, self.requests, self.lock = Counter(), [], threading.Lock()
        self.url = ""

    def serve(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        prompt = _prompt(body)
        with self.lock:
            num_before = self.asked[str(prompt)]
            self.asked[str(prompt)] += 1
            self.requests.append((handler.path, dict(handler.headers), body))
        self.send(handler, *self.reply(prompt, num_before))

    def tell(self, handler):
        told = handler.path in self.tells
        self.send(handler, 200 if told else 404, self.tells[handler.path] if told else b"not here")

    def send(self, handler, status, answer, *headers):
        data = answer
        if not isinstance(answer, bytes):
            data = _completion(answer) if isinstance(answer, str) else json.dumps(answer).encode()
        handler.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(data)))]:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


def _prompt(body):
    if "messages" not in body:
        return body
    content = body["messages"][0]["content"]
    if isinstance(content, list):
        (content,) = [part["text"] for part in content if part["type"] == "text"]
    return prompt_of(content) if "Prompt: " in content else content


def _completion(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def with_chances(text, **chances):
    """A chat completion whose first token has these chances."""
    answer = json.loads(_completion(text))
    alternatives = [{"token": token, "logprob": math.log(p)} for token, p in chances.items()]
    answer["choices"][0]["logprobs"] = {"content": [{**alternatives[0], "top_logprobs": alternatives}]}
    return answer


@contextmanager
def serving(reply, tells=None, port=0):
    stub = Stub(reply, tells or {})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            with suppress(ConnectionError):  # who asked has gone
                stub.serve(self)

        def do_GET(self):
            stub.tell(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
