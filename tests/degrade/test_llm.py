"""Language-model degraders against a stub server that answers well, badly, late or not at all."""

import json
import threading
import time
from dataclasses import replace

import pytest
from serving import prompt_of, serving

from contrapose.asking import Asking
from contrapose.containers.left_out import LeftOut
from contrapose.degrade.llm import LanguageModel, LlmAesthetics, LlmAlignment, ask, parse, template_text
from contrapose.degrade.writers import EndpointWriter
from contrapose.endpoints import Endpoint
from contrapose.errors import UserError
from contrapose.files import claimed


def answer(*variants, before="Sure!\n"):
    return before + json.dumps({"important_words": ["{"], "degraded_prompts": list(variants)})


# --- parsing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["alignment", "aesthetics"])
def test_templates_show_what_they_ask_for(template):
    parts = template_text(template).split("Prompt: ")[1:]
    assert parts.pop() == "{prompt}\nAnswer:\n"
    shown = [part.split("\nAnswer: ") for part in parts]
    parsed = [parse(given, json.loads(prompt)) for prompt, given in shown]
    assert not any(reply.ask_again for reply in parsed)
    assert sum(bool(reply.variants) for reply in parsed) >= 3
    assert prompt_of(ask(template, 'a "{prompt}"\nAnswer: {}')) == 'a "{prompt}"\nAnswer: {}'


def test_most_examples_of_the_alignment_template_leave_words_out():
    """What contradicts a prompt is another signal than what says less of it, and the paper's is the latter."""
    shown = [part.split("\nAnswer: ") for part in template_text("alignment").split("Prompt: ")[1:-1]]
    less = [
        _is_within(degraded.split(), json.loads(prompt).split())
        for prompt, given in shown
        for degraded in parse(given, json.loads(prompt)).variants
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
    reply = parse(text, "a red  dog")
    assert (reply.variants, reply.reason, reply.ask_again) == (expected, "", False)


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
    reply = parse(text, "a red dog")
    assert reply.ask_again and reply.variants == () and "language model" in reply.reason
    assert len(reply.reason) < 200


def test_an_empty_list_is_an_answer():
    reply = parse(answer(), "nice")
    assert reply.variants == () and not reply.ask_again and "nothing to degrade" in reply.reason


# --- the endpoint -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_key_no_proxy_no_answers(monkeypatch, tmp_path):
    monkeypatch.setenv("CONTRAPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def aligned(stub, **settings):
    return LlmAlignment(LanguageModel("tiny", endpoint=stub.url, **settings))


def left_out(prompt, reason):
    return LeftOut(prompt, "not degraded", reason)


def test_good_answers_go_to_their_prompts(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    with serving(lambda prompt, n: (200, answer(f"no {prompt}"))) as stub:
        prompts = [f"cat {number}" for number in range(20)] + ["", "猫 と 犬", "cat 3", "x" * 10_000]
        llm = LanguageModel("tiny", endpoint=f"{stub.url}/v1/", asking=Asking(at_once=7))
        got = LlmAlignment(llm).variants(prompts, 1)
    assert got == [(f"no {prompt}",) if prompt else left_out("", "the prompt is empty") for prompt in prompts]
    assert set(stub.asked.values()) == {1} and len(stub.asked) == 22
    path, headers, body = stub.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0.7, 256)


def test_bad_then_good_is_asked_again_with_another_seed():
    with serving(lambda prompt, n: (200, answer("no dog") if n else "I cannot")) as stub:
        assert LlmAesthetics(LanguageModel("tiny", endpoint=stub.url)).variants(["a dog"], 1) == [("no dog",)]
    seeds = [body["seed"] for _, _, body in stub.requests]
    assert len(set(seeds)) == 2
    assert "uglier" in str(stub.requests[0][2]["messages"])


def test_garbage_gives_no_variants_and_a_reason_and_only_the_bad_are_asked_again():
    with serving(lambda prompt, n: (200, "garbage" if "bad" in prompt else answer("x"))) as stub:
        bad, good = aligned(stub, num_retries=2).variants(["bad dog", "cat"], 1)
    assert good == ("x",)
    assert bad == left_out("bad dog", bad.reason) and "garbage" in bad.reason
    assert stub.asked == {"bad dog": 3, "cat": 1}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b'{"error": "bad key"}', "HTTP 401.*OPENAI_API_KEY.*bad key"),
        (404, b"", "HTTP 404.*no model tiny"),
        (400, b"unsupported parameter: max_tokens", "HTTP 400.*max_tokens"),
        (200, b"<html>hello", "no JSON.*is the address right"),
        (200, b'{"choices": []}', "no chat completion"),
    ],
)
def test_what_the_user_must_fix_is_told_at_once(status, body, message):
    with serving(lambda prompt, n: (status, body)) as stub, pytest.raises(UserError, match=message):
        aligned(stub, asking=Asking(at_once=1)).variants(["a dog", "a cat"], 0)
    assert len(stub.requests) == 1


