"""A server on this machine that speaks OpenAI's protocol as a test wants it: well, badly, late or not at all."""

import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def prompt_of(message):
    """The prompt that a filled template asks about, read back from its last quoted line."""
    return json.loads(message.rsplit("Prompt: ", 1)[1].removesuffix("\nAnswer:"))


class Stub:
    """What the server does: `reply(prompt, n)` is called with the prompt and how often it was asked before."""

    def __init__(self, reply):
        self.reply, self.asked, self.requests, self.lock = reply, Counter(), [], threading.Lock()
        self.url = ""

    def serve(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        prompt = prompt_of(content) if "Prompt: " in content else content
        with self.lock:
            num_before = self.asked[prompt]
            self.asked[prompt] += 1
            self.requests.append((handler.path, dict(handler.headers), body))
        status, text, *headers = self.reply(prompt, num_before)
        data = text if isinstance(text, bytes) else _completion(text)
        handler.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(data)))]:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


def _completion(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@contextmanager
def serving(reply):
    stub = Stub(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            stub.serve(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
