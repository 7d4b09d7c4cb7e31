"""The model as its own judge: scores by their formulas, written out anew, and the same of latents and of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from contrapose.backbones.families.table import load_backbone
from contrapose.cli.main import main
from contrapose.core.path import DiffusionPath, FlowPath
from contrapose.core.path import Path as NoisingPath
from contrapose.errors import UserError
from contrapose.judges.implicit_reward import ImplicitReward, mean_reward
from contrapose.judges.judge import Jury, judge_of
from contrapose.judges.probes import AskedModel, Probes, ProbingJudge
from contrapose.judges.self_confidence import SelfConfidence
from contrapose.pixels import to_pixels
from contrapose.seeds import generator
from contrapose.store.groups import GroupStore
from contrapose.store.prompts import Prompt

ABAR = torch.linspace(0.999, 0.01, 50, dtype=torch.float64)
PATHS = {"eps": DiffusionPath(ABAR), "velocity": FlowPath()}
TEXT = "a red fox"
LATENT = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def predict(policy: str, x_t: Tensor, t: Tensor, condition: dict[str, Tensor]) -> Tensor:
    """A network of no weights whose answer depends on policy, state, time and prompt."""
    strength = {"model": 0.7, "run": 0.9, "reference": 0.6}[policy]
    return torch.tanh(strength * x_t + 0.01 * t.view(-1, 1, 1, 1) + condition["text"].view(-1, 1, 1, 1))


def asked(space: str) -> AskedModel:
    def read(texts: Sequence[str]) -> dict[str, Tensor]:
        return {"text": torch.tensor([len(text) / 100 for text in texts], dtype=torch.float64)}

    def noising(shape: Sequence[int]) -> NoisingPath:
        return PATHS[space]

    return AskedModel(predict, space, noising, read, lambda images: images, 1, torch.device("cpu"))


def noise_of(number: int) -> Tensor:
    return torch.randn(4, 3, 3, generator=generator("probe", TEXT, number))


def error(space: str, policy: str, share: float, noise: Tensor) -> float:
    """mse of one prediction, in numbers that are none of the code's."""
    if space == "eps":
        t = min(int(share * 50), 49)
        a, s = math.sqrt(ABAR[t]), math.sqrt(1 - ABAR[t])
        truth = noise.double()
    else:
        t, a, s = share, 1 - share, share
        truth = noise.double() - LATENT
    x_t = a * LATENT + s * noise.double()
    strength = {"model": 0.7, "run": 0.9, "reference": 0.6}[policy]
    answer = torch.tanh(strength * x_t + 0.01 * t + len(TEXT) / 100)
    return float(((truth - answer) ** 2).mean())


@pytest.mark.parametrize("space", PATHS)
def test_self_confidence_is_its_formula(space: str) -> None:
    """Of a sampler's ten steps those from the fifth to the last but one: .6 to .2 of the way from data to noise."""
    judge = SelfConfidence(probes=4, batch_size=3).of_policy(asked(space), "model")
    total = weights = 0.0
    for place, share in enumerate((0.6, 0.5, 0.4, 0.3, 0.2)):
        noises = [noise_of(2 * place), noise_of(2 * place + 1)]
        errors = [error(space, "model", share, noise) for noise in (*noises, *(-noise for noise in noises))]
        level = min(int(share * 50), 49) / 49 if space == "eps" else share
        total += level * (1 - level) * -math.log(sum(errors) / 4 + 1e-6)
        weights += level * (1 - level)
    marks = judge.of_latents(LATENT[None], [Prompt(TEXT)], lambda latents: [])
    assert marks["self-confidence"].values.tolist() == pytest.approx([total / weights], rel=1e-6)
    assert SelfConfidence("another model").of_policy(asked(space), "model") is None


@pytest.mark.parametrize("space", PATHS)
def test_implicit_reward_is_its_formula(space: str) -> None:
    probes = Probes((torch.arange(3) + 0.5) / 3, 2, 5)
    judge = ProbingJudge(
        "x", "1", asked(space), ("run", "reference"), probes, lambda errors, _: mean_reward(10.0, errors), True
    )
    gains = []
    for place in range(3):
        for noise in (noise_of(place), -noise_of(place)):
            share = (place + 0.5) / 3
            gains.append(error(space, "reference", share, noise) - error(space, "run", share, noise))
    marks = judge.of_latents(LATENT[None], [Prompt(TEXT)], lambda latents: [])
    assert marks["x"].values.tolist() == pytest.approx([5 * sum(gains) / 6], rel=1e-5)


