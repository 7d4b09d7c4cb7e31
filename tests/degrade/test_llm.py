"""Language-model degraders against a stub server that answers well, badly, late or not at all."""

import json
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from contrapose.degrade.degrader import Skipped
from contrapose.degrade.llm import LlmAesthetics, LlmAlignment, Unusable, ask, parse, template_text
from contrapose.degrade.writers import EndpointWriter
from contrapose.errors import UserError


def answer(*variants, before="Sure!\n"):
    return before + json.dumps({"important_words": ["{"], "degraded_prompts": list(variants)})


def prompt_of(message):
    """The prompt that a filled template asks about, read back from its last quoted line."""
    return json.loads(message.rsplit("Prompt: ", 1)[1].removesuffix("\nAnswer:"))


# --- parsing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["alignment", "aesthetics"])
def test_templates_show_what_they_ask_for(template):
    parts = template_text(template).split("Prompt: ")[1:]
    assert parts.pop() == "{prompt}\nAnswer:\n"
    shown = [part.split("\nAnswer: ") for part in parts]
    parsed = [parse(given, json.loads(prompt)) for prompt, given in shown]
    assert all(variants or type(variants) is Skipped for variants in parsed)
    assert sum(map(bool, parsed)) >= 3
    assert prompt_of(ask(template, 'a "{prompt}"\nAnswer: {}')) == 'a "{prompt}"\nAnswer: {}'


def test_most_examples_of_the_alignment_template_leave_words_out():
    """What contradicts a prompt is another signal than what says less of it, and the paper's is the latter."""
    shown = [part.split("\nAnswer: ") for part in template_text("alignment").split("Prompt: ")[1:-1]]
    less = [
        _is_within(degraded.split(), json.loads(prompt).split())
        for prompt, given in shown
        for degraded in parse(given, json.loads(prompt))
    ]
    assert len(less) >= 15
    assert 0.75 <= sum(less) / len(less) <= 0.9


def _is_within(words, whole):
    """Whether these words stand in the whole, in order; articles and commas may follow what was left out."""
    ignored = {"a", "an", "the"}
    rest = iter(word.strip(",") for word in whole)
    return all(word.strip(",") in rest for word in words if word not in ignored)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (answer("a blue dog", "no dog"), ("a blue dog", "no dog")),
        ('{"a": 1} {broken {"degraded_prompts": ["x"]} {"degraded_prompts": ["y"]}', ("x",)),
        ('```json\n{\n"degraded_prompts": ["x"]\n}\n```', ("x",)),
        (answer(" a  dog ", "", "A RED dog", "a dog", "z" * 500, "a\0b", "\ud83d"), ("a dog",)),
        (answer(*"abcdefg"), tuple("abcde")),
        ('Important words: ["red", "dog"]\nFinal output: {"neg_prompts": ["a dog", "red"]}', ("a dog", "red")),
    ],
)
def test_usable_answers(text, expected):
    assert parse(text, "a red  dog") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "{",
        '{"a":' * 30_000,
        '{"degraded_prompts": "x"}',
        '{"degraded_prompts": [1]}',
        answer("a red dog"),
        answer(""),
        answer("y" * 1000),
    ],
)
def test_unusable_answers_say_why(text):
    variants = parse(text, "a red dog")
    assert isinstance(variants, Unusable) and variants == () and "language model" in variants.reason
    assert len(variants.reason) < 200


def test_an_empty_list_is_an_answer():
    assert type(parse(answer(), "nice")) is Skipped


# --- the endpoint -----------------------------------------------------------------------------------------------------


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


