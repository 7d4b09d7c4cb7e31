"""Pretraining in miniature: every phase runs, carries on where it was stopped, and ends in a stock pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from contrapose import runfile
from contrapose.cli.main import main
from contrapose.pixels import to_tensor
from contrapose.worlds.shapes.beginning import initial_denoiser, initial_vae
from contrapose.worlds.shapes.blueprint import build_tokenizer, build_vae
from contrapose.worlds.shapes.grammar import TAGS, canonical_meanings
from contrapose.worlds.shapes.latents import follow, whiten
from contrapose.worlds.shapes.pretrain import (
    SETTINGS,
    Pretraining,
    draw_example,
    encode_dataset,
    train_denoiser,
    train_vae,
)
from contrapose.worlds.shapes.shipped import shipped_model

TINY = Pretraining(num_images=70, vae_steps=2, vae_batch_size=2, train_steps=3, batch_size=4, warmup=1, save_every=1)
PHASES = (train_vae, encode_dataset, train_denoiser)


def _whole(out: Path) -> dict[str, torch.Tensor]:
    for phase in PHASES:
        list(phase(TINY, out))
    return load_file(out / "work" / "denoiser.safetensors")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    out = tmp_path_factory.mktemp("whole")
    return out, _whole(out)


def test_pretraining_ends_in_a_stock_half_precision_pipeline(pretrained: tuple[Path, dict]) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(pretrained[0] / "model")
    assert pipe.unet.config.sample_size == 8
    stored = load_file(pretrained[0] / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    image = pipe("a red circle", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (64, 64, 3)
    assert not [p for p in (pretrained[0] / "model").rglob("*.json") if str(pretrained[0]) in p.read_text()]


def test_pretraining_that_was_stopped_ends_with_the_same_weights(
    pretrained: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    list(train_vae(TINY, tmp_path))
    list(encode_dataset(TINY, tmp_path))

    _stop_after_first_save(train_denoiser(TINY, tmp_path), tmp_path)
    resumed = _whole(tmp_path)
    assert all(torch.equal(value, resumed[name]) for name, value in pretrained[1].items())


def _stop_after_first_save(states, out: Path) -> None:
    """Progress is told every 20 steps only, so stop from inside the first publication."""
    import contrapose.worlds.shapes.pretrain as module

    publish = module.publish
    module.publish = _raise
    try:
        with pytest.raises(KeyboardInterrupt):
            list(states)
    finally:
        module.publish = publish
    assert (out / "work" / "denoiser.safetensors").exists()


def _raise(*_: object) -> None:
    raise KeyboardInterrupt


def test_other_settings_do_not_mix_with_work_in_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runfile.claim(tmp_path / SETTINGS, TINY, runfile.converter())
    given = {name: value for name, value in vars(TINY).items() if name != "save_every"} | {"seed": 7}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert main(["shapes", "pretrain", "--out", str(tmp_path), *flags]) == 2
    assert "of other settings (seed differ)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [SETTINGS]


def test_an_example_depends_on_its_number_alone() -> None:
    image, text = draw_example(0, 7, 0.25)
    again, same = draw_example(0, 7, 0.25)
    assert (image == again).all()
    assert text == same
    assert (draw_example(0, 8, 0.25)[0] != image).any()


def test_every_word_of_the_grammar_is_one_token_and_any_text_is_known() -> None:
    tokenizer = build_tokenizer()
    words = {w for tag in TAGS for m in canonical_meanings(tag) for line in m.wordings() for w in line.split()}
    assert all(len(tokenizer(word).input_ids) == 3 for word in words)
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
    strange = tokenizer("naïve 北京 🦄").input_ids[1:-1]
    assert tokenizer.unk_token_id not in strange


def test_the_model_ships_the_tokenizer_whose_numbers_it_learnt(pretrained: tuple[Path, dict]) -> None:
    out, _ = pretrained
    tokens = load_file(out / "work" / "dataset.safetensors")["tokens"]
    shipped = CLIPTokenizer.from_pretrained(out / "model" / "tokenizer")
    texts = [draw_example(TINY.seed, index, TINY.carelessness)[1] for index in range(TINY.num_images)]
    again = shipped(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(again, tokens)
    assert any(" an " in text for text in texts)


@torch.no_grad()
def test_whitened_latents_have_unit_covariance_and_decode_to_the_same_images() -> None:
    torch.manual_seed(0)
    vae = build_vae().eval()
    vae.quant_conv.weight *= 30  # untrained latents are faint beside the posterior's noise
    images = np.stack([draw_example(1, index, 0.0)[0] for index in range(30)])
    pixels = to_tensor(images)
    decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    whiten(vae, images)
    posterior = vae.encode(pixels).latent_dist
    assert torch.allclose(vae.decode(posterior.mean).sample, decoded, atol=1e-4)
    assert posterior.mean.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    covariance = torch.cov(posterior.mean.transpose(0, 1).flatten(1))
    noise = posterior.var.mean(dim=(0, 2, 3)).diag()
    assert noise.max() < 0.5
    assert torch.allclose((covariance + noise).diagonal(), torch.ones(8), atol=0.02)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 0.5


@torch.no_grad()
def test_a_text_encoder_that_starts_from_another_reads_the_words_that_both_know_alike() -> None:
    tokenizer = build_tokenizer()
    _, text_encoder = initial_denoiser("shapes", tokenizer)
    shipped = StableDiffusionPipeline.from_pretrained(shipped_model())
    text = "a red star above a blue square"
    expected = shipped.text_encoder(shipped.tokenizer(text, return_tensors="pt").input_ids).last_hidden_state
    adopted = text_encoder(tokenizer(text, return_tensors="pt").input_ids).last_hidden_state
    assert torch.allclose(adopted, expected, atol=1e-5)


@torch.no_grad()
def test_latents_follow_another_autoencoder_as_far_as_an_affine_map_can() -> None:
    former = initial_vae("shapes").eval()
    vae = initial_vae("shapes").eval()
    # the same latents in another basis, which the decoder knows nothing of
    turn = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(8)
    vae.quant_conv.weight[:8] = torch.einsum("oc,cihw->oihw", turn, vae.quant_conv.weight[:8])
    vae.quant_conv.bias[:8] = turn @ vae.quant_conv.bias[:8] + 1
    images = np.stack([draw_example(1, index, 0.0, 0.0)[0] for index in range(30)])
    pixels = to_tensor(images)
    decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    follow(vae, former, images)
    latents = vae.encode(pixels).latent_dist.mean
    assert torch.allclose(latents, former.encode(pixels).latent_dist.mean, atol=1e-2)
    assert torch.allclose(vae.decode(latents).sample, decoded, atol=1e-3)


def test_a_start_that_is_no_pipeline_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shapes", "pretrain", "--out", str(tmp_path / "out"), "--start", str(tmp_path)]) == 2
    assert f"{tmp_path}: no pipeline folder to start from" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
