"""Every kind of adapters, from training to every use of what was trained, with stock diffusers or peft as witness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aligned
import pytest
import stock
import torch
from diffusers import DiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from training import Training, with_full, with_lora, with_own_network

import contrapose
from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.backbones.kinds import ADAPTER_KINDS, AdapterKind, LoKr
from contrapose.backbones.settings import Adapters
from contrapose.cli.export import Command, export
from contrapose.errors import UserError
from contrapose.guiding.merge import Merge, merge

pytestmark = pytest.mark.slow

KINDS: dict[str, AdapterKind] = {name: kind() for name, kind in ADAPTER_KINDS.items()}
KINDS["lokr-4-both"] = LoKr(4, lokr_decompose_both=True)
TARGETS = ("attn1.to_q", "attn2.to_k", "proj_in", "conv1")  # convolutions of one pixel and of nine among them
RANK, ALPHA = 2, 3.0
Trained = Callable[[str], tuple[Training, Path, Tensor]]
Loaded = Callable[[str], Backbone]
Stocked = Callable[[str], DiffusionPipeline]


def _adapters(kind: str) -> Adapters:
    return Adapters(lora_kind=KINDS[kind], lora_targets=TARGETS)


@torch.no_grad()
def _move(backbone: Training) -> None:
    """Training, by chance."""
    random = torch.Generator().manual_seed(7)
    for parameter in backbone.policies.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)


@pytest.fixture(scope="module")
def trained(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What was trained, the run that it was saved as, and what it draws."""
    made: dict[str, tuple[Training, Path, Tensor]] = {}

    def of_kind(kind: str) -> tuple[Training, Path, Tensor]:
        if kind not in made:
            torch.manual_seed(0)
            backbone = with_lora(with_own_network(loaded("sd")), RANK, ALPHA, adapters=_adapters(kind))
            _move(backbone)
            backbone.policies.denoiser("trainee")
            folder = tmp_path_factory.mktemp(kind)
            backbone.save(folder, {"base_fingerprint": backbone.fingerprint})
            made[kind] = (backbone, folder, stock.draw("sd", backbone.sampler.stock))
        return made[kind]

    return of_kind


