"""Adapters on text encoders in training: each policy reads with its own, and stock diffusers loads what is saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import aligned
import pytest
import stock
import torch
from safetensors import safe_open
from torch import Tensor
from training import Training, with_lora

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.kinds import ADAPTER_KINDS
from contrapose.backbones.settings import Adapters
from contrapose.backbones.trained_text import NumberedPrompts
from contrapose.cli.export import Command, export
from contrapose.core.group import Condition, join
from contrapose.errors import UserError
from contrapose.guiding.merge import Merge, merge

pytestmark = pytest.mark.slow


def _training(backbone: Backbone, prompts: NumberedPrompts, kind: str = "lora") -> Training:
    torch.manual_seed(0)
    adapters = Adapters(train_text_encoder=True, lora_kind=ADAPTER_KINDS[kind]())
    return with_lora(copy.deepcopy(backbone), 2, 4.0, frozen={"lagged": None}, adapters=adapters, prompts=prompts)


def _inputs(name: str, backbone: Backbone) -> tuple[Tensor, Tensor]:
    x_t = stock.noise(name, backbone.sampler.stock, 3)
    return x_t, torch.tensor([0.3, 0.7, 0.5]) if backbone.denoiser.space == "velocity" else torch.tensor([300, 700, 9])


def _step(training: Training, answer: Callable[[str], Tensor]) -> None:
    answer("trainee").square().mean().backward()
    reached = [parameter for parameter in training.policies.parameters() if parameter.grad is not None]
    # nothing reads the last layer of SDXL's encoders
    assert len(reached) > 0.7 * len(training.policies.parameters())
    with torch.no_grad():
        for parameter in reached:
            parameter.sub_(parameter.grad.sign(), alpha=0.05)
            parameter.grad = None


@pytest.mark.parametrize(("name", "kind"), [("sd", "lora"), ("sdxl", "rslora"), ("flux", "lora")])
def test_every_policy_reads_with_its_own(
    name: str, kind: str, loaded: Callable[[str], Backbone], folder: Path, tmp_path: Path
) -> None:
    plain, prompts = loaded(name), NumberedPrompts()
    training = _training(plain, prompts, kind)
    x_t, t = _inputs(name, plain)
    numbered = prompts([stock.PROMPTS[0], None, stock.PROMPTS[1]])
    embedded: list[Condition] = [plain.text.embed([prompt]) for prompt in stock.PROMPTS]
    embedded.insert(1, plain.text.unconditional())

    def answer(policy: str) -> Tensor:
        return training.predict(policy, x_t, t, numbered)

    first = answer("reference")
    with torch.no_grad():
        assert torch.allclose(first, training.predict("reference", x_t, t, join(embedded)), atol=1e-5)
    assert torch.equal(answer("trainee"), first)
    assert answer("trainee").requires_grad
    assert not answer("lagged").requires_grad
    assert not first.requires_grad
    for _ in range(2):  # half of an adapter is zero, and moves at the second step
        _step(training, answer)
    parts = training.policies.parts
    assert all(any(bool(p.any()) for n, p in of.state().items() if "lora_B" in n) for of in parts.values())
    moved = answer("trainee")
    assert not torch.allclose(moved, first, atol=1e-3)
    assert torch.equal(answer("reference"), first)
    assert torch.equal(answer("lagged"), first)
    training.policies.copy()
    assert torch.equal(answer("lagged"), moved)
    # what is saved is loaded by the stock pipeline, encoders and all
    answer("trainee")
    drawn = stock.draw(name, training.sampler.stock)
    training.save(tmp_path / "run")
    with safe_open(tmp_path / "run" / "pytorch_lora_weights.safetensors", "pt") as file:
        assert {key.partition(".")[0] for key in file.keys()} == parts.keys()  # noqa: SIM118
    assert len(parts) == {"sd": 2, "sdxl": 3, "flux": 2}[name]
    assert aligned.apart(stock.draw(name, stock.load_run(name, folder, tmp_path / "run")), drawn) < 1e-5
    again = load_backbone(folder, adapter=tmp_path / "run")
    assert aligned.apart(stock.draw(name, again.sampler.stock), drawn) < 1e-5
    state = training.trainable.saved(tmp_path / "run")["trainee"]
    _step(training, answer)
    training.policies.load_state(state)
    assert torch.equal(answer("trainee"), moved)


ALSO_TEXT = Adapters(train_text_encoder=True)


def _moved(backbone: Backbone, prompts: NumberedPrompts, run: Path) -> Training:
    """A training whose adapters are some way off, saved."""
    training = _training(backbone, prompts)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in training.policies.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    training.save(run)
    return training


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_training_goes_on_from_such_a_run(
    name: str, loaded: Callable[[str], Backbone], folder: Path, tmp_path: Path
) -> None:
    """All that is trained begins at the run's adapters, and the reference stays there, as it reads prompts too."""
    prompts = NumberedPrompts()
    first = _moved(loaded(name), prompts, tmp_path / "run")
    x_t, t = _inputs(name, first)
    numbered = prompts([stock.PROMPTS[0], None, stock.PROMPTS[1]])
    expected = first.predict("trainee", x_t, t, numbered)
    start = {"start": tmp_path / "run", "adapters": ALSO_TEXT}
    second = with_lora(load_backbone(folder), None, None, frozen={"lagged": None}, prompts=prompts, **start)

    def answer(policy: str) -> Tensor:
        return second.predict(policy, x_t, t, numbered)

    for policy in ("reference", "trainee", "lagged"):
        assert torch.equal(answer(policy), expected)
    _step(second, answer)
    assert not torch.allclose(answer("trainee"), expected, atol=1e-3)
    assert torch.equal(answer("reference"), expected)
    with pytest.raises(UserError, match=r"has adapters of the text_encoder.* too, .*--train-text-encoder take"):
        with_lora(load_backbone(folder), None, None, start=tmp_path / "run")


