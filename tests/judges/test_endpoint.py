"""A question about each image over HTTP, against a stub that answers well, badly, late and not at all."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
from PIL import Image
from serving import serving, with_chances

from contrapose.asking import Asking
from contrapose.errors import UserError
from contrapose.judges.endpoint import EndpointQuestion
from contrapose.judges.written import begins_with, chance_of, number_in
from contrapose.judges.yes_no import PHOTOGRAPH, YesNo
from contrapose.photographs.filters import IsPhotograph
from contrapose.store.prompts import Prompt

IMAGES = [tiny_vision.noise_image(seed, size) for seed, size in enumerate([(40, 40), (30, 20), (8, 64)])]
PROMPTS = [Prompt(text) for text in ("a red circle", 'two "blue" stars', "{prompt}")]


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("CONTRAPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("contrapose.endpoints.time.sleep", lambda seconds: None)


def question(stub, **settings):
    return EndpointQuestion(stub.url, **{"model": "tiny", "question": "rate {prompt}", **settings})


def values(judge, images=IMAGES, prompts=PROMPTS):
    return judge(images, prompts)[judge.name].values.tolist()


def refusal(call, *parts):
    with pytest.raises(UserError) as told:
        call()
    assert "\n" not in str(told.value)
    assert all(part in str(told.value) for part in parts), str(told.value)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        (" 7.5\n", 7.5),
        ("7/10", 7),
        ("7 out of 10", 7),
        ("Score: 7", 7),
        ("score=7.25.", 7.25),
        ("**Score:** 7/10", 7),
        ("Rating: **8**", 8),
        ("The score is 6.", 6),
        ("It shows 2 of 3 stars.\nScore: 4", 4),
        ("Score: 3, no, I looked again.\nFinal score: 5/10", 5),
        ('{"score": 7}', 7),
        ('Here you are:\n```json\n{"reason": "2 of 3 stars", "Rating": 8.5}\n```', 8.5),
        ('{"faithfulness": 4}', 4),
        ('{"score": "7"}', 7),
        ("-3", -3),
        ("1e1", 10),
        ("12", 12),
        ("I see 2 stars and 3 moons", None),
        ("good", None),
        ("", None),
        ('{"a": 1, "b": 2}', None),
        ("Score: NaN", None),
        ('{"score": NaN}', None),
        ('{"score": true}', None),
        ("v2", None),
        ("{" * 30_000, None),
    ],
)
def test_a_number_is_read_as_it_is_written(text, number):
    assert number_in(text, 10) == number


def test_words_and_chances():
    assert begins_with('"Yes", it does', ["yes"]) and begins_with("**no**", ["no"])
    assert not begins_with("yesterday", ["yes"]) and not begins_with("", ["yes"])
    assert begins_with("Left of it", ["left of"])
    told = {"Yes": 0.5, " yes": 0.25, "▁no": 0.125, "Yesterday": 0.125}
    assert chance_of(["yes"], told) == 0.75 and chance_of(["no"], told) == 0.125
    assert chance_of(["three", "3"], {"3": 0.5, "three": 0.25, "t": 0.25}) == 0.75
    assert chance_of(["zebra"], {"Z": 0.25, " zeb": 0.5}) == 0.5
    assert chance_of(["12"], {"1": 0.9}) == 0


def test_the_number_of_each_image_and_what_is_sent():
    answers = {"rate a red circle": "Score: 7", 'rate two "blue" stars': '{"score": 2.5}', "rate {prompt}": "10"}
    with serving(lambda asked, n: (200, answers[asked])) as stub:
        judge = question(stub, metric="faith").load("cpu")
        assert judge.name == "faith" and judge.higher_is_better == {"faith": True}
        assert values(judge) == [7, 2.5, 10]
    path, _, body = next(request for request in stub.requests if "red" in str(request))
    assert path == "/v1/chat/completions" and body["model"] == "tiny" and body["temperature"] == 0
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    sent = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert sent.format == "PNG" and (np.asarray(sent) == np.asarray(IMAGES[0])).all()


def test_the_usual_question_names_the_interval_and_the_prompt():
    with serving(lambda asked, n: (200, "3")) as stub:
        assert values(question(stub, question="", interval=(1.0, 5.0)).load("cpu"), IMAGES[:1], PROMPTS[:1]) == [3]
    (asked,) = stub.asked
    assert '"a red circle"' in asked and "from 1 (not at all) to 5 (perfectly)" in asked


def test_nothing_is_asked_twice(tmp_path):
    """Neither by another judge, nor at another address, nor of the same image in another file."""
    with serving(lambda asked, n: (200, "4")) as stub:
        first = question(stub).load("cpu")
        assert values(first, IMAGES + IMAGES, PROMPTS + PROMPTS) == [4] * 6
        assert len(stub.requests) == 3
    with serving(lambda asked, n: (200, "5")) as other:
        again = question(other).load("cpu")
        assert values(again, [image.convert("RGBA") for image in IMAGES]) == [4] * 3 and again.version == first.version
        assert other.requests == []
        assert values(question(other, model="larger").load("cpu")) == [5] * 3
        assert values(question(other, question="judge {prompt}").load("cpu")) == [5] * 3
        elsewhere = Asking(cache=tmp_path / "own" / "answers.sqlite")
        assert values(question(other, asking=elsewhere).load("cpu")) == [5] * 3


def test_the_version_is_of_the_model_and_the_question():
    def version(**settings):
        return EndpointQuestion(**{"address": "http://127.0.0.1:1", "model": "tiny", **settings}).load("cpu").version

    versions = [version(), version(model="b"), version(question="?"), version(interval=(0.0, 1.0))]
    assert len(set(versions)) == 4
    assert version(address="http://127.0.0.1:2/v1", metric="other") == versions[0]


def test_several_questions_are_under_way_at_once():
    both = threading.Barrier(2, timeout=10)

    def reply(asked, n):
        both.wait()  # breaks where they come one by one
        return 200, "1"

    with serving(reply) as stub:
        assert values(question(stub, asking=Asking(at_once=2)).load("cpu"), IMAGES[:2], PROMPTS[:2]) == [1, 1]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("I cannot say.", "'I cannot say.' to 'rate a red circle' is no number from 0 to 10"),
        ("Score: 11", "is no number from 0 to 10"),
        ("nan", "is no number from 0 to 10"),
        ("", "is no number from 0 to 10"),
        (b'{"choices": []}', "is no chat completion"),
        (b"[1, 2]", "is no chat completion"),
        (b"<html>", "is no JSON"),
    ],
)
def test_an_answer_that_cannot_be_used_is_told_in_one_line_and_not_kept(answer, complaint):
    with serving(lambda asked, n: (200, answer)) as stub:
        judge = question(stub).load("cpu")
        refusal(lambda: values(judge, IMAGES[:1], PROMPTS[:1]), complaint)
        stub.reply = lambda asked, n: (200, "5")
        assert values(judge, IMAGES[:1], PROMPTS[:1]) == [5]


def test_an_unusable_answer_is_asked_for_again_with_another_seed():
    with serving(lambda asked, n: (200, "hm" if n < 2 else "6")) as stub:
        assert values(question(stub).load("cpu"), IMAGES[:1], PROMPTS[:1]) == [6]
    bodies = [body for _, _, body in stub.requests]
    assert [(body["temperature"], body.get("seed")) for body in bodies] == [(0, None), (1, 1), (1, 2)]


def test_what_was_answered_before_an_error_is_kept():
    with serving(lambda asked, n: (200, "nonsense" if "blue" in asked else "4")) as stub:
        judge = question(stub, asking=Asking(at_once=1)).load("cpu")
        refusal(lambda: values(judge), 'two "blue" stars')
        stub.reply = lambda asked, n: (200, "9")
        assert values(judge)[:2] == [4, 9]
    assert stub.asked["rate a red circle"] == 1


def test_a_server_that_is_down_slow_or_refuses_is_told_in_one_line():
    with serving(lambda asked, n: (200, "")) as stub:
        pass
    asking = Asking(patience=0)
    refusal(lambda: values(question(stub, asking=asking).load("cpu")), "is the server running")
    refusal(lambda: question(stub, model="", asking=asking).load("cpu"), "is the server running")
    with pytest.raises(UserError, match="is no address"):
        EndpointQuestion("nowhere").load("cpu")
    let_go = threading.Event()

    def silent(asked, n):
        let_go.wait(10)
        return 200, "1"

    with serving(silent) as stub:
        slow = question(stub, asking=Asking(patience=0.1, timeout=0.05))
        refusal(lambda: values(slow.load("cpu"), IMAGES[:1], PROMPTS[:1]), "still timed out after 0.1 seconds")
        let_go.set()
    with serving(lambda asked, n: (400, b"image violates content_filter")) as stub:
        refusal(lambda: values(question(stub).load("cpu")), "refuses an image, or the question")


def test_the_only_model_of_a_server_need_not_be_named():
    models = {"/v1/models": {"data": [{"id": "qwen"}]}}
    with serving(lambda asked, n: (200, "2"), models) as stub:
        judge = question(stub, model="").load("cpu")
        assert values(judge) == [2] * 3 and stub.requests[0][2]["model"] == "qwen"
        assert judge.version == question(stub, model="qwen").load("cpu").version
        stub.tells["/v1/models"]["data"].append({"id": "llava"})
        refusal(lambda: question(stub, model="").load("cpu"), "not one model but qwen, llava; name the model")
        stub.tells["/v1/models"] = "nonsense"
        refusal(lambda: question(stub, model="").load("cpu"), "not one model but none")


def sure(asked, n):
    return 200, with_chances("Yes", **{"Yes": 0.5, " yes": 0.1, "no": 0.2, "Maybe": 0.2})


def test_yes_and_no_by_their_chances():
    with serving(sure) as stub:
        judge = question(stub, expect="yes-no").load("cpu")
        assert values(judge) == pytest.approx([0.75] * 3)
        num_asked = len(stub.requests)
        assert num_asked == 4  # one of them whether chances are told, which is asked once a model
        body = stub.requests[-1][2]
        assert body["logprobs"] is True and body["top_logprobs"] == 20 and body["max_tokens"] == 1
        assert question(stub, expect="yes-no").load("cpu").version == judge.version
        assert len(stub.requests) == num_asked


def test_the_judge_yes_no_behind_an_address_is_the_endpoints_with_its_own_question():
    with serving(sure) as stub:
        judge = YesNo("tiny", address=stub.url).load("cpu")
        same = question(stub, expect="yes-no", question=PHOTOGRAPH).load("cpu")
        assert (judge.name, judge.version) == ("yes-no", same.version)
        assert values(judge) == values(same) == pytest.approx([0.75] * 3)
        assert judge.higher_is_better == {"yes-no": True}
        assert IsPhotograph(YesNo("tiny", address=stub.url)).scorer.load("cpu").version == judge.version


@pytest.mark.parametrize("refuses", [True, False])
def test_yes_and_no_by_the_word_where_no_chances_are_told(refuses):
    def reply(asked, n):
        if refuses and "logprobs" in stub.requests[-1][2]:
            return 400, b"this model has no logprobs"
        return 200, "No, there is none." if "blue" in asked else "**Yes**"

    with serving(reply) as stub:
        judge = question(stub, expect="yes-no", asking=Asking(at_once=1)).load("cpu")
        marks = judge(IMAGES, PROMPTS)["endpoint"]
        assert marks.values.tolist() == [1, 0, 1]
        assert marks.reason(0) is None and marks.reason(1) == "No, there is none."
        by_chance = question(stub, expect="yes-no", reading="chance").load("cpu")
        assert by_chance.version != judge.version
        if not refuses:
            refusal(lambda: values(by_chance), "comes without the chances of its first token (logprobs)")


@pytest.mark.parametrize("chances", [{"Perhaps": 1.0}, {"Yes": 1.5}, {"Yes": 1e300}, {"": 1.0}])
def test_chances_that_say_nothing_are_told(chances):
    with serving(sure) as stub:
        judge = question(stub, expect="yes-no").load("cpu")
        stub.reply = lambda asked, n: (200, with_chances("?", **chances))
        refusal(lambda: values(judge), "yes nor no" if max(chances.values()) == 1 else "no chat completion")


def test_the_word_of_a_model_that_says_neither_is_told():
    with serving(lambda asked, n: (200, "Perhaps")) as stub:
        judge = question(stub, expect="yes-no", reading="word").load("cpu")
        refusal(lambda: values(judge), "'Perhaps' to 'rate", "is neither yes nor no")


@pytest.mark.parametrize("name", ["", "a b", "<b>", "x" * 65])
def test_a_name_that_no_table_can_have_is_refused(name):
    with pytest.raises(UserError, match="metric"):
        EndpointQuestion(metric=name)


def test_a_cache_that_is_none_is_told(tmp_path: Path):
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"no database at all" * 100)
    folder = tmp_path / "folder"
    folder.mkdir()
    with serving(lambda asked, n: (200, "1")) as stub:
        for path in (broken, folder, broken / "below"):
            judge = question(stub, asking=Asking(cache=path)).load("cpu")
            refusal(lambda judge=judge: values(judge), str(path), "name another file")
    assert stub.requests == []