@pytest.fixture(scope="module")
def of_the_base(stocked: Stocked) -> Tensor:
    """What is drawn without a run."""
    return stock.draw("sd", stocked("sd"))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def _asked(backbone: Backbone) -> tuple[Any, ...]:
    return stock.noise("sd", backbone.sampler.stock), torch.tensor([300, 700]), backbone.text.embed(stock.PROMPTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_begins_as_the_base_and_is_trained(kind: str, dtype: torch.dtype, tiny_model: Path) -> None:
    backbone = with_lora(
        load_backbone(tiny_model, dtype), RANK, ALPHA, frozen={"lagged": None}, adapters=_adapters(kind)
    )
    inputs = _asked(backbone)
    policies = backbone.policies

    def answer(policy: str) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return backbone.predict(policy, *inputs)

    first = answer("reference")
    assert torch.equal(answer("trainee"), first)
    assert torch.equal(answer("lagged"), first)
    assert all(parameter.dtype == torch.float32 for parameter in policies.parameters())
    for _ in range(2):  # half of an adapter is zero, and moves at the second step
        answer("trainee").float().square().mean().backward()
        assert all(parameter.grad is not None for parameter in policies.parameters())
        with torch.no_grad():
            for parameter in policies.parameters():
                parameter.sub_(parameter.grad.sign(), alpha=0.02)
                parameter.grad = None
    moved = answer("trainee")
    assert not torch.equal(moved, first)
    assert torch.equal(answer("reference"), first)
    assert torch.equal(answer("lagged"), first)
    policies.copy()
    assert torch.equal(answer("lagged"), moved)


def test_stock_libraries_load_what_is_saved(kind: str, trained: Trained, stocked: Stocked, of_the_base: Tensor) -> None:
    """diffusers LoRA, rsLoRA and DoRA; peft the others."""
    _, run, drawn = trained(kind)
    pipe = stock.with_own_denoiser(stocked("sd"))
    if kind.startswith(("lokr", "loha")):
        pipe.unet = PeftModel.from_pretrained(pipe.unet, run).get_base_model()
    else:
        pipe.load_lora_weights(run)
    assert aligned.apart(stock.draw("sd", pipe), drawn) < 1e-5
    assert aligned.apart(of_the_base, drawn) > 1e-3, "the test must see training"


@pytest.mark.parametrize("use", ["adapter", "start", "full-start", "positive", "merge", "export"])
def test_every_use_is_what_was_trained(
    use: str, kind: str, trained: Trained, loaded: Loaded, stocked: Stocked, tiny_model: Path, tmp_path: Path
) -> None:
    _, run, drawn = trained(kind)
    if use == "positive":
        with contrapose.guide(stocked("sd"), run, scale=1.0):
            assert aligned.apart(stock.draw("sd", stocked("sd")), drawn) < 1e-4
        return
    if use == "merge":
        merge(Merge(str(tiny_model), run, scale=1.0, full=True), tmp_path / "merged")
        pipe = stock.load("sd", tmp_path / "merged", **stock.rest_of(stocked("sd")))
        assert aligned.apart(stock.draw("sd", pipe), drawn) < 1e-4
        return
    if use == "export":
        export(Command(run, tmp_path / "theirs.safetensors", precision="fp32"))
        run = tmp_path / "theirs.safetensors"
    if use in ("adapter", "export"):
        backbone = load_backbone(tiny_model, adapter=run)
    else:
        backbone = with_own_network(loaded("sd"))
    if use == "start":
        backbone = with_lora(backbone, None, None, start=run)
        assert type(backbone.policies.config) is type(KINDS[kind].config(RANK, ALPHA, {}))
        assert getattr(backbone.policies.config, "lora_alpha", ALPHA) == ALPHA
        backbone.policies.denoiser("reference")
    if use == "full-start":
        backbone = with_full(backbone, torch.float32, start=run)
    assert aligned.apart(stock.draw("sd", backbone.sampler.stock), drawn) < 1e-4


def test_what_is_saved_comes_back_to_the_bit(kind: str, trained: Trained, loaded: Loaded, tmp_path: Path) -> None:
    _, run, _ = trained(kind)
    again = with_lora(with_own_network(loaded("sd")), None, None, start=run)
    again.save(tmp_path, {"base_fingerprint": again.fingerprint})
    for path in run.iterdir():
        if path.suffix == ".safetensors":
            first, second = load_file(path), load_file(tmp_path / path.name)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first)
    state = again.trainable.saved(tmp_path)["trainee"]
    _move(again)
    again.policies.load_state(state)
    assert all(torch.equal(value, again.policies.state()[name]) for name, value in state.items())


def test_a_start_keeps_its_kind(trained: Trained, loaded: Loaded) -> None:
    _, run, _ = trained("dora")
    with pytest.raises(UserError, match=r"lora_kind loha: .* is dora, which is kept; leave the setting out"):
        with_lora(with_own_network(loaded("sd")), None, None, start=run, adapters=Adapters(lora_kind=KINDS["loha"]))


@torch.no_grad()
def test_a_network_without_values_takes_several(trained: Trained, tiny_model: Path) -> None:
    """As in an estimate, and where shards come from another process: DoRA would look at the weights."""
    denoiser = load_backbone(tiny_model, without_values=("denoiser",)).denoiser
    run = trained("dora")[1]
    frozen = {"same": run, "other": trained("lokr")[1]}
    networks = denoiser.lora(None, None, start=run, frozen=frozen, placed=False).policies.networks()
    assert len(networks) == 2, "of another kind than the trainee's is a network of its own"
    assert all(weight.is_meta for network in networks for weight in network.parameters())


