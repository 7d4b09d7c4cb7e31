"""T2I-CompBench: noun phrases by hand, and BLIP and CLIP on tiny random networks against their formulas."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
import torch
from huggingface_hub import constants
from PIL import Image
from transformers import AutoTokenizer, BlipForQuestionAnswering

from contrapose.errors import UserError
from contrapose.evaluate.compbench.phrases import split_phrases
from contrapose.evaluate.compbench.suite import CompBench
from contrapose.judges.clip_score import CLIPScore
from contrapose.store.prompts import Prompt

SIDE = 48  # not the 32 that the network's positions are for
IMAGES = [tiny_vision.noise_image(seed, size) for seed, size in enumerate([(40, 40), (90, 33)])]
TWO = Prompt("a red circle and two blue stars", {"tag": "color"})


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.save_blip(tmp_path_factory.mktemp("blip"), answers=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.save_clip(tmp_path_factory.mktemp("clip"))


def suite(blip: Path, clip: Path, **changed: object) -> CompBench:
    return CompBench(**{"blip": str(blip), "clip": str(clip), "side": SIDE, **changed})


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a green bench and a blue bowl", ["a green bench", "a blue bowl"]),
        ("A red book and a yellow vase.", ["A red book", "a yellow vase"]),
        ("a metallic desk lamp, a wooden table", ["a metallic desk lamp", "a wooden table"]),
        ("The red hat is on top of the brown coat rack.", ["The red hat", "the brown coat rack"]),
        ("a dog on the left of the cat", ["a dog", "the cat"]),
        ("a chair at the side with its leather seat", ["a chair", "its leather seat"]),
        ("three round plates", ["three round plates"]),
        ("the", []),
    ],
)
def test_noun_phrases_by_rule(text: str, phrases: list[str]) -> None:
    assert split_phrases(text) == phrases


@torch.no_grad()
def chance(folder: Path, image: Image.Image, words: str) -> float:
    """P(yes) / (P(yes) + P(no)) of BLIP's first word, from its parts and the pixels by hand."""
    network, tokenizer = BlipForQuestionAnswering.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    squashed = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    pixels = torch.tensor((squashed / 255 - mean) / deviation).permute(2, 0, 1)[None].float()
    seen = network.vision_model(pixel_values=pixels, interpolate_pos_encoding=True)[0]
    start = len(tokenizer)
    ids = torch.tensor([[start + 1, *tokenizer(words, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id]])
    read = network.text_encoder(input_ids=ids, encoder_hidden_states=seen)[0]
    logits = network.text_decoder(input_ids=torch.tensor([[start]]), encoder_hidden_states=read).logits[0, -1]
    p = dict(zip(["yes", "no"], logits.softmax(0)[tokenizer.convert_tokens_to_ids(["yes", "no"])], strict=True))
    return float(p["yes"] / (p["yes"] + p["no"]))


def test_attributes_are_the_product_of_their_phrases_chances(blip: Path, clip: Path) -> None:
    marks = suite(blip, clip).load("cpu")(IMAGES, [TWO, TWO])["compbench"]
    for value, image in zip(marks.values, IMAGES, strict=True):
        each = [chance(blip, image, words) for words in ("a red circle?", "two blue stars?")]
        assert value == pytest.approx(each[0] * each[1], abs=1e-5) and 0 < value < 1
    assert np.ptp(marks.values) > 1e-4


def test_marks_of_a_question_are_dropped_and_its_letters_made_small(blip: Path, clip: Path) -> None:
    judge = suite(blip, clip, category="color").load("cpu")
    names = [Prompt("a Red: circle!"), Prompt("a red circle")]
    assert judge.blip.chance_of_yes(judge.blip.look(IMAGES[0]), 'A "Red" (circle)!?') == pytest.approx(
        chance(blip, IMAGES[0], "a red circle?"), abs=1e-5
    )
    assert len(judge(IMAGES[:1] * 2, names)["compbench"].values) == 2


def test_a_phrase_that_is_named_twice_counts_twice(blip: Path, clip: Path) -> None:
    judge = suite(blip, clip, category="color").load("cpu")
    once, twice = judge(IMAGES[:1] * 2, [Prompt("a red circle"), Prompt("a red circle and a red circle")])[
        "compbench"
    ].values
    assert twice == pytest.approx(once**2, abs=1e-6)


def test_actions_are_clips_cosine(blip: Path, clip: Path) -> None:
    prompts = [Prompt("a red circle", {"tag": "non_spatial"}), Prompt("zebra!", {"tag": "non_spatial_val"})]
    values = suite(blip, clip).load("cpu")(IMAGES, prompts)["compbench"].values
    scores = CLIPScore(str(clip)).load("cpu")(IMAGES, prompts)["clipscore"].values
    assert np.allclose(np.maximum(values, 0), scores / 100, atol=1e-6) and np.ptp(values) > 1e-3


def test_phrases_out_of_a_file(blip: Path, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps({TWO.text: ["stars"]}))
    listed = suite(blip, clip, phrases=path)
    listed.check([TWO])
    value = listed.load("cpu")(IMAGES[:1], [TWO])["compbench"].values[0]
    assert value == pytest.approx(chance(blip, IMAGES[0], "stars?"), abs=1e-5)
    assert listed.inputs().keys() == {"phrases"} and not suite(blip, clip).inputs()
    with pytest.raises(UserError, match=r"phrases\.json: has no phrases of the prompt 'a cat'"):
        listed.check([Prompt("a cat", {"tag": "shape"})])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not readable as JSON"),
        ("[]", r"is not \{"),
        ('{"a cat": []}', "the phrases of 'a cat' are not a list"),
        ('{"a cat": [3]}', "the phrases of 'a cat' are not a list"),
        (None, "phrases.json: no such file"),
    ],
)
def test_broken_files_of_phrases_are_told(tmp_path: Path, content: str | None, complaint: str) -> None:
    path = tmp_path / "phrases.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=complaint) as raised:
        CompBench(phrases=path).check([TWO])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        (Prompt("a cat"), "its line names no category; name one of color, shape, texture, non_spatial"),
        (Prompt("a cat", {"tag": "anime"}), "category 'anime' is not judged"),
        (Prompt("the", {"tag": "color"}), "has no noun phrases"),
    ],
)
def test_prompts_that_cannot_be_judged_are_told(prompt: Prompt, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        CompBench().check([prompt])


def test_the_setting_outweighs_the_line() -> None:
    CompBench(category="shape").check([Prompt("a cat", {"tag": "numeracy"})])


def test_absent_weights_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blip: Path, clip: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UserError, match=r"^compbench: .*'hf download Salesforce/blip-vqa-capfilt-large' once"):
        CompBench().load("cpu")
    with pytest.raises(UserError, match=r"^compbench: .*'hf download openai/clip-vit-base-patch32' once"):
        CompBench(category="non_spatial").load("cpu")
    mute = shutil.copytree(blip, tmp_path / "mute")
    (mute / "tokenizer.json").write_text((mute / "tokenizer.json").read_text().replace('"yes"', '"yas"'))
    with pytest.raises(UserError, match="vocabulary lacks 'yes'"):
        CompBench(category="color", blip=str(mute)).load("cpu")
