"""A scorer over HTTP: the example, really started; and stubs that answer badly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
from serving import serving

from contrapose.asking import Asking
from contrapose.errors import UserError
from contrapose.judges.http_scorer import HTTPScorer
from contrapose.judges.judge import score
from contrapose.store.prompts import Prompt

EXAMPLE = Path(__file__).parents[2] / "examples" / "scorer.py"
IMAGES = [tiny_vision.noise_image(seed, size) for seed, size in enumerate([(40, 40), (30, 20), (8, 64)])]
PROMPTS = [Prompt("a red circle"), Prompt("zebra"), Prompt("")]
TOLD = {"/": {"version": "1", "higher_is_better": {"a": True, "b": False}}}


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("CONTRAPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("contrapose.endpoints.time.sleep", lambda seconds: None)


def scorer(stub, **settings):
    return HTTPScorer(f"{stub.url}/", **settings)


def numbers(body, n):
    return 200, {"scores": [{"a": len(entry["prompt"]), "b": 0.5} for entry in body["images"]]}


def refusal(call, part):
    with pytest.raises(UserError) as told:
        call()
    assert "\n" not in str(told.value) and part in str(told.value), str(told.value)


def test_the_example_scores_images():
    command = [sys.executable, str(EXAMPLE), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            judge = HTTPScorer(server.stdout.readline().split()[-1], batch_size=2).load("cpu")
            assert judge.name == "brightness" and list(judge.higher_is_better) == ["brightness", "contrast"]
            expected = [np.asarray(image.convert("L")).mean() / 255 for image in IMAGES]
            assert score(judge, IMAGES, PROMPTS) == pytest.approx(expected)
        finally:
            server.terminate()


def test_batches_are_asked_for_once():
    with serving(numbers, TOLD) as stub:
        judge = scorer(stub, batch_size=2).load("cpu")
        marks = judge(IMAGES, PROMPTS)
        assert marks["a"].values.tolist() == [12, 5, 0] and marks["b"].values.tolist() == [0.5] * 3
        assert judge.higher_is_better == {"a": True, "b": False}
        assert sorted(len(body["images"]) for _, _, body in stub.requests) == [1, 2]
        judge(IMAGES[::-1], PROMPTS[::-1])
        assert len(stub.requests) == 2
        assert judge([], [])["a"].values.shape == (0,)
        stub.tells = {"/": {**TOLD["/"], "version": "2"}}
        later = scorer(stub).load("cpu")
        later(IMAGES, PROMPTS)
        assert len(stub.requests) == 3 and later.version != judge.version


def test_what_a_server_does_not_tell_stands_in_the_settings():
    with serving(numbers) as stub:
        judge = scorer(stub, scorer="mine-1", higher=("b",), lower=("a",)).load("cpu")
        assert judge.higher_is_better == {"b": True, "a": False}
        assert score(judge, IMAGES, PROMPTS).tolist() == [0.5] * 3
        refusal(lambda: scorer(stub).load("cpu"), "no such address")
    refusal(lambda: HTTPScorer(scorer="mine"), "scorer: give it and the names")
    refusal(lambda: HTTPScorer(higher=("a",)), "scorer: give it and the names")
    refusal(lambda: HTTPScorer(scorer="mine", higher=("a", "a")), "a is named twice")
    refusal(lambda: HTTPScorer(scorer="mine", higher=("<a>",)), "is no name of a number")


@pytest.mark.parametrize(
    "told", [[], {}, {"version": 1, "higher_is_better": {"a": True}}, {"version": "1", "higher_is_better": {"a": 1}}]
)
def test_a_server_that_tells_nonsense(told):
    with serving(numbers, {"/": told}) as stub:
        refusal(lambda: scorer(stub).load("cpu"), "tells no `version` and `higher_is_better`")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ([1, 2], "holds no list `scores`"),
        ({"scores": 3}, "holds no list `scores`"),
        ({"scores": []}, "gave 0 scores of 1 images"),
        ({"scores": [{"a": 1}]}, "gives no finite number b"),
        ({"scores": [{"a": float("nan"), "b": 1}]}, "gives no finite number a"),
        ({"scores": [{"a": True, "b": 1}]}, "gives no finite number a"),
        ({"scores": [{"a": 10**400, "b": 1}]}, "gives no finite number a"),
        ({"scores": ["exec"]}, "gives no finite number a"),
        (b"\x80\x04K\x01.", "is no JSON"),
    ],
)
def test_a_bad_answer_is_told_and_what_came_before_is_kept(answer, complaint):
    with serving(lambda body, n: numbers(body, n) if "red" in str(body) else (200, answer), TOLD) as stub:
        judge = scorer(stub, batch_size=1, asking=Asking(at_once=1)).load("cpu")
        refusal(lambda: judge(IMAGES, PROMPTS), complaint)
        stub.reply = numbers
        assert judge(IMAGES, PROMPTS)["a"].values.tolist() == [12, 5, 0]
        sent = [entry["prompt"] for _, _, body in stub.requests for entry in body["images"]]
        assert sent.count("a red circle") == 1