@pytest.fixture(autouse=True)
def _no_key_no_proxy(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def writer(stub, **settings):
    return EndpointWriter(stub.url, "tiny", backoff_s=0.01, **settings)


def test_good_answers_go_to_their_prompts(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    with serving(lambda prompt, n: (200, answer(f"no {prompt}"))) as stub:
        prompts = [f"cat {number}" for number in range(20)] + ["", "猫 と 犬", "cat 3", "x" * 10_000]
        got = LlmAlignment("tiny", endpoint=f"{stub.url}/v1/", batch_size=7).variants(prompts, 1)
    assert got == [(f"no {prompt}",) if prompt else () for prompt in prompts]
    assert "empty" in got[20].reason
    assert set(stub.asked.values()) == {1} and len(stub.asked) == 22
    path, headers, body = stub.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0.7, 256)


def test_bad_then_good_is_asked_again_with_another_seed():
    with serving(lambda prompt, n: (200, answer("no dog") if n else "I cannot")) as stub:
        assert LlmAesthetics("tiny", endpoint=stub.url).variants(["a dog"], 1) == [("no dog",)]
    seeds = [body["seed"] for _, _, body in stub.requests]
    assert len(set(seeds)) == 2
    assert "uglier" in str(stub.requests[0][2]["messages"])


def test_garbage_gives_no_variants_and_a_reason_and_only_the_bad_are_asked_again():
    with serving(lambda prompt, n: (200, "garbage" if "bad" in prompt else answer("x"))) as stub:
        got = LlmAlignment("tiny", endpoint=stub.url, num_retries=2).variants(["bad dog", "cat"], 1)
    assert got == [(), ("x",)] and "garbage" in got[0].reason
    assert stub.asked == {"bad dog": 3, "cat": 1}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_tried_again(status):
    with serving(lambda prompt, n: (200, "fine") if n >= 2 else (status, b"busy")) as stub:
        assert writer(stub).write(["a"], 0) == ["fine"]
    assert stub.asked["a"] == 3


def test_retry_after_is_kept(monkeypatch):
    waits = []
    monkeypatch.setattr("contrapose.degrade.writers.time.sleep", waits.append)
    with serving(
        lambda prompt, n: (200, "fine") if n >= 3 else (429, b"", ("Retry-After", ["7", "999", "soon"][n]))
    ) as stub:
        writer(stub).write(["a"], 0)
    assert waits == [7, 60, 0.04]


def test_a_server_that_stays_busy_is_named():
    with (
        serving(lambda prompt, n: (429, b"busy")) as stub,
        pytest.raises(UserError, match="still HTTP 429 after 3 tries"),
    ):
        writer(stub, num_tries=3).write(["a"], 0)
    assert stub.asked["a"] == 3


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b'{"error": "bad key"}', "HTTP 401.*OPENAI_API_KEY.*bad key"),
        (404, b"", "HTTP 404.*no model tiny"),
        (400, b"unsupported parameter: max_tokens", "HTTP 400.*max_tokens"),
        (200, b"<html>hello", "no chat completion.*OpenAI-compatible"),
        (200, b'{"choices": []}', "no chat completion"),
    ],
)
def test_what_the_user_must_mend_is_told_at_once(status, body, message):
    with serving(lambda prompt, n: (status, body)) as stub, pytest.raises(UserError, match=message):
        LlmAlignment("tiny", endpoint=stub.url, batch_size=1).variants(["a dog", "a cat"], 0)
    assert len(stub.requests) == 1