@pytest.mark.parametrize("name", ["sd"])
def test_encoders_may_begin_where_a_run_had_none(name: str, folder: Path, tmp_path: Path) -> None:
    prompts = NumberedPrompts()
    torch.manual_seed(0)
    first = with_lora(load_backbone(folder), 2, 4.0)
    with torch.no_grad():
        for parameter in first.policies.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    first.save(tmp_path / "run")
    x_t, t = _inputs(name, first)
    texts = [stock.PROMPTS[0], stock.PROMPTS[1], stock.PROMPTS[0]]
    expected = first.predict("trainee", x_t, t, first.text.embed(texts))
    second = with_lora(load_backbone(folder), None, None, start=tmp_path / "run", adapters=ALSO_TEXT, prompts=prompts)
    assert set(second.policies.parts) == {"unet", "text_encoder"}
    for policy in ("reference", "trainee"):
        assert aligned.apart(second.predict(policy, x_t, t, prompts(texts)), expected) < 1e-5


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_such_runs_are_merged(name: str, loaded: Callable[[str], Backbone], folder: Path, tmp_path: Path) -> None:
    """A positive run with one that adapts the denoiser alone: w (s_p B_p A_p - s_n B_n A_n) on every part."""
    prompts = NumberedPrompts()
    _moved(loaded(name), prompts, tmp_path / "text")
    torch.manual_seed(2)
    plain = with_lora(load_backbone(folder), 2, 4.0)
    with torch.no_grad():
        for parameter in plain.policies.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    plain.save(tmp_path / "plain")
    for out, whole in (("adapters", False), ("whole", True)):
        merged = merge(Merge(str(folder), tmp_path / "text", tmp_path / "plain", 0.7, full=whole), tmp_path / out)
        assert merged.full == whole and merged.rank == (None if whole else 4)
    positive = load_backbone(folder, adapter=tmp_path / "text")
    on_base = load_backbone(folder, adapter=tmp_path / "adapters")
    in_full = load_backbone(tmp_path / "whole")
    base = load_backbone(folder)
    assert aligned.apart(stock.draw(name, on_base.sampler.stock), stock.draw(name, in_full.sampler.stock)) < 1e-4
    stocks = stock.load_run(name, folder, tmp_path / "adapters")
    assert aligned.apart(stock.draw(name, stocks), stock.draw(name, on_base.sampler.stock)) < 1e-5

    # every weight of an encoder is w of the way from the base's to the positive run's
    for part, encoder in base.pipeline.encoders.items():
        layer = next(n for n, _ in encoder.named_modules() if n.endswith("layers.0.self_attn.q_proj"))
        begun = encoder.get_submodule(layer).weight
        adapted = positive.pipeline.encoders[part].get_submodule(layer)
        change = adapted.get_delta_weight("default_0")
        assert bool(change.any())
        assert torch.allclose(
            in_full.pipeline.encoders[part].get_submodule(layer).weight, begun + 0.7 * change, atol=1e-6
        )
    cut = merge(Merge(str(folder), tmp_path / "text", rank=1), tmp_path / "cut")
    assert cut.rank == 1 and 0 < cut.kept < 1


@pytest.mark.parametrize("name", ["sdxl"])
def test_other_tools_read_the_encoders_too(
    name: str, loaded: Callable[[str], Backbone], folder: Path, tmp_path: Path
) -> None:
    prompts = NumberedPrompts()
    training = _training(loaded(name), prompts)
    with torch.no_grad():
        for parameter in training.policies.parameters():
            parameter.add_(0.1)
    training.save(tmp_path / "run")
    export(Command(tmp_path / "run", tmp_path / "theirs.safetensors", precision="fp32"))
    pipe = stock.load(name, folder)
    pipe.load_lora_weights(tmp_path / "theirs.safetensors")
    training.predict("trainee", *_inputs(name, training), prompts([*stock.PROMPTS, None]))
    assert aligned.apart(stock.draw(name, pipe), stock.draw(name, training.sampler.stock)) < 1e-4


def test_one_encoding_for_winner_and_loser(loaded: Callable[[str], Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = NumberedPrompts()
    training = _training(loaded("sd"), prompts)
    x_t, t = _inputs("sd", training)
    read: list[int] = []
    encoder = training.sampler.stock.text_encoder
    encoder.register_forward_hook(lambda module, inputs, output: read.append(len(output[0])))
    training.predict("trainee", x_t, t, prompts([stock.PROMPTS[1], stock.PROMPTS[0], stock.PROMPTS[1]]))
    assert read == [2]


def test_where_stock_diffusers_has_none(loaded: Callable[[str], Backbone]) -> None:
    with pytest.raises(UserError, match="train_text_encoder: stock diffusers puts no adapters on the text encoders"):
        _training(loaded("sana"), NumberedPrompts())


@pytest.mark.parametrize("kind", ["dora", "lokr", "loha"])
def test_kinds_that_stock_libraries_load_none_of(kind: str) -> None:
    with pytest.raises(UserError, match=f"train_text_encoder: stock libraries load no {kind} on text encoders"):
        Adapters(train_text_encoder=True, lora_kind=ADAPTER_KINDS[kind]())
