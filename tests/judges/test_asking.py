"""Judges that ask a vision-language model about the image, on a tiny random one, against their formulas."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tiny_vision
import torch
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from contrapose.errors import UserError
from contrapose.judges.judge import score as score_of
from contrapose.judges.vision_language import VisionLanguage
from contrapose.judges.vqa_score import VQAScore
from contrapose.judges.yes_no import YesNo
from contrapose.store.prompts import Prompt

IMAGES = [tiny_vision.noise_image(seed, size) for seed, size in enumerate([(40, 40), (90, 33), (17, 64)])]
PROMPTS = ["a red circle", "two blue stars on a green square", ""]


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return tiny_vision.save_chat_model(tmp_path_factory.mktemp("chat"))


def score(judge, images, prompts):
    return score_of(judge, images, [Prompt(text) for text in prompts])


def refusal(settings, match):
    with pytest.raises(UserError, match=match) as raised:
        settings.load("cpu")
    assert "\n" not in str(raised.value)


def chances(folder, image, question):
    """P of each token as the answer's first, from the network itself and the conversation written by hand."""
    network, tokenizer = Qwen2VLForConditionalGeneration.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    shown = Qwen2VLImageProcessorPil.from_pretrained(folder)(images=[image], return_tensors="pt")
    pads = tiny_vision.IMAGE_PAD * (int(shown["image_grid_thw"].prod()) // 4)
    asked = f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(asked, return_tensors="pt")["input_ids"]
    kinds = (ids == tokenizer.convert_tokens_to_ids(tiny_vision.IMAGE_PAD)).int()
    with torch.no_grad():
        logits = network(input_ids=ids, mm_token_type_ids=kinds, **shown).logits[0, -1]
    return dict(zip(tokenizer.convert_ids_to_tokens(range(len(logits))), logits.softmax(0).tolist(), strict=False))


def test_yes_no_is_its_formula(chat):
    scores = score(YesNo(str(chat), question="is it {prompt}?", precision="fp32").load("cpu"), IMAGES, PROMPTS)
    for value, image, prompt in zip(scores, IMAGES, PROMPTS, strict=True):
        p = chances(chat, image, f"is it {prompt}?")
        yes, no = p["yes"] + p["Yes"] + p[" yes"], p["no"] + p[" No"]
        assert value == pytest.approx(yes / (yes + no), abs=1e-5)
    assert np.ptp(scores) > 0.001


def test_vqascore_is_its_formula(chat):
    """P(yes) among all tokens, not against P(no) alone."""
    scores = score(VQAScore(str(chat), precision="fp32").load("cpu"), IMAGES, PROMPTS)
    for value, image, prompt in zip(scores, IMAGES, PROMPTS, strict=True):
        p = chances(chat, image, f'Does this figure show "{prompt}"? Please answer yes or no.')
        assert value == pytest.approx(p["yes"] + p["Yes"] + p[" yes"], abs=1e-5)
    assert np.ptp(scores) > 0.0001


@pytest.mark.parametrize(("word", "expected"), [("Yes", 1), (" No", 0), ("yesterday", 0.6)])
def test_yes_no_follows_what_the_model_would_say(chat, tmp_path, word, expected):
    """Weights that say one word whatever they are shown; a third word leaves 3 spellings of yes to 2 of no."""
    folder = shutil.copytree(chat, tmp_path / "rigged")
    network = Qwen2VLForConditionalGeneration.from_pretrained(chat)
    said = AutoTokenizer.from_pretrained(chat).convert_tokens_to_ids(word)
    with torch.no_grad():
        last, rows = network.model.language_model.layers[-1], network.lm_head.weight
        for way in (last.self_attn.o_proj, last.mlp.down_proj):
            way.weight.zero_()
        network.model.language_model.embed_tokens.weight[:, 0] = 100.0  # outweighs what images and words add
        network.model.language_model.norm.weight[1:] = 0
        rows.zero_()
        rows[said, 0] = 10.0
    network.save_pretrained(folder)
    scores = score(YesNo(str(folder), precision="fp32").load("cpu"), IMAGES[:2], ["", ""])
    assert scores == pytest.approx([expected, expected], abs=1e-4)


def test_every_spelling_counts_and_no_longer_word(chat):
    model = VisionLanguage("test", str(chat), "fp32", "cpu")
    assert [model.tokenizer.decode([i]) for i in model.spellings("yes")] == ["yes", "Yes", " yes"]
    assert [model.tokenizer.decode([i]) for i in model.spellings("no")] == ["no", " No"]
    assert model.spellings("perhaps") == []
    assert {model.tokenizer.decode([i]).strip().lower()[0] for i in model.beginnings("perhaps")} == {"p"}


def test_a_model_that_cannot_say_yes_is_told(chat, monkeypatch):
    monkeypatch.setattr(VisionLanguage, "spellings", lambda self, word: [] if word == "no" else [1])
    refusal(YesNo(str(chat), precision="fp32"), "yes-no: the model has no token for 'no'; use another")


def test_only_a_chat_model_that_sees_can_be_asked(tmp_path):
    clip = tiny_vision.save_clip(tmp_path / "clip")
    blip = tiny_vision.save_blip(tmp_path / "blip")
    refusal(YesNo(str(blip)), r"has no chat template, so it cannot be asked")
    refusal(VQAScore(str(blip)), r"vqascore: .*has no chat template, so it cannot be asked")
    refusal(YesNo(str(clip)), r"yes-no: .*a clip is not a model that tells what it sees")