def test_the_samples_of_a_prompt_are_looked_at_under_the_same_noises() -> None:
    """So that alike samples have alike scores, in whatever batches and company they come."""
    judge = SelfConfidence().of_policy(asked("eps"), "model")
    twice = judge.of_latents(LATENT.repeat(2, 1, 1, 1), [Prompt(TEXT)] * 2, lambda latents: [])
    of_other = judge.of_latents(LATENT[None], [Prompt("b red fox")], lambda latents: [])
    first, second = twice["self-confidence"].values
    assert first == second != of_other["self-confidence"].values[0]


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for settings in (SelfConfidence, ImplicitReward):
        with pytest.raises(UserError, match="probes 3"):
            settings(probes=3)
    with pytest.raises(UserError, match="name the model that drew the images"):
        SelfConfidence().load("cpu")
    with pytest.raises(UserError, match="name the run"):
        ImplicitReward().load("cpu")
    with pytest.raises(UserError, match="gone"):
        ImplicitReward(run=tmp_path / "gone").load("cpu")


@pytest.mark.slow
def test_latents_of_its_own_model_are_judged_as_they_are_and_images_through_the_autoencoder(
    tiny_model: Path, tiny_pairs: Path
) -> None:
    backbone = load_backbone(str(tiny_model))
    settings = SelfConfidence(probes=2, probe_steps=4)
    store = GroupStore(tiny_pairs)
    latents = torch.stack([store.latent(0, row) for row in range(2)])
    prompts = [Prompt(record.prompt) for record in store.records[:2]]

    def decode(latents: Tensor) -> list[Image.Image]:
        return [Image.fromarray(pixels) for pixels in to_pixels(backbone.images.decode(latents))]

    own = judge_of(settings, "cpu", str(tiny_model), backbone.fingerprint)
    foreign = judge_of(SelfConfidence(str(tiny_model), 2, 4), "cpu", "another", "another fingerprint")
    of_latents = Jury([own]).of_latents(latents, prompts, lambda latents: [])["self-confidence"].values
    of_images = own(decode(latents), prompts)["self-confidence"].values
    assert not np.allclose(of_latents, of_images, rtol=1e-3), "what the autoencoder loses"
    again = foreign.of_latents(latents, prompts, decode)["self-confidence"].values
    assert again.tolist() == pytest.approx(of_images.tolist(), rel=1e-6)
    odd = own([Image.new("RGB", (21, 35))], prompts[:1])
    assert np.isfinite(odd["self-confidence"].values).all(), "of sides that the model does not make"


@pytest.mark.slow
def test_pairs_are_scored_by_the_model_and_by_a_run_of_it(
    tiny_model: Path, tiny_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has learnt winners gives them more than losers, and labels follow."""
    monkeypatch.chdir(tmp_path)
    training = ["--train-steps", "8", "--batch-size", "8", "--holdout", "0", "--learning-rate", "1e-2"]
    align = ["align", "diffusion-dpo", "--beta", "20", "--model", str(tiny_model), "--pairs", str(tiny_pairs)]
    assert main([*align, *training, "--evaluate-every", "0", "--out", "run"]) == 0
    judges = ["--judges", "self-confidence", "implicit-reward", "--judges.1.run", "run", "--device", "cpu"]
    assert main(["pairs", "score", str(tiny_pairs), *judges, "--out", "scored"]) == 0
    store = GroupStore(tmp_path / "scored")
    rewards = np.array([record.scores["implicit-reward"] for record in store.records])
    assert (rewards[:, 0] > rewards[:, 1]).mean() > 0.8
    assert np.isfinite([record.scores["self-confidence"] for record in store.records]).all()
    assert main(["pairs", "label", "scored", "--by", "implicit-reward", "--out", "labelled"]) == 0
