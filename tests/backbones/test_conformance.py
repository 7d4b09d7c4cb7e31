"""One suite over every backbone x {LoRA, full}: what the contract promises, with stock diffusers as witness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from contrapose.backbones.families import load_backbone
from contrapose.backbones.stable_diffusion import StableDiffusion

PROMPTS = ["a red circle", "two blue squares above a green star"]


@pytest.fixture(params=["eps", "v"])
def model(request: pytest.FixtureRequest, tiny_model: Path, tiny_v_model: Path) -> Path:
    return {"eps": tiny_model, "v": tiny_v_model}[request.param]


@pytest.fixture(params=["lora", "full"])
def backbone(request: pytest.FixtureRequest, model: Path) -> StableDiffusion:
    torch.manual_seed(0)
    loaded = load_backbone(model)
    return loaded.with_lora(rank=4, alpha=10.0) if request.param == "lora" else loaded.with_full(torch.float32)


def _stock(folder: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _inputs(backbone: StableDiffusion) -> dict[str, Any]:
    x_t = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(1))
    return {"x_t": x_t, "t": torch.tensor([10, 900]), "condition": backbone.embed(PROMPTS)}


def _predict(backbone: StableDiffusion, policy: str) -> Tensor:
    with torch.no_grad():
        return backbone.predict(policy, **_inputs(backbone))


def _train_one_step(backbone: StableDiffusion, rate: float = 1.0) -> None:
    prediction = backbone.predict("trainee", **_inputs(backbone))
    prediction.square().mean().backward()
    torch.optim.SGD(backbone.policies.parameters(), rate).step()


def test_the_space_is_the_schedulers(tiny_model: Path, tiny_v_model: Path) -> None:
    assert (load_backbone(tiny_model).space, load_backbone(tiny_v_model).space) == ("eps", "v")


def test_the_trainee_starts_as_the_reference(backbone: StableDiffusion) -> None:
    assert torch.equal(_predict(backbone, "trainee"), _predict(backbone, "reference"))


def test_gradients_only_where_they_belong(backbone: StableDiffusion) -> None:
    assert not backbone.predict("reference", **_inputs(backbone)).requires_grad
    backbone.predict("trainee", **_inputs(backbone)).square().mean().backward()
    trained = {id(p) for p in backbone.policies.parameters()}
    assert all(p.grad is not None for p in backbone.policies.parameters())
    assert any(p.grad.abs().sum() > 0 for p in backbone.policies.parameters())
    modules = (
        backbone.pipe.unet,
        backbone.pipe.vae,
        backbone.pipe.text_encoder,
        backbone.policies.denoiser("reference"),
    )
    others = [p for module in modules for p in module.parameters() if id(p) not in trained]
    assert others
    assert all(p.grad is None for p in others)


def test_the_optimiser_sees_the_weights_that_are_saved(backbone: StableDiffusion) -> None:
    of_optimiser = sum(p.numel() for p in backbone.policies.parameters())
    assert of_optimiser == sum(value.numel() for value in backbone.policies.state().values())


def test_a_step_moves_the_trainee_alone(backbone: StableDiffusion) -> None:
    before = _predict(backbone, "reference")
    _train_one_step(backbone)
    assert torch.equal(_predict(backbone, "reference"), before)
    assert (_predict(backbone, "trainee") - before).abs().max() > 1e-5


def test_the_order_of_policies_does_not_matter(backbone: StableDiffusion) -> None:
    """Adapters are switched on and off on one module: a policy must not depend on which was asked before."""
    _train_one_step(backbone)
    names = ("trainee", "reference", "trainee", "trainee", "reference")
    answers = [(name, _predict(backbone, name)) for name in names]
    for name, answer in answers:
        assert torch.equal(answer, answers[names.index(name)][1])


def test_predictions_are_the_stock_pipelines(model: Path, backbone: StableDiffusion) -> None:
    calls: list[tuple[Any, Any, Any]] = []
    stock = _stock(model)
    stock.unet.register_forward_hook(
        lambda _, args, kwargs, out: calls.append((args, kwargs, out[0])), with_kwargs=True
    )
    stock(PROMPTS, num_inference_steps=2, guidance_scale=5.0, output_type="latent")
    assert len(calls) == 2
    for (x_t, t), kwargs, expected in calls:
        for policy in ("reference", "trainee"):
            condition = {"text": kwargs["encoder_hidden_states"]}
            with torch.no_grad():
                ours = backbone.predict(policy, x_t, t.expand(len(x_t)), condition)
            assert (ours - expected).abs().max() < 1e-5


def test_the_path_is_the_schedulers(model: Path, backbone: StableDiffusion) -> None:
    """x_t from our path is x_t from the scheduler that trained the model."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_pretrained(model / "scheduler")
    x0, eps = torch.randn(2, 3, *backbone.latent_shape, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([0, 500, 999])
    assert (backbone.path.add_noise(x0, eps, t) - scheduler.add_noise(x0, eps, t)).abs().max() < 1e-6


def _sample(pipe: StableDiffusionPipeline) -> np.ndarray:
    generator = torch.Generator().manual_seed(3)
    return pipe(PROMPTS, num_inference_steps=3, guidance_scale=4.0, generator=generator, output_type="np").images


def test_what_is_saved_samples_the_same_in_stock_diffusers(
    model: Path, backbone: StableDiffusion, tmp_path: Path
) -> None:
    _train_one_step(backbone)
    backbone.save(tmp_path)
    if (tmp_path / "model").is_dir():
        stock = _stock(tmp_path / "model")
    else:
        stock = _stock(model)
        stock.load_lora_weights(tmp_path)
    backbone.policies.denoiser("trainee")
    ours = _sample(backbone.pipe)
    assert np.array_equal(_sample(load_backbone(model, adapter=tmp_path).pipe), ours)
    assert np.abs(_sample(stock) - ours).max() < 1e-5, "ours may round otherwise, as its attention is the plain one"
    assert np.abs(_sample(_stock(model)) - ours).max() > 1e-3, "the test must see training"


def test_saving_works_without_encoders(model: Path, backbone: StableDiffusion, tmp_path: Path) -> None:
    """Training drops text encoder and autoencoder from memory; what is saved is a whole model all the same."""
    backbone.release_encoders()
    backbone.save(tmp_path)
    assert _sample(load_backbone(model, adapter=tmp_path).pipe).shape == (2, 16, 16, 3)


def test_state_round_trip(model: Path, backbone: StableDiffusion) -> None:
    _train_one_step(backbone)
    state = {name: value.clone() for name, value in backbone.policies.state().items()}
    moved = _predict(backbone, "trainee")
    _train_one_step(backbone)
    assert not torch.equal(_predict(backbone, "trainee"), moved)
    backbone.policies.load_state(state)
    assert torch.equal(_predict(backbone, "trainee"), moved)


def test_without_a_reference_there_is_none(tiny_model: Path) -> None:
    with pytest.raises(KeyError):
        load_backbone(tiny_model).with_full(torch.float32, needs_reference=False).policies.denoiser("reference")


def test_encode_and_decode(model: Path) -> None:
    backbone = load_backbone(model)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    latents = backbone.encode(images)
    assert latents.shape == (2, *backbone.latent_shape)
    assert backbone.decode(latents).shape == images.shape
    stock = _stock(model).vae
    with torch.no_grad():
        expected = stock.encode(images).latent_dist.mean * stock.config.scaling_factor
        assert torch.equal(latents, expected)
        assert torch.equal(backbone.decode(latents), stock.decode(latents / stock.config.scaling_factor).sample)


def test_embeddings_are_the_stock_pipelines(model: Path) -> None:
    backbone, stock = load_backbone(model), _stock(model)
    prompts = [*PROMPTS, "", "猫 on a mat 🎨", "word " * 2000]
    positive, negative = stock.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=True)
    assert torch.equal(backbone.embed(prompts)["text"], positive)
    arguments = backbone.call_arguments(backbone.embed(prompts), backbone.embed([""]))
    assert torch.allclose(arguments["negative_prompt_embeds"], negative, atol=1e-6)
    assert torch.equal(arguments["prompt_embeds"], positive)


def test_the_fingerprint_is_the_weights_alone(tiny_model: Path, tiny_v_model: Path) -> None:
    """Pairs may be drawn in one precision and trained on in another: it is the same model."""
    prints = {load_backbone(tiny_model, dtype).fingerprint for dtype in (torch.float32, torch.bfloat16, torch.float16)}
    assert len(prints) == 1
    assert load_backbone(tiny_v_model).fingerprint not in prints
