"""Policies that begin at earlier runs, and frozen ones beside them, over every family x {LoRA, full}.

What a run predicts is witnessed by stock diffusers, which loads it on the original base.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import aligned
import families
import pytest
import stock
import torch
from diffusers import DiffusionPipeline
from meanings import Meaning
from safetensors import safe_open
from torch import Tensor
from training import with_full, with_lora, with_own_network

from contrapose.backbones.base import Backbone
from contrapose.backbones.families.table import load_backbone
from contrapose.errors import UserError
from contrapose.guiding.merge import Merge, merge
from contrapose.runs.training_state import Weights, load_training, save_training

pytestmark = pytest.mark.slow

BEGINNINGS = [("lora", None), ("lora", "lora"), ("full", None), ("full", "lora"), ("full", "full")]
Runs = Callable[[str, str, int], Path]
Witness = Callable[[str, Path | None], list[Meaning]]


@pytest.fixture(scope="session")
def run_of(loaded: Callable[[str], Backbone], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run of this family and kind, by its number, as `align` would leave it."""

    @lru_cache
    def written(name: str, kind: str, number: int) -> Path:
        folder = tmp_path_factory.mktemp(f"{name}-{kind}")
        if kind == "lora":
            return aligned.write_run(loaded(name), kind, number, folder)
        backbone = with_full(with_own_network(loaded(name)), torch.float32, needs_reference=False)
        _move(backbone, seed=number)
        backbone.save(folder)
        return folder

    return written


@pytest.fixture(scope="session")
def witness(tiny_family: Callable[[str], Path], stocked: Callable[[str], DiffusionPipeline]) -> Witness:
    """x_t, t, condition and the stock pipeline's answers with a run's weights, or without any."""

    @lru_cache
    def recorded(name: str, run: Path | None) -> list[Meaning]:
        folder = tiny_family(name)
        rest = stock.rest_of(stocked(name))
        pipe = stock.load(name, folder, **rest) if run is None else stock.load_run(name, folder, run, **rest)
        with stock.recorded(stock.denoiser_of(pipe)) as calls:
            stock.draw(name, pipe)
        return [families.of(name).meaning(call) for call in calls[-1:]]

    return recorded


@pytest.fixture(params=["lora", "full"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def train(plain: Backbone) -> Callable[..., Backbone]:
    """A backbone for this test, ready to be trained."""

    def ready(kind: str, **options: Any) -> Backbone:
        torch.manual_seed(0)
        fresh = with_own_network(plain)
        if kind == "full":
            return with_full(fresh, torch.float32, **options)
        given = (None, None) if options.get("start") else (aligned.RANK, aligned.ALPHA)
        return with_lora(fresh, *given, **options)

    return ready


@torch.no_grad()
def _move(backbone: Backbone, seed: int = 7) -> None:
    """Training, by chance."""
    random = torch.Generator().manual_seed(seed)
    for parameter in backbone.policies.parameters():
        spread = parameter.abs().mean()
        parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.05 * float(spread or 1.0))


def _alike(name: str, first: Tensor, second: Tensor) -> bool:
    """Whether two answers are of the same weights.

    To the bit, but for Sana, whose cross attention reads a transposed tensor: torch multiplies it by weights that
    require a gradient in another way than by others, and some CPUs round the two otherwise.
    """
    return torch.equal(first, second) if name != "sana" else torch.allclose(first, second, rtol=0, atol=1e-6)


@torch.no_grad()
def _answers(backbone: Backbone, policy: str, calls: list[Meaning]) -> Tensor:
    return torch.stack([backbone.predict(policy, *call[:3]) for call in calls])


def _apart(answers: Tensor, calls: list[Meaning]) -> float:
    return aligned.apart(answers, torch.stack([call[3] for call in calls]))


@pytest.mark.parametrize("name", families.DISTINCT)
@pytest.mark.parametrize(("kind", "begin"), BEGINNINGS, ids=str)
def test_trainee_and_reference_begin_at_the_start(
    name: str, kind: str, begin: str | None, train: Any, run_of: Runs, witness: Witness, tmp_path: Path
) -> None:
    """And what is saved after a step is one run on the original base, which stock diffusers loads."""
    start = run_of(name, begin, 0) if begin else None
    backbone, calls = train(kind, start=start), witness(name, start)
    trainee, reference = (_answers(backbone, policy, calls) for policy in ("trainee", "reference"))
    assert _alike(name, trainee, reference)
    assert _apart(trainee, calls) < 1e-5
    assert not begin or _apart(_answers(backbone, "reference", witness(name, None)), witness(name, None)) > 1e-3
    x_t, t, condition, _ = calls[0]
    assert not backbone.predict("reference", x_t, t, condition).requires_grad
    for _ in range(2):  # half of fresh adapters is zero, and moves at the second step
        backbone.predict("trainee", x_t, t, condition).square().mean().backward()
        with torch.no_grad():
            for parameter in backbone.policies.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=0.02)
                parameter.grad = None
    assert _alike(name, _answers(backbone, "reference", calls), reference)
    moved = _answers(backbone, "trainee", calls)
    assert aligned.apart(moved, trainee) > 1e-3
    backbone.save(tmp_path)
    saved = witness(name, tmp_path)
    assert _apart(_answers(backbone, "trainee", saved), saved) < 1e-5
    if kind == "lora":
        assert _header(tmp_path) == _header(start or run_of(name, "lora", 0))


