"""Captions by tiny random models: what a model says alone it says in any batch, one line each."""

from __future__ import annotations

import json
import shutil
import threading

import pytest
import tiny_vision
import torch
from serving import serving
from transformers import AutoTokenizer, BlipForConditionalGeneration
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from contrapose import runfile
from contrapose.asking import Asking
from contrapose.errors import UserError
from contrapose.judges.vision_language import VisionLanguage
from contrapose.photographs.captions import Captioner, tidy

IMAGES = [tiny_vision.noise_image(seed, size) for seed, size in enumerate([(40, 40), (90, 33), (30, 64), (50, 50)])]


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return tiny_vision.save_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return tiny_vision.save_chat_model(tmp_path_factory.mktemp("chat"))


def test_blip_writes_the_likeliest_word_each_time(blip):
    """Against one forward pass a word, from the start token that is outside the tokenizer."""
    network, tokenizer = BlipForConditionalGeneration.from_pretrained(blip), AutoTokenizer.from_pretrained(blip)
    pixels = BlipImageProcessorPil.from_pretrained(blip)(images=[IMAGES[0]], return_tensors="pt")["pixel_values"]
    ids = [network.config.text_config.bos_token_id]
    with torch.no_grad():
        seen = network.vision_model(pixel_values=pixels).last_hidden_state
        for _ in range(6):
            logits = network.text_decoder(
                input_ids=torch.tensor([ids]), encoder_hidden_states=seen, is_decoder=True
            ).logits[0, -1]
            ids.append(int(logits.argmax()))
            if ids[-1] == tokenizer.sep_token_id:
                break
    expected = tidy(tokenizer.decode(ids[1:], skip_special_tokens=True))
    assert expected and Captioner(str(blip), max_new_tokens=6).load("cpu")(IMAGES[:1]) == [expected]


@pytest.mark.parametrize("model", ["blip", "chat"])
def test_a_caption_is_of_its_image_alone(model, request):
    folder = request.getfixturevalue(model)
    write = Captioner(str(folder), max_new_tokens=10, batch_size=3).load("cpu")
    together = write(IMAGES)
    torch.manual_seed(99)
    assert [write([image])[0] for image in IMAGES] == together
    assert write(IMAGES[::-1]) == together[::-1]
    assert len(set(together)) > 2 and write([]) == []
    assert all(caption == tidy(caption) for caption in together)


def test_a_models_own_wish_to_draw_is_not_followed(chat, tmp_path):
    folder = shutil.copytree(chat, tmp_path / "drawing")
    path = folder / "generation_config.json"
    wish = {"do_sample": True, "temperature": 5.0, "top_p": 0.9, "num_beams": 3}
    path.write_text(json.dumps({**json.loads(path.read_text()), **wish}))
    plain, drawing = (Captioner(str(path), max_new_tokens=8).load("cpu") for path in (chat, folder))
    assert drawing(IMAGES) == plain(IMAGES)


def test_a_chat_model_is_told_the_prompt(chat):
    one, other = (Captioner(str(chat), prompt=p, max_new_tokens=8).load("cpu") for p in ("is it", "two red stars"))
    assert one(IMAGES) != other(IMAGES)


def test_a_server_captions_many_at_once_and_nothing_twice(tmp_path, monkeypatch):
    """Each answer waits for three others; one has no words."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    together = threading.Barrier(4)

    def reply(question, num_before):
        together.wait(timeout=30)
        return 200, "" if num_before == 0 else f' "{question}\n it is" '

    with serving(reply, {"/v1/models": {"data": [{"id": "seer"}]}}) as stub:
        captioner = Captioner("", stub.url, "Is it?", asking=Asking(4, cache=tmp_path / "answers.sqlite"))
        captions = captioner.load("cpu")(IMAGES)
        assert sorted(captions) == ["", *["Is it? it is"] * 3]
        assert captioner.load("cpu")(IMAGES[::-1]) == captions[::-1]
        assert len(stub.requests) == 4 and stub.requests[0][2]["model"] == "seer"
    assert captioner.networks == () and captioner.at_once == 4 and Captioner().at_once == 1
    with pytest.raises(UserError, match="captioner: model is empty"):
        Captioner("")


def test_a_processor_saved_whole_is_read_too(chat, tmp_path):
    """The hub's newer layout keeps the preparation of images within processor_config.json."""
    folder = shutil.copytree(chat, tmp_path / "whole")
    VisionLanguage("test", str(chat), "fp32", "cpu").processor.save_pretrained(folder)
    (folder / "preprocessor_config.json").unlink()
    assert Captioner(str(folder)).load("cpu")(IMAGES[:1]) == Captioner(str(chat)).load("cpu")(IMAGES[:1])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a dog\n on  grass\t", "a dog on grass"),
        (' "a dog" ', "a dog"),
        ("“a dog”", "a dog"),
        ('the "dog"', 'the "dog"'),
        ("caf\ufffd\x00é", "caf é"),
        ("\n \u200b", ""),
        ('""', ""),
        ('"', '"'),
    ],
)
def test_captions_are_one_clean_line(text, line):
    assert tidy(text) == line


def test_absent_and_unfit_models_are_told(tmp_path):
    with pytest.raises(UserError, match=r"^captions: \./gone/x: no such model folder"):
        Captioner("./gone/x").load("cpu")
    with pytest.raises(UserError, match=r"'hf download Salesforce/blip-image-captioning-large' once"):
        Captioner().load("cpu")
    with pytest.raises(UserError, match=r"clip: a clip is not a model that tells what it sees"):
        Captioner(str(tiny_vision.save_clip(tmp_path / "clip"))).load("cpu")


def test_settings_stand_in_a_run_file(tmp_path):
    conv = runfile.converter()
    (tmp_path / "run.yaml").write_text(runfile.to_yaml(Captioner(), conv))
    assert runfile.read(tmp_path / "run.yaml", Captioner, conv) == Captioner()