@torch.no_grad()
@pytest.mark.parametrize("start", ["lora", "loha"])
def test_policies_of_every_kind_beside_each_other(start: str, trained: Trained, loaded: Loaded, tmp_path: Path) -> None:
    """Each predicts as its run, and what is saved has the names of its own kind."""
    kinds = ["rslora", "dora", "lokr", "loha"]
    runs = {kind: trained(kind)[1] for kind in kinds}
    backbone = with_lora(with_own_network(loaded("sd")), None, None, start=trained(start)[1], frozen=runs)
    inputs = _asked(backbone)
    for kind in kinds:
        alone = trained(kind)[0]
        assert aligned.apart(backbone.predict(kind, *inputs), alone.predict("trainee", *inputs)) < 1e-5, kind
    backbone.save(tmp_path)
    [saved] = tmp_path.glob("*.safetensors")
    assert load_file(saved).keys() == load_file(trained(start)[1] / saved.name).keys()


@pytest.mark.parametrize("kind", ["dora", "lokr", "loha"])
def test_merges_of_other_kinds(kind: str, trained: Trained, stocked: Stocked, tiny_model: Path, tmp_path: Path) -> None:
    """As adapters they are the nearest LoRA; at a rank that is large enough, the very change."""
    _, run, drawn = trained(kind)
    with pytest.raises(UserError, match=f"another kind than LoRA \\({kind}\\).*--rank.*--full"):
        merge(Merge(str(tiny_model), run, scale=1.0), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    merged = merge(Merge(str(tiny_model), run, scale=1.0, rank=32), tmp_path / "merged")
    assert merged.rank == 32
    assert merged.kept > 0.9
    pipe = stock.with_own_denoiser(stocked("sd"))
    pipe.load_lora_weights(tmp_path / "merged")
    assert aligned.apart(stock.draw("sd", pipe), drawn) < 0.2


def test_by_row_with_another(trained: Trained, stocked: Stocked) -> None:
    """A DoRA and a LoHa in one forward, each on its own rows, as by a call for each."""
    runs = (trained("dora")[1], trained("loha")[1])
    images = []
    for batched in (True, False):
        pipe = stock.with_own_denoiser(stocked("sd"))
        with contrapose.guide(pipe, *runs, scale=2.0, batched=batched):
            images.append(stock.draw("sd", pipe))
    assert aligned.apart(*images) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dora", "lokr", "lokr-4-both", "loha"])
def test_other_tools_find_their_names(kind: str, trained: Trained, stocked: Stocked, tmp_path: Path) -> None:
    """What LyCORIS's readers do with a layer, written out."""
    backbone, run, _ = trained(kind)
    export(Command(run, tmp_path / "theirs.safetensors", precision="fp32"))
    tensors = load_file(tmp_path / "theirs.safetensors")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    stem = "lora_unet_" + layer.replace(".", "_")
    own = {name.removeprefix(f"{stem}."): value for name, value in tensors.items() if name.startswith(f"{stem}.")}
    weight = stocked("sd").unet.get_submodule(layer).weight
    scale = float(own["alpha"]) / RANK
    if kind == "dora":
        direction = weight + scale * own["lora_up.weight"] @ own["lora_down.weight"]
        made = own["dora_scale"] * direction / direction.norm(dim=1, keepdim=True)
    elif kind == "loha":
        made = weight + scale * (own["hada_w1_a"] @ own["hada_w1_b"]) * (own["hada_w2_a"] @ own["hada_w2_b"])
    else:
        first = own["lokr_w1"] if "lokr_w1" in own else own["lokr_w1_a"] @ own["lokr_w1_b"]
        second = own["lokr_w2"] if "lokr_w2" in own else own["lokr_w2_a"] @ own["lokr_w2_b"]
        is_whole = not any(name.endswith("_b") for name in own)
        made = weight + (1.0 if is_whole else scale) * torch.kron(first, second)
    tuner = backbone.policies.modules()[0].get_submodule(layer)
    inputs = torch.eye(weight.shape[1])
    backbone.policies.denoiser("trainee")
    assert torch.allclose(inputs @ made.T, tuner(inputs), atol=1e-4)
    assert not torch.allclose(made, weight, atol=1e-3)
