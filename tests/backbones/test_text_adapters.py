"""Adapters on text encoders: what is embedded, and what is drawn, is of the encoders as they are, and is kept apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import families
import pytest
import stock
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from torch import Tensor
from training import with_own_network

from contrapose.backbones.base import Backbone
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main
from contrapose.core.group import Condition

ENCODERS = {f.name: f.text_adapters for f in families.FAMILIES if f.text_adapters and f.variant_of is None}
PROMPT = "a red circle"


def _text_lora(name: str, pipe: DiffusionPipeline, folder: Path, with_network: bool = True) -> Path:
    """A LoRA of diffusers' own form with layers of the denoiser and of every text encoder that may have some."""
    parts = ["text_encoder", "text_encoder_2"][: ENCODERS[name]]
    denoiser = "unet" if hasattr(pipe, "unet") else "transformer"
    layers: dict[str, Mapping[str, Tensor]] = {}
    for part in (denoiser, *parts):
        targets = ["to_q", "to_v"] if part == denoiser else ["q_proj", "v_proj"]
        getattr(pipe, part).add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets), "made")
        state = get_peft_model_state_dict(getattr(pipe, part), adapter_name="made")
        random = torch.Generator().manual_seed(len(part))
        spread = 0.02 if part == denoiser else 2.0
        layers[f"{part}_lora_layers"] = {
            key: torch.randn(value.shape, generator=random) * spread for key, value in state.items()
        }
    if not with_network:
        layers.pop(f"{denoiser}_lora_layers")
    type(pipe).save_lora_weights(folder, **layers)
    return folder


@pytest.fixture(scope="module")
def made(loaded: Callable[[str], Backbone], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("text-lora")

    @cache
    def written(name: str) -> Path:
        backbone = with_own_network(loaded(name), *loaded(name).text.encoder_parts)
        return _text_lora(name, backbone.sampler.stock, folder / name)

    return written


@pytest.fixture
def text_lora(name: str, made: Callable[[str], Path]) -> Path:
    """A folder as stock diffusers writes it."""
    return made(name)


def _same(one: Condition, other: Condition) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@contextlib.contextmanager
def _loaded(pipe: DiffusionPipeline, lora: Path) -> Iterator[None]:
    pipe.load_lora_weights(lora)
    yield
    pipe.unload_lora_weights()


@contextlib.contextmanager
def _fused(pipe: DiffusionPipeline, lora: Path) -> Iterator[None]:
    pipe.load_lora_weights(lora)
    pipe.fuse_lora()
    yield
    pipe.unfuse_lora()
    pipe.unload_lora_weights()


@contextlib.contextmanager
def _weaker(pipe: DiffusionPipeline, lora: Path) -> Iterator[None]:
    pipe.load_lora_weights(lora, adapter_name="one")
    pipe.set_adapters("one", 0.5)
    yield
    pipe.unload_lora_weights()


@contextlib.contextmanager
def _disabled(pipe: DiffusionPipeline, lora: Path) -> Iterator[None]:
    pipe.load_lora_weights(lora)
    pipe.disable_lora()
    yield
    pipe.unload_lora_weights()


@contextlib.contextmanager
def _another_encoder(pipe: DiffusionPipeline, lora: Path) -> Iterator[None]:
    weight = next(p for n, p in pipe.text_encoder.named_parameters() if n.endswith("token_embedding.weight"))
    row = weight.data[7].clone()
    weight.data[7] = 0  # one word of many
    yield
    weight.data[7] = row


WAYS = (_loaded, _fused, _weaker, _disabled, _another_encoder)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("first", ["base", "changed"])
def test_what_is_embedded_is_of_the_encoders_as_they_are(
    way: Callable[..., contextlib.AbstractContextManager[None]],
    first: str,
    plain: Backbone,
    text_lora: Path,
    tmp_path: Path,
) -> None:
    """With one cache for all, open all the while or opened anew, whichever is asked first."""
    backbone = with_own_network(plain, *plain.text.encoder_parts)
    pipe, cache = backbone.sampler.stock, tmp_path / "cache"
    open_all_along = Embeddings(backbone.text, folder=cache)

    def check(expected: Condition) -> None:
        assert _same(backbone.text.embed([PROMPT]), expected), "the test must see the encoders as they are"
        for cached in (open_all_along, Embeddings(backbone.text, folder=cache)):
            assert _same(cached([PROMPT]), {n: v.cpu() for n, v in expected.items()})

    base = backbone.text.embed([PROMPT])
    if first == "base":
        check(base)
    with way(pipe, text_lora):
        changed = backbone.text.embed([PROMPT])
        check(changed)
    if way is not _fused:  # which rounds when it is undone
        check(base)
    # a copy's weights lie at other addresses, by which some CPUs round otherwise
    again = Embeddings(plain.text, folder=cache)([PROMPT])
    assert all(torch.allclose(again[name], base[name], rtol=0, atol=1e-6) for name in base)
    if way not in (_disabled, _another_encoder):
        assert not _same(base, changed)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("order", [("base", "lora", "base"), ("lora", "base", "lora")], ids="-".join)
def test_samples_in_any_order(
    order: tuple[str, ...],
    name: str,
    folder: Path,
    text_lora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The images of a base and of a LoRA with text layers are those of empty caches; stock diffusers is the witness."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n")
    adapter = {"base": [], "lora": ["--adapter", str(text_lora)]}

    def sample(what: str, out: Path, cache: Path) -> bytes:
        monkeypatch.setenv("CONTRAPOSE_CACHE", str(cache))
        asked = ["sample", "--model", folder, "--prompts", prompts, "--num-images", 1, "--steps", 2, "--device", "cpu"]
        assert main([*map(str, asked), "--out", str(out), *adapter[what]]) == 0
        return Image.open(out / "00000" / "samples" / "0000.png").tobytes()

    alone = {what: sample(what, tmp_path / f"alone-{what}", tmp_path / f"cache-{what}") for what in adapter}
    assert alone["base"] != alone["lora"]
    for number, what in enumerate(order):
        assert sample(what, tmp_path / f"{number}", tmp_path / "shared") == alone[what]
    backbone = load_backbone(folder, adapter=text_lora)
    pipe = stock.load(name, folder)
    pipe.load_lora_weights(text_lora)
    expected = pipe.encode_prompt(PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert torch.equal(backbone.text.embed([PROMPT])["text"], expected[0])


def test_encoders_that_have_left_are_what_they_were(folder: Path, tmp_path: Path) -> None:
    backbone: Backbone = load_backbone(folder)
    settings = backbone.text.settings
    backbone.release_encoders()
    assert backbone.text.settings == settings