def _header(run: Path) -> dict[str, Any]:
    """Rank, alpha and layers of a run's adapters."""
    if (run / "adapter_config.json").exists():
        told = json.loads((run / "adapter_config.json").read_text())
    else:
        with safe_open(run / "pytorch_lora_weights.safetensors", "pt") as file:
            settings = json.loads(file.metadata()["lora_adapter_metadata"])
        told = {key.partition(".")[2]: value for key, value in settings.items()}
    return {"r": told["r"], "alpha": told["lora_alpha"], "layers": sorted(told["target_modules"])}


@pytest.mark.parametrize("name", families.DISTINCT)
@pytest.mark.parametrize(("kind", "begin"), [("lora", "lora"), ("full", "lora"), ("full", "full")])
def test_they_begin_alike_in_bf16(
    name: str, kind: str, begin: str, halved: Callable[[str, bool], Backbone], run_of: Runs, witness: Any
) -> None:
    """In the layout of a run, a copy as well: adapters on a bf16 base, or float32 weights beside bf16 ones."""
    full, options = kind == "full", {"start": run_of(name, begin, 0), "frozen": {"lagged": None}}
    backbone = with_own_network(halved(name, full))
    made = with_full(backbone, torch.bfloat16, **options) if full else with_lora(backbone, None, None, **options)
    calls = witness(name, options["start"])
    first, *others = _half_answers(made, ("trainee", "reference", "lagged"), calls)
    assert all(torch.equal(first, other) for other in others)
    assert 0 < _apart(first.float(), calls) < 0.1
    _move(made)
    made.policies.copy()
    moved, lagged = _half_answers(made, ("trainee", "lagged"), calls)
    assert torch.equal(moved, lagged)
    assert not torch.equal(moved, first)


def _half_answers(backbone: Backbone, policies: tuple[str, ...], calls: list[Meaning]) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        return [_answers(backbone, policy, calls) for policy in policies]


