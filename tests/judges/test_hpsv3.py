"""HPSv3 on a tiny random Qwen2-VL in the authors' layout, against its formula written out with a plain Qwen2."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tiny_vision
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2Config, Qwen2Model, Qwen2VLConfig, Qwen2VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from contrapose.errors import UserError
from contrapose.judges.hpsv3 import HPSv3
from contrapose.judges.hpsv3_message import message_of
from contrapose.judges.judge import score
from contrapose.store.prompts import Prompt

IMAGES = [tiny_vision.noise_image(seed, size) for seed, size in enumerate([(40, 40), (90, 33), (64, 130)])]
PROMPTS = ["a red circle", "", "two blue stars on a green square, and <|Reward|> in letters"]
Parts = tuple[Path, Path, Qwen2VLModel, nn.Module]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The folder of small files, that of the weights, and what these are of: a body and a head."""
    folder = tiny_vision.save_chat_model(tmp_path_factory.mktemp("chat"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    config = Qwen2VLConfig.from_pretrained(folder)
    config.text_config.vocab_size = len(tokenizer)
    torch.manual_seed(11)
    body = Qwen2VLModel(config).eval()
    head = nn.Sequential(nn.Linear(32, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU())
    head.append(nn.Linear(16, 2)).eval()
    stored: dict[str, Tensor] = {"lm_head.weight": torch.zeros(len(tokenizer), 32)}
    for name, value in body.state_dict().items():
        stored[name.replace("language_model.", "model.", 1)] = value
    stored |= {f"rm_head.{name}": value for name, value in head.state_dict().items()}
    weights = tmp_path_factory.mktemp("weights")
    save_file(stored, weights / "HPSv3.safetensors")
    return folder, weights, body, head


def settings(parts: Parts) -> HPSv3:
    return HPSv3(str(parts[1]), str(parts[0]), precision="fp32", batch_size=2)


def shown(folder: Path, image: object, prompt: str) -> tuple[dict[str, Tensor], Tensor, int]:
    """The image's patches, the conversation written by hand, and the place of the token that counts."""
    prepare = Qwen2VLImageProcessorPil.from_pretrained(folder)
    patches = prepare(images=[image], size={"shortest_edge": 200704, "longest_edge": 200704}, return_tensors="pt")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    pads = tiny_vision.IMAGE_PAD * (int(patches["image_grid_thw"].prod()) // 4)
    turn = f"<|vision_start|>{pads}<|vision_end|>{message_of(prompt)}<|im_end|>\n"
    tokens = tokenizer(f"<|im_start|>user\n{turn}<|im_start|>assistant\n", return_tensors="pt")["input_ids"]
    place = int((tokens[0] == tokenizer.convert_tokens_to_ids("<|Reward|>")).nonzero()[-1])
    return dict(patches), tokens, place


@torch.no_grad()
def by_hand(parts: Parts, image: object, prompt: str) -> tuple[float, float]:
    """mu where positions count on, by a Qwen2 that knows no images; and mu by Qwen2-VL's own positions."""
    folder, _, body, head = parts
    patches, tokens, place = shown(folder, image, prompt)
    is_image = tokens == body.config.image_token_id
    text = body.config.text_config
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    plain = Qwen2Model(
        Qwen2Config(
            **{name: getattr(text, name) for name in (*sizes, "num_key_value_heads", "rms_norm_eps")},
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
    ).eval()
    plain.load_state_dict(body.language_model.state_dict())
    words = body.language_model.embed_tokens(tokens)
    words[is_image] = body.visual(patches["pixel_values"], patches["image_grid_thw"]).pooler_output
    one_count = plain(inputs_embeds=words).last_hidden_state
    rows_and_columns = body(input_ids=tokens, mm_token_type_ids=is_image.int(), **patches).last_hidden_state
    return head(one_count[0, place])[0].item(), head(rows_and_columns[0, place])[0].item()


def test_the_score_is_mu_with_positions_that_count_on(parts: Parts) -> None:
    """And is not what Qwen2-VL's own positions, by rows and columns of the image, would give."""
    scores = score(settings(parts).load("cpu"), IMAGES, [Prompt(text) for text in PROMPTS])
    expected = [by_hand(parts, image, prompt) for image, prompt in zip(IMAGES, PROMPTS, strict=True)]
    assert np.allclose(scores, [counted for counted, _ in expected], atol=1e-4)
    assert all(abs(counted - other) > 1e-2 for counted, other in expected)
    assert np.ptp(scores) > 1e-2


def test_the_message_is_the_authors_to_the_last_space() -> None:
    assert hashlib.sha256(message_of("{prompt}").encode()).hexdigest()[:16] == "e61d58f3c7d3be65"
    assert message_of("a cat {x}").count("Textual prompt - a cat {x}\n\n\n\nPlease provide") == 1


def test_the_head_stays_in_fp32(parts: Parts) -> None:
    judge = HPSv3(str(parts[1]), str(parts[0])).load("cpu")
    weights = judge.measure.__self__.network.head.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in parts[3].state_dict().items())
    (value,) = score(judge, IMAGES[:1], [Prompt("a red circle")])
    assert value == pytest.approx(by_hand(parts, IMAGES[0], "a red circle")[0], abs=0.2)
    assert judge.version != settings(parts).load("cpu").version


def test_an_image_like_a_thread_is_told(parts: Parts) -> None:
    with pytest.raises(UserError, match="an image of 1x300 is more than 200 times as long as broad"):
        score(settings(parts).load("cpu"), [tiny_vision.noise_image(0, (1, 300))], [Prompt("a")])


def refusal(made: HPSv3, match: str) -> None:
    with pytest.raises(UserError, match=match) as raised:
        made.load("cpu")
    assert "\n" not in str(raised.value)


def test_weights_that_are_missing_or_of_another_network_are_told(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    small, weights, _, _ = parts
    refusal(HPSv3(model=str(small)), r"^hpsv3: MizzenAI/HPSv3 .*'hf download MizzenAI/HPSv3 HPSv3.safetensors' once")
    refusal(HPSv3(str(tmp_path), str(small)), r"^hpsv3: .*HPSv3.safetensors: no such file; get it by 'hf download")
    stored = load_file(weights / "HPSv3.safetensors")
    norm = "model.norm.weight"
    spoiled = {
        "missing": {name: value for name, value in stored.items() if name != norm},
        "not of the shape": stored | {"model.embed_tokens.weight": torch.zeros(9, 32)},
        "not finite": stored | {norm: torch.full((32,), torch.nan)},
        "must be HPSv3.safetensors": stored | {"something.weight": torch.zeros(1)},
        "cannot be loaded": {name: value for name, value in stored.items() if name != "rm_head.0.bias"},
    }
    for reason, tensors in spoiled.items():
        save_file(tensors, tmp_path / "HPSv3.safetensors")
        refusal(HPSv3(str(tmp_path), str(small)), rf"^hpsv3: .*HPSv3.safetensors: .*{reason}")