def test_a_redirect_does_not_carry_the_key_away(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(lambda prompt, n: (200, "stolen")) as thief:
        with (
            serving(lambda prompt, n: (302, b"", ("Location", thief.url))) as stub,
            pytest.raises(UserError, match="302"),
        ):
            writer(stub).write(["a"], 0)
        assert thief.requests == []


def test_a_prompt_the_server_finds_too_long_is_skipped_alone():
    def reply(prompt, n):
        return (400, b"maximum context length is 8192 tokens") if "long" in prompt else (200, answer("x"))

    with serving(reply) as stub:
        got = LlmAlignment("tiny", endpoint=stub.url).variants(["a cat", "long"], 0)
    assert got == [("x",), ()] and "HTTP 400" in got[1].reason


def test_no_server_is_told():
    with serving(lambda prompt, n: (200, "")) as stub:
        pass
    with pytest.raises(UserError, match="is the server running"):
        LlmAlignment("tiny", endpoint=stub.url).variants(["a dog"], 0)


@pytest.mark.parametrize("endpoint", ["localhost:8000", "file:///etc/passwd", "http://", "http://a:b", "http://a b"])
def test_an_address_that_is_none_is_told(endpoint):
    with pytest.raises(UserError, match="is no address"):
        LlmAlignment("tiny", endpoint=endpoint).variants(["a dog"], 0)


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_address_forms(end):
    assert EndpointWriter("http://h:1" + end, "m").url == "http://h:1/v1/chat/completions"


# --- the cache --------------------------------------------------------------------------------------------------------


def test_a_killed_run_carries_on_from_its_whole_lines(tmp_path):
    prompts = [f"cat {number}" for number in range(9)] + ["bad"]
    cache = tmp_path / "deep" / "answers.jsonl"
    with serving(lambda prompt, n: (200, "no" if prompt == "bad" else answer(f"no {prompt}", "猫"))) as stub:
        degrader = LlmAlignment("tiny", endpoint=stub.url, batch_size=2, num_retries=0, cache=cache)
        first = degrader.variants(prompts, 1)
        whole = cache.read_bytes()
        assert degrader.variants(prompts[::-1], 1) == first[::-1]
        assert len(stub.requests) == 10
        lines = whole.splitlines(keepends=True)
        for cut in (1, 5, len(lines[3]) - 1):
            cache.write_bytes(b"".join(lines[:3]) + lines[3][:cut])
            stub.requests.clear()
            assert degrader.variants(prompts, 1) == first
            assert len(stub.requests) == 7
            assert cache.read_bytes() == whole
        stub.requests.clear()
        assert degrader.variants(["bad"], 1)[0].reason == first[-1].reason and not stub.requests


def test_another_seed_template_model_or_setting_is_asked_anew(tmp_path):
    with serving(lambda prompt, n: (200, answer(str(n)))) as stub:
        base = LlmAlignment("tiny", endpoint=stub.url, cache=tmp_path / "answers.jsonl")
        others = [replace(base, model="other"), replace(base, temperature=0.1), replace(base, max_new_tokens=9)]
        others.append(LlmAesthetics("tiny", endpoint=stub.url, cache=base.cache))
        got = [degrader.variants(["cat"], 1) for degrader in [base, *others, replace(base, batch_size=3)]]
        got.append(base.variants(["cat"], 2))
    assert got == [[(number,)] for number in "012340"] + [[("5",)]]


def test_answers_got_before_the_server_fell_over_are_kept(tmp_path):
    cache = tmp_path / "answers.jsonl"
    up = {"cat 0", "cat 1", "cat 2"}
    with serving(lambda prompt, n: (200, answer("x")) if prompt in up else (401, b"")) as stub:
        degrader = LlmAlignment("tiny", endpoint=stub.url, batch_size=1, cache=cache)
        with pytest.raises(UserError):
            degrader.variants([f"cat {number}" for number in range(5)], 0)
        up |= {"cat 3", "cat 4"}
        stub.requests.clear()
        assert degrader.variants([f"cat {number}" for number in range(5)], 0) == [("x",)] * 5
        assert len(stub.requests) == 2


@pytest.mark.parametrize("data", [b'{"prompt": "mine"}\n', b"my notes", b'{"key": "a"}\n', b"\xff\n"])
def test_a_file_that_is_no_cache_is_left_alone(tmp_path, data):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"prompts\.jsonl.*another cache file"):
        LlmAlignment("tiny", endpoint="http://127.0.0.1:1", cache=path).variants(["cat"], 0)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "bad", [{"temperature": -1}, {"max_new_tokens": 0}, {"batch_size": 0}, {"num_retries": -1}, {"model": ""}]
)
def test_settings_are_checked(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        LlmAlignment(**bad)
