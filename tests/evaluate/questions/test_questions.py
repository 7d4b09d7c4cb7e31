"""Questions about images: how lines ask them, the numbers by hand, and a tiny random model that answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vision
import torch

from contrapose.errors import UserError
from contrapose.evaluate.questions.judge import QuestionedImage, QuestionJudge, numbers_of
from contrapose.evaluate.questions.local import LocalAnswers
from contrapose.evaluate.questions.question import Question, questions_of
from contrapose.evaluate.questions.suite import Questions
from contrapose.judges.vision_language import VisionLanguage
from contrapose.store.prompts import Prompt


def line(**fields: Any) -> Prompt:
    return Prompt("three cats", fields)


def test_geneval_2s_lines_are_read_as_they_are() -> None:
    pairs = [["How many cats are in the image?", "three"], ["Are there any cats in the image?", "Yes"]]
    first, second = questions_of(line(vqa_list=pairs, atom_count=2, skills=["count", "object"]))
    assert first.text == "How many cats are in the image?" and first.answers == ("three", "3")
    assert second.answers == ("yes",)


def test_ones_own_questions() -> None:
    asked = ["Is there a cat?", {"question": "Is it black?", "needs": [0]}, {"question": "How many?", "answer": "3"}]
    assert questions_of(line(questions=asked)) == [
        Question("Is there a cat?"),
        Question("Is it black?", needs=(0,)),
        Question("How many?", "3"),
    ]
    assert Question("How many?", "3").answers == ("3", "three")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "asks no questions"),
        ({"questions": []}, "not a list with questions in it"),
        ({"questions": "Is there a cat?"}, "not a list with questions in it"),
        ({"questions": [7]}, "question 0 is neither a text nor an object"),
        ({"questions": [{"answer": "yes"}]}, "question 0 needs a `question`"),
        ({"questions": ["a?", {"question": "b?", "needs": [1]}]}, "`needs` is not a list of places of earlier"),
        ({"questions": ["a?", {"question": "b?", "needs": 0}]}, "`needs` is not a list"),
        ({"vqa_list": [["a?"]]}, r"is not \[question, answer\]"),
        ({"vqa_list": [["a?", 3]]}, r"is not \[question, answer\]"),
    ],
)
def test_broken_lines_are_told(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=rf"prompt 'three cats'.*{complaint}") as told:
        Questions().check([line(**fields)])
    assert "\n" not in str(told.value)


def test_the_numbers_by_hand() -> None:
    """The second question's need is not met, so that it counts 0 by DPG's rule and .8 by Soft-TIFA's."""
    questions = [Question("a?"), Question("b?", needs=(0,)), Question("c?")]
    counted, mean, geometric, every = numbers_of(questions, [0.2, 0.8, 1.0])
    assert counted == pytest.approx((0.2 + 0 + 1) / 3)
    assert mean == pytest.approx(2.0 / 3)
    assert geometric == pytest.approx((0.2 * 0.8 * 1.0) ** (1 / 3))
    assert every == 0
    counted, mean, _, every = numbers_of(questions, [0.6, 0.8, 1.0])
    assert (counted, mean, every) == (pytest.approx(0.8), pytest.approx(0.8), 1)
    assert numbers_of([Question("a?")], [0.0])[2] == pytest.approx(1e-6)


class Certain:
    """Answers right about images that are bright."""

    version = "1"
    at_once = 1

    def chances(self, asked: Sequence[QuestionedImage]) -> list[list[float]]:
        return [[0.9 if np.asarray(image).mean() > 128 else 0.1 for _ in questions] for image, questions in asked]


def test_the_judge_tells_the_questions_that_were_answered_wrong() -> None:
    from PIL import Image as images

    bright, dark = images.new("RGB", (4, 4), "white"), images.new("L", (4, 4), 0)
    judge = QuestionJudge(Certain())
    marks = judge([bright, dark], [line(questions=["Is there a cat?"])] * 2)
    assert list(marks) == list(judge.higher_is_better)
    assert marks["questions"].values.tolist() == [0.9, 0.1]
    assert marks["questions_all"].values.tolist() == [1, 0]
    assert marks["questions"].reason(0) is None and marks["questions"].reason(1) == "Is there a cat?"
    assert judge([], [])["questions"].values.shape == (0,)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.save_chat_model(tmp_path_factory.mktemp("chat"))


def test_a_local_model_is_as_sure_as_its_first_token(chat: Path) -> None:
    model = VisionLanguage("test", str(chat), "fp32", "cpu")
    image = tiny_vision.noise_image(1)
    asked = [Question("Is there a cat?"), Question("How many?", "two")]
    [p] = LocalAnswers(model).chances([QuestionedImage(image, asked)])
    for question, chance in zip(asked, p, strict=True):
        logits = model.first_token(image, f"{question.text} Answer in one word.")
        right = [token for word in question.answers for token in model.spellings(word) or model.beginnings(word)]
        assert chance == pytest.approx(float(logits.softmax(0)[torch.tensor(sorted(set(right)))].sum()), abs=1e-6)
        assert 0 < chance < 1


def test_the_suite_runs_on_what_it_loads(chat: Path) -> None:
    judge = Questions(str(chat), "fp32").load("cpu")
    marks = judge([tiny_vision.noise_image(1)], [line(vqa_list=[["Is there a cat?", "Yes"]])])
    assert 0 < marks["questions"].values[0] < 1


def test_a_model_that_cannot_be_asked_is_told(tmp_path: Path) -> None:
    blip = tiny_vision.save_blip(tmp_path / "blip")
    with pytest.raises(UserError, match="no chat template, so it cannot be asked"):
        Questions(str(blip), "fp32").load("cpu")