@pytest.mark.parametrize("name", families.DISTINCT)
def test_frozen_policies_predict_as_their_runs(
    name: str, kind: str, train: Any, run_of: Runs, witness: Witness
) -> None:
    """Whatever the trainee began as, and does; without gradients, and without standing in the way of the trainee's."""
    start, winner, loser = (run_of(name, *which) for which in (("lora", 0), ("lora", 1), ("full", 0)))
    backbone = train(kind, start=start, frozen={"winner": winner, "loser": loser, "lagged": None})
    policies = backbone.policies
    runs = {"winner": winner, "loser": loser, "lagged": start, "reference": start}
    first = {policy: _answers(backbone, policy, witness(name, run)) for policy, run in runs.items()}
    for policy, run in runs.items():
        assert _apart(first[policy], witness(name, run)) < 1e-5, policy
    x_t, t, condition, _ = witness(name, start)[0]
    answer = backbone.predict("trainee", x_t, t, condition)
    assert not any(backbone.predict(policy, x_t, t, condition).requires_grad for policy in runs)
    assert torch.equal(backbone.predict("trainee", x_t, t, condition), answer)
    backbone.predict("winner", x_t, t, condition)
    answer.square().mean().backward()
    reached = [p.grad is not None for p in policies.parameters()]
    assert sum(reached) >= 0.9 * len(reached)
    frozen = [p for policy in runs for p in policies.frozen_parameters(policy)]
    assert not {id(p) for p in frozen} & {id(p) for p in policies.parameters()}
    assert not any(p.requires_grad or p.grad is not None for p in frozen)
    _move(backbone)
    for policy, run in runs.items():
        assert torch.equal(_answers(backbone, policy, witness(name, run)), first[policy]), policy


@pytest.mark.parametrize("name", families.DISTINCT)
def test_a_copy_is_the_trainee_until_the_next(name: str, kind: str, train: Any, witness: Any, tmp_path: Path) -> None:
    backbone, calls = train(kind, frozen={"lagged": None}), witness(name, None)
    policies = backbone.policies
    places = [p.data_ptr() for p in policies.frozen_parameters("lagged")]
    _move(backbone)
    trainee = _answers(backbone, "trainee", calls)
    assert aligned.apart(_answers(backbone, "lagged", calls), trainee) > 1e-4
    policies.copy(source="trainee", to="lagged")
    assert _alike(name, _answers(backbone, "lagged", calls), trainee)
    assert [p.data_ptr() for p in policies.frozen_parameters("lagged")] == places
    state = {key: value.clone() for key, value in policies.state("lagged").items()}
    save_training(tmp_path / "step.safetensors", 3, lagged=Weights(policies.frozen_parameters("lagged")))
    _move(backbone, seed=8)
    assert _alike(name, _answers(backbone, "lagged", calls), trainee)
    for bring_back in (
        lambda: policies.load_state(state, "lagged"),
        lambda: load_training(tmp_path / "step.safetensors", lagged=Weights(policies.frozen_parameters("lagged"))),
    ):
        policies.copy()
        assert not _alike(name, _answers(backbone, "lagged", calls), trainee)
        bring_back()
        assert _alike(name, _answers(backbone, "lagged", calls), trainee)