def test_a_prompt_the_server_finds_too_long_is_skipped_alone():
    def reply(prompt, n):
        return (400, b"maximum context length is 8192 tokens") if "long" in prompt else (200, answer("x"))

    with serving(reply) as stub:
        good, too_long = aligned(stub).variants(["a cat", "long"], 0)
    assert good == ("x",)
    assert too_long == left_out("long", too_long.reason) and "HTTP 400" in too_long.reason


def test_no_server_and_no_address_are_told():
    with serving(lambda prompt, n: (200, "")) as stub:
        pass
    with pytest.raises(UserError, match="is the server running"):
        aligned(stub, asking=Asking(patience=0)).variants(["a dog"], 0)
    with pytest.raises(UserError, match="is no address"):
        LlmAlignment(LanguageModel(endpoint="localhost:8000")).variants(["a dog"], 0)


def test_what_is_no_text_is_no_answer():
    """A model may answer with a call of a function, whose content is null."""
    with serving(lambda prompt, n: (200, b'{"choices": [{"message": {"content": null}}]}')) as stub:
        assert EndpointWriter(Endpoint(stub.url), "tiny").write(["a"], 0) == [""]


# --- the cache --------------------------------------------------------------------------------------------------------


def test_what_was_answered_is_not_asked_again():
    prompts = [f"cat {number}" for number in range(9)] + ["bad"]
    with serving(lambda prompt, n: (200, "no" if prompt == "bad" else answer(f"no {prompt}", "猫"))) as stub:
        degrader = aligned(stub, num_retries=0)
        first = degrader.variants(prompts, 1)
        assert degrader.variants(prompts[::-1], 1) == first[::-1]
        assert len(stub.requests) == 10
        assert degrader.variants([*prompts, "dog"], 1) == [*first, ("no dog", "猫")]
        assert len(stub.requests) == 11


@pytest.mark.parametrize("at_once", [1, 3, 30])
def test_answers_are_the_same_however_many_are_under_way_and_whoever_is_first(at_once, monkeypatch):
    """The server is late with every other answer, fails one for the first time, and needs a second try of another."""
    prompts = [f"cat {number}" for number in range(12)]

    def reply(prompt, n):
        number = int(prompt.split()[1])
        time.sleep(0.02 * (number % 2))
        if n == 0 and number == 3:
            return 503, b"busy"
        return 200, "garbage" if n == 0 and number == 4 else answer(f"no {prompt}")

    monkeypatch.setattr("contrapose.endpoints.LONGEST_WAIT_S", 0.0)
    with serving(reply) as stub:
        degrader = aligned(stub, asking=Asking(at_once))
        assert degrader.variants(prompts, 1) == [(f"no {prompt}",) for prompt in prompts]
    assert stub.asked == {prompt: 2 if prompt in ("cat 3", "cat 4") else 1 for prompt in prompts}


def test_as_many_are_under_way_as_may_be():
    """Each answer waits for seven others, which never come where fewer are under way."""
    together = threading.Barrier(8)

    def reply(prompt, n):
        together.wait(timeout=30)
        return 200, answer("x")

    with serving(reply) as stub:
        llm = aligned(stub, asking=Asking(at_once=8, patience=0))
        assert llm.variants([f"cat {number}" for number in range(16)], 0) == [("x",)] * 16


