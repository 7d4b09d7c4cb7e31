"""Texts: as the stock pipelines read them, trimmed where padding is masked, and the same from the cache."""

from __future__ import annotations

import re
import shutil
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import stock
import torch

from contrapose.backbones.base import Backbone
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.families.table import load_backbone, prompt_reader
from contrapose.backbones.settings import Loading
from contrapose.core.group import Condition, join
from contrapose.errors import UserError

STRANGE = ["", "猫 on a mat 🎨 Été\n\t<s>", "word " * 2000]


def _same(first: Condition, second: Condition, tolerance: float = 0.0) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=tolerance, rtol=0)


def test_any_text_is_read(name: str, plain: Backbone) -> None:
    condition = plain.text.embed([*stock.PROMPTS, *STRANGE])
    assert {len(value) for value in condition.values()} == {5}
    for value in condition.values():
        assert value.isfinite().all()
    text = condition["text"]
    rows = families.of(name).text_rows or plain.text.tokens
    assert text.shape[1] == rows, "the longest prompt fills what the network reads"
    assert not torch.equal(text[0], text[1])
    assert ("length" in condition) == families.of(name).masked
    if "length" in condition:
        assert condition["length"][4] == plain.text.tokens
        assert 0 < condition["length"][2] <= condition["length"][0] < condition["length"][1] < 60


def test_reading_together_is_reading_alone(plain: Backbone) -> None:
    prompts = [*stock.PROMPTS, *STRANGE]
    _same(plain.text.embed(prompts), join([plain.text.embed([prompt]) for prompt in prompts]), 1e-5)


@pytest.mark.parametrize("name", families.names(masked=True))
def test_short_prompts_are_short(plain: Backbone) -> None:
    """A prompt of twenty tokens must not cost three hundred, and nothing stands beyond its end."""
    condition = plain.text.embed(["a red circle " * 2, "a red circle " * 6])
    text, length = condition["text"], condition["length"]
    assert text.shape[1] == length.max() < 45
    assert length[0] < length[1]
    assert not text[0, length[0] :].any()
    assert text[0, : length[0]].any(1).all()
    assert length.dtype == torch.int64


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["lora"], indirect=True)
def test_a_padded_batch_predicts_as_each_prompt_alone(name: str, backbone: Backbone) -> None:
    prompts = [*stock.PROMPTS, "", "a red circle " * 5]
    alone = [backbone.text.embed([prompt]) for prompt in prompts]
    x_t = stock.noise(name, backbone.sampler.stock, len(prompts))
    times = torch.tensor([0.1, 0.4, 0.6, 0.9])
    t = times if backbone.denoiser.space == "velocity" else (times * 1000).long()
    together = backbone.predict("reference", x_t, t, join(alone))
    for row, condition in enumerate(alone):
        rows = slice(row, row + 1)
        one = backbone.predict("reference", x_t[rows], t[rows], condition)
        assert (together[rows] - one).abs().max() < 1e-5
    if "length" in alone[0]:
        assert len({int(condition["length"]) for condition in alone}) > 2


@torch.no_grad()
@pytest.mark.parametrize("name", families.names(masked=True))
@pytest.mark.parametrize("backbone", ["lora"], indirect=True)
def test_what_is_beyond_a_length_is_never_read(name: str, backbone: Backbone) -> None:
    condition = dict(backbone.text.embed(stock.PROMPTS))
    x_t, t = stock.noise(name, backbone.sampler.stock), torch.tensor([0.3, 0.6])
    t = t if backbone.denoiser.space == "velocity" else (t * 1000).long()
    clean = backbone.predict("reference", x_t, t, condition)
    beyond = torch.arange(condition["text"].shape[1]) >= condition["length"][:, None]
    assert beyond.any()
    dirty = condition | {"text": condition["text"] + 100 * beyond[..., None]}
    assert (backbone.predict("reference", x_t, t, dirty) - clean).abs().max() < 1e-5