@pytest.mark.parametrize("name", ["sd"])
def test_a_policy_may_keep_a_share_of_its_own_weights(name: str, kind: str, train: Any) -> None:
    backbone = train(kind, frozen={"lagged": None})
    policies = backbone.policies
    _move(backbone)
    before = [p.detach().clone() for p in policies.frozen_parameters("lagged")]
    policies.copy("trainee", "lagged", 0.75)
    for old, new, trainee in zip(before, policies.frozen_parameters("lagged"), policies.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * trainee, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sd", "pixart", "flux"])
def test_adapters_of_another_rank_on_other_layers(
    name: str, kind: str, plain: Backbone, train: Any, run_of: Runs, witness: Witness, tmp_path: Path
) -> None:
    """As a start and beside adapters of the usual ones: each keeps its own."""
    other = with_own_network(plain)
    other.pipeline.family = replace(other.family, lora_targets=("to_q", "to_v"))
    other = with_lora(other, 2, 6.0)
    _move(other)
    other.save(tmp_path)
    usual = run_of(name, "lora", 1)
    for start, winner in ((tmp_path, usual), (usual, tmp_path), (None, tmp_path)):
        backbone = train(kind, start=start, frozen={"winner": winner})
        for policy, run in (("winner", winner), ("trainee", start), ("reference", start)):
            assert _apart(_answers(backbone, policy, witness(name, run)), witness(name, run)) < 1e-5


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_a_merge_is_a_run_like_others(
    name: str, kind: str, folder: Path, train: Any, run_of: Runs, witness: Witness, tmp_path: Path
) -> None:
    """Its layers are named one by one."""
    merge(Merge(str(folder), run_of(name, "lora", 0), run_of(name, "lora", 1), scale=0.5), tmp_path)
    calls = witness(name, tmp_path)
    for options in ({"start": tmp_path}, {"start": run_of(name, "lora", 1), "frozen": {"winner": tmp_path}}):
        backbone = train(kind, **options)
        policy = "winner" if "frozen" in options else "trainee"
        assert _apart(_answers(backbone, policy, calls), calls) < 1e-5


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_all_that_is_trained_begins_at_the_start(name: str, kind: str, train: Any, run_of: Runs, witness: Any) -> None:
    start = run_of(name, "lora", 0)
    backbone, calls = train(kind, start=start, trained=("positive", "negative")), witness(name, start)
    first = _answers(backbone, "positive", calls)
    assert _apart(first, calls) < 1e-5
    assert torch.equal(first, _answers(backbone, "negative", calls))
    assert torch.equal(first, _answers(backbone, "reference", calls))


@pytest.mark.parametrize("name", ["sd"])
@pytest.mark.parametrize("setting", [{"rank": 8, "alpha": None}, {"rank": None, "alpha": 4.0}], ids=["rank", "alpha"])
def test_rank_and_alpha_are_the_starts(name: str, setting: dict[str, Any], plain: Backbone, run_of: Runs) -> None:
    start = run_of(name, "lora", 0)
    with_lora(with_own_network(plain), aligned.RANK, aligned.ALPHA, start=start)
    told = _refused(lambda: with_lora(with_own_network(plain), **setting, start=start))
    assert re.fullmatch(r"lora_(rank 8: .* has 4|alpha 4: .* has 10), which is kept; leave the setting out", told)


@pytest.mark.parametrize("name", ["sd", "pixart"])
def test_adapters_do_not_start_from_a_run_in_full(name: str, train: Any, run_of: Runs) -> None:
    start = run_of(name, "full", 0)
    assert f"--model {start / 'model'} " in _refused(lambda: train("lora", start=start))


@pytest.mark.parametrize("name", ["sd", "pixart"])
@pytest.mark.parametrize("place", ["start", "frozen"])
def test_runs_that_are_no_good(
    name: str, place: str, kind: str, plain: Backbone, train: Any, tiny_family: Any, tmp_path: Path
) -> None:
    def told(run: Path) -> str:
        given = {"start": run} if place == "start" else {"frozen": {"winner": run}}
        line = _refused(lambda: train(kind, **given))
        assert line.startswith(str(run))
        return line

    assert ": no such run; name a folder" in told(tmp_path / "none")
    assert told(tmp_path).endswith("has the run finished?")
    with_lora(with_own_network(plain), 2, 2.0).save(tmp_path / "noted", {"base_fingerprint": "0123"})
    assert "was trained on another model (0123)" in told(tmp_path / "noted")
    with_lora(load_backbone(tiny_family({"sd": "sdxl", "pixart": "sd3"}[name])), 2, 2.0).save(tmp_path / "stranger")
    assert told(tmp_path / "stranger").endswith("was it trained on another one?")
    aligned.write_run(plain, "lora", 0, tmp_path / "cut")
    [path] = (tmp_path / "cut").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "broken" in told(tmp_path / "cut")


def _refused(make: Callable[[], Backbone]) -> str:
    with pytest.raises(UserError) as caught:
        make()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)