def test_of_two_that_plan_the_same_one_asks_and_both_have_its_answers():
    """As two workers of a folder do; asked twice, the server answers otherwise."""
    both_wait = threading.Barrier(2)
    got = []

    def plan(degrader):
        both_wait.wait(timeout=30)
        got.append(degrader.variants(["cat", "dog"], 0))

    with serving(lambda prompt, n: (200, answer(f"{prompt} {n}"))) as stub:
        workers = [threading.Thread(target=plan, args=[aligned(stub)]) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert got == [[("cat 0",), ("dog 0",)]] * 2


def test_of_two_that_plan_the_same_one_waits_for_a_server_that_is_gone(monkeypatch):
    """The other asks it once when its turn comes."""
    both_in_line = threading.Barrier(2)
    told = []

    def claimed_in_turn(plan, *, wait):
        both_in_line.wait(timeout=60)
        return claimed(plan, wait=wait)

    def plan(degrader):
        with pytest.raises(UserError) as error:
            degrader.variants(["cat"], 0)
        told.append(str(error.value))

    monkeypatch.setattr("contrapose.degrade.llm.claimed", claimed_in_turn)
    with serving(lambda prompt, n: (503, b"")) as stub:
        patient = Asking(patience=0.05)
        workers = [threading.Thread(target=plan, args=[aligned(stub, asking=patient)]) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(told) == 2 and all("still HTTP 503" in line for line in told)
    assert stub.asked["cat"] == 3


def test_another_seed_template_model_or_setting_is_asked_anew():
    with serving(lambda prompt, n: (200, answer(str(n)))) as stub:
        llm = LanguageModel("tiny", endpoint=stub.url)
        others = [replace(llm, model="other"), replace(llm, temperature=0.1), replace(llm, max_new_tokens=9)]
        degraders = [*map(LlmAlignment, [llm, *others]), LlmAesthetics(llm), LlmAlignment(replace(llm, batch_size=3))]
        got = [degrader.variants(["cat"], 1) for degrader in degraders]
        got.append(LlmAlignment(llm).variants(["cat"], 2))
    assert got == [[(number,)] for number in "012340"] + [[("5",)]]


def test_answers_got_before_the_server_fell_over_are_kept():
    up = {"cat 0", "cat 1", "cat 2"}
    with serving(lambda prompt, n: (200, answer("x")) if prompt in up else (401, b"")) as stub:
        degrader = aligned(stub, asking=Asking(at_once=1))
        with pytest.raises(UserError):
            degrader.variants([f"cat {number}" for number in range(5)], 0)
        up |= {"cat 3", "cat 4"}
        stub.requests.clear()
        assert degrader.variants([f"cat {number}" for number in range(5)], 0) == [("x",)] * 5
        assert len(stub.requests) == 2


def test_a_server_that_keeps_one_waiting_is_told_of_once(monkeypatch, caplog):
    monkeypatch.setattr("contrapose.endpoints.LONGEST_WAIT_S", 0.0)
    with serving(lambda prompt, n: (200, answer("x")) if n >= 4 else (503, b"")) as stub, caplog.at_level("INFO"):
        assert aligned(stub).variants(["cat", "dog"], 0) == [("x",)] * 2
    [note] = [record.message for record in caplog.records if record.name == "contrapose.endpoints"]
    assert (
        note == f"endpoint {stub.url}/v1/chat/completions: does not answer (HTTP 503); it is asked again for 5 minutes"
    )


@pytest.mark.parametrize("record", [{"variants": [1], "reason": ""}, {"variants": ["x"]}, "x"])
def test_an_answer_that_somebody_has_changed_is_asked_for_anew(record):
    with serving(lambda prompt, n: (200, answer(str(n)))) as stub:
        degrader = aligned(stub)
        assert degrader.variants(["cat"], 0) == [("0",)]
        [key] = degrader.llm._keys("alignment", ["cat"], 0).values()
        degrader.llm.asking.answers.add({key: record})
        assert degrader.variants(["cat"], 0) == [("1",)]


@pytest.mark.parametrize(
    "bad", [{"temperature": -1}, {"max_new_tokens": 0}, {"batch_size": 0}, {"num_retries": -1}, {"model": ""}]
)
def test_settings_are_checked(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        LanguageModel(**bad)