def test_the_cache_gives_what_is_read(plain: Backbone, tmp_path: Path) -> None:
    prompts = [*stock.PROMPTS, *STRANGE, stock.PROMPTS[0]]
    live, none = plain.text.embed(prompts), plain.text.unconditional()
    for round in range(2):  # computed, then from the files
        cache = Embeddings(plain.text, folder=tmp_path)
        _same(cache(prompts), live, 1e-5)
        _same(cache.unconditional(), none)
        assert list(tmp_path.rglob("*.safetensors")), round
    short = Embeddings(plain.text, folder=tmp_path)(stock.PROMPTS)
    _same(short, plain.text.embed(stock.PROMPTS), 1e-5)


def test_the_cache_outlives_the_encoders(folder: Path, plain: Backbone, tmp_path: Path) -> None:
    """The very bytes that were computed; nothing is asked of encoders that have left."""
    prompts = stock.PROMPTS[::-1]
    computed = Embeddings(plain.text, folder=tmp_path)
    first, none = computed(prompts), computed.unconditional()
    backbone = load_backbone(folder)
    cache = Embeddings(backbone.text, folder=tmp_path)
    backbone.release_encoders()
    _same(cache(prompts), first)
    _same(cache.unconditional(), none)


def test_settings_that_decide_the_text(
    name: str, folder: Path, plain: Backbone, loaded: Any, halved: Callable[[str, bool], Backbone]
) -> None:
    """Two models with the same encoders share embeddings; another length, precision or model does not."""
    others = {n: loaded(n).text.settings for n in families.NAMES}
    assert [n for n in others if others[n] == plain.text.settings] == [name]
    assert load_backbone(folder, network_dtype=torch.bfloat16).text.settings == plain.text.settings
    assert halved(name, False).text.settings != plain.text.settings
    if not families.of(name).fixed_text:
        shorter = load_backbone(folder, loading=Loading(text_length=40))
        assert shorter.text.settings != plain.text.settings
        assert shorter.text.embed(["word " * 2000])["text"].shape[1] == 40 + (families.of(name).text_rows or 0) % 256
        assert shorter.fingerprint == plain.fingerprint


@pytest.mark.parametrize("name", families.names(fixed_text=False, variant_of=None))
def test_another_text_length_predicts_and_generates(name: str, folder: Path, generation: Callable[..., Any]) -> None:
    backbone = load_backbone(folder, loading=Loading(text_length=40))
    made = backbone.sampler.generate(generation(backbone))
    assert made.isfinite().all()


@pytest.mark.parametrize("name", families.names(fixed_text=True))
def test_clip_has_one_length(folder: Path) -> None:
    with pytest.raises(UserError, match=r"^text_length: .* fixed number of tokens"):
        load_backbone(folder, loading=Loading(text_length=40))


def _last_word_is_read(plain: Backbone, words: int) -> bool:
    """Whether the last of so many words makes a difference to what is read."""
    others = ["red"] * (words - 1)
    fewer = others if "length" in plain.text.embed([""]) else [*others, "blue"]
    first, second = (plain.text.embed([" ".join(some)]) for some in ([*others, "red"], fewer))
    if "length" in first:
        return bool(first["length"] > second["length"])
    return not torch.equal(first["text"], second["text"])


def test_the_reader_tells_what_is_cut(folder: Path, plain: Backbone) -> None:
    """Found by the words that make no difference any more."""
    too_long = prompt_reader(folder)

    def of(words: int) -> str:
        return " ".join(["red"] * words)

    fits = bisect_left(range(1, 550), True, key=lambda words: bool(too_long([of(words)])))
    assert 15 < fits < 520
    lengths = sorted({*range(1, 550, 40), fits, fits + 1})
    assert too_long([of(words) for words in lengths]) == [of(words) for words in lengths if words > fits]
    assert _last_word_is_read(plain, fits)
    assert not _last_word_is_read(plain, fits + 1)


@pytest.mark.parametrize("name", families.names(fixed_text=False, variant_of=None))
def test_the_reader_knows_the_length_that_is_set(folder: Path) -> None:
    prompts = ["a red circle", "a red circle " * 7, "a red circle " * 20]
    assert prompt_reader(folder, Loading(text_length=50))(prompts) == prompts[2:]
    assert prompt_reader(folder)(prompts) == []


def test_a_reader_without_a_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    shutil.rmtree(model / "tokenizer")
    for folder in (model, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=re.escape(str(folder))) as caught:
            prompt_reader(folder)
        assert len(str(caught.value).splitlines()) == 1
