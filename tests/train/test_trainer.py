"""The trainer on a network of a few numbers: split pairs, mixed precision, latents of several sizes, processes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from contrapose.backbones.loading import DTYPES
from contrapose.core.group import Group, Sample
from contrapose.core.guards import SDPO
from contrapose.core.measured import Measured
from contrapose.core.moving import Average, Every
from contrapose.core.path import DiffusionPath
from contrapose.core.running import Running, RunningNumbers
from contrapose.errors import UserError
from contrapose.methods import (
    AWM,
    CHATS,
    CRD,
    DDSPO,
    DGPO,
    DMPO,
    DSPO,
    NFT,
    SFT,
    TDPO,
    CaPO,
    DataDrivenDDSPO,
    DiffusionDPO,
    DiffusionLPO,
    InPO,
    MaPO,
    Method,
    RankDPO,
    SmPO,
)
from contrapose.methods import METHODS as ALL_METHODS
from contrapose.methods.judged_groups import JudgedGroups, OldPolicy
from contrapose.methods.own_samples import OwnSamples
from contrapose.runs.training_state import Weights, load_training, save_training
from contrapose.train.align import _parts
from contrapose.train.diagnostics import LEVELS
from contrapose.train.loop import Trainer, learning_rate
from contrapose.train.settings import Optimisation, Run

RUN = Run("a model", Path("pairs"), DDSPO(beta=200.0), optimisation=Optimisation(batch_size=6, micro_batch=3))

pytestmark = pytest.mark.usefixtures("one_precision_a_process")


class Backbone:
    """Convolutions that have moved a little off their reference, all policies but this one."""

    space = "eps"

    def __init__(self, trained: Sequence[str] = ("trainee",), frozen: Sequence[str] = ()) -> None:
        torch.manual_seed(0)
        self.nets = {"reference": nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)}
        for policy in (*trained, *frozen):
            self.nets[policy] = copy.deepcopy(self.nets["reference"]).requires_grad_(policy in trained)
            self.nets[policy].weight.data += 0.05 * torch.randn_like(self.nets[policy].weight)
        networks = [self.nets[policy] for policy in trained]
        parameters = [parameter for network in networks for parameter in network.parameters()]
        self.policies = SimpleNamespace(parameters=lambda: parameters, modules=lambda: networks)
        self.calls: list[tuple[str, int]] = []
        self.kinds: set[torch.dtype] = set()

    def predict(self, policy: str, x_t: Tensor, t: Tensor, condition: dict[str, Tensor]) -> Tensor:
        self.calls.append((policy, len(x_t)))
        answer = self.nets[policy](x_t + condition["text"][:, :, None, None])
        self.kinds.add(answer.dtype)
        return answer


class Groups:
    """Every third position is of another size."""

    path = DiffusionPath(torch.linspace(0.999, 0.01, 1000))
    replay = None
    drawn = None

    def micro_batches(self, positions: Sequence[int], size: int) -> list[list[int]]:
        kinds = [[p for p in positions if p % 3], [p for p in positions if p % 3 == 0]]
        return [kind[i : i + size] for kind in kinds for i in range(0, len(kind), size)]

    def held_out_batches(self, size: int) -> list[list[int]]:
        return self.micro_batches(range(100, 105), size)

    def training_batch(self, positions: Sequence[int], device: torch.device) -> Group:
        drawn = [self._draw(position) for position in positions]
        latents, noise, text = (torch.stack(values) for values in zip(*drawn, strict=True))
        prompts = {slot: {"text": text[:, place]} for place, slot in enumerate(("prompt", "degraded", "dropped"))}
        samples = {
            name: Sample(latents[:, place], noise, torch.full((len(drawn),), label))
            for place, (name, label) in enumerate({"winner": 1.0, "rank 2": 0.5, "loser": 0.0}.items())
        }
        samples |= {"rank 1": samples["winner"], "rank 3": samples["loser"]}
        return Group(samples, prompts, torch.tensor(positions) * 150 % 1000)

    def held_out_batch(self, level: float, device: torch.device, owns: Sequence[int]) -> Group:
        return replace(self.training_batch(owns, device), t=self.path.at_level(level, len(owns)))

    def _draw(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        random = torch.Generator().manual_seed(position)
        size = (4, 8, 8) if position % 3 else (4, 4, 12)
        shapes = ((3, *size), size, (3, 4))
        return tuple(torch.randn(shape, generator=random) for shape in shapes)  # type: ignore[return-value]


def a_trainer(run: Run, **of_accelerator: Any) -> Trainer:
    mixed = "no" if run.precision == "fp32" else run.precision
    accelerator = Accelerator(cpu=True, mixed_precision=mixed)
    objective = run.method.objective()
    frozen = [policy for policy in objective.frozen if policy != "reference"]
    trainer = Trainer(run, Backbone(objective.trained, frozen), Groups(), accelerator)  # type: ignore[arg-type]
    if of_accelerator:  # one of several processes, whose sums are left to the test
        wrapped = {"backward": accelerator.backward, "device": accelerator.device, "autocast": accelerator.autocast}
        wrapped["reduce"] = lambda own, _: own
        trainer.accelerator = SimpleNamespace(**wrapped, **of_accelerator)  # type: ignore[assignment]
    return trainer


def gradients(trainer: Trainer) -> tuple[Tensor, dict[str, float]]:
    metrics = trainer._accumulate(trainer.prepared([1]))
    return torch.cat([p.grad.flatten() for p in trainer.parameters]), {n: v.item() for n, v in metrics.items()}


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_split_pairs_give_the_same_gradient(precision: Any, tolerance: float) -> None:
    """In mixed precision too, though parts are predicted long after the objective has returned."""
    run = replace(RUN, precision=precision)
    whole, metrics = gradients(a_trainer(run))
    trainer = a_trainer(replace(run, split_pairs=True))
    split, same_metrics = gradients(trainer)
    assert trainer.trainable.kinds == {DTYPES[precision]}  # type: ignore[attr-defined]
    assert whole.norm() > 1e-2
    assert (split - whole).norm() <= tolerance * whole.norm()
    assert same_metrics == pytest.approx(metrics, rel=1e-2)


def test_split_pairs_forward_the_trainee_once_more() -> None:
    trainer = a_trainer(replace(RUN, split_pairs=True))
    trainer._accumulate(trainer.prepared([0]))
    calls: Any = trainer.trainable.calls  # type: ignore[attr-defined]
    assert calls[:4] == [("reference", 9), ("trainee", 6), ("trainee", 3), ("trainee", 3)]


@pytest.mark.parametrize("size", [1, 2, 6])
def test_latents_of_several_sizes_make_one_batch(size: int) -> None:
    whole, metrics = gradients(a_trainer(RUN))
    trainer = a_trainer(replace(RUN, optimisation=replace(RUN.optimisation, micro_batch=size)))
    ours, our_metrics = gradients(trainer)
    torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-6)
    assert our_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)


STORED = JudgedGroups(OwnSamples(3), stored=True)
# by strengths that show on this network; losses that are no functions of a margin alone, too
STRONG: list[Method] = [
    DSPO(beta=2.0),
    DSPO(beta=200.0, form="squared"),
    DiffusionDPO(beta=200.0, guard=SDPO(0.6)),
    DMPO(beta=200.0),
    MaPO(),
    TDPO(beta=200.0),
    CaPO(beta=200.0),
    DGPO(groups=STORED, old=OldPolicy(None)),
    NFT(groups=STORED, old=OldPolicy(None)),
    AWM(groups=STORED, old=OldPolicy(None)),
    CRD(groups=STORED, old=OldPolicy(None)),
    DataDrivenDDSPO(beta=200.0),
    CHATS(beta=200.0),
    DiffusionLPO(beta=200.0, num_samples=3),
    RankDPO(beta=200.0, num_samples=3),
    SmPO(beta=200.0, inversion_steps=2),
    InPO(beta=200.0, inversion_steps=2, inversion_eta=0.0),
]
# in test_likes.py, test_on_policy.py, test_walks.py, test_own_groups.py and test_own_steps.py, in this order
ELSEWHERE = {"diffusion-kto", "diffusion-dro", "self-npo", "online-dpo", "spo", "tailorpo", "d3po"}
GIVEN = {type(method) for method in STRONG}
METHODS = [*STRONG, *(cls() for name, cls in ALL_METHODS.items() if name not in ELSEWHERE and cls not in GIVEN)]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_how_the_work_is_cut_changes_no_methods_gradient(method: Method) -> None:
    """Over micro-batches, over a pair's sides, and over processes."""
    run = replace(RUN, method=method)
    whole, metrics = gradients(a_trainer(run))
    assert whole.norm() > 1e-3
    for cut in (replace(run, split_pairs=True), replace(run, optimisation=replace(run.optimisation, micro_batch=1))):
        assert (gradients(a_trainer(cut))[0] - whole).norm() <= 1e-4 * whole.norm()
    shares = [gradients(a_trainer(run, process_index=i, num_processes=2)) for i in range(2)]
    assert (shares[0][0] + shares[1][0] - whole).norm() <= 1e-4 * whole.norm()
    assert {n: shares[0][1][n] + shares[1][1][n] for n in metrics} == pytest.approx(metrics, rel=1e-3, abs=1e-6)


def test_of_one_side_there_is_an_error_and_neither_winner_nor_loser() -> None:
    """What is fitted may be a loser; and one side's number under both names would be read as two."""
    for side in ("winner", "loser"):
        _, metrics = gradients(a_trainer(replace(RUN, method=SFT(side))))  # type: ignore[arg-type]
        assert metrics.keys() == {"loss", "error"} and metrics["error"] == pytest.approx(metrics["loss"])
    _, of_pair = gradients(a_trainer(replace(RUN, method=MaPO())))
    assert of_pair["winner_error"] != of_pair["loser_error"] and "error" not in of_pair


def test_processes_share_the_micro_batches() -> None:
    """As many each, and what makes them as many counts nothing."""
    whole, metrics = gradients(a_trainer(RUN))
    trainers = [a_trainer(RUN, process_index=i, num_processes=2) for i in range(2)]
    sizes = [[micro_batch.size for micro_batch in trainer.prepared([1])] for trainer in trainers]
    assert sizes == [[3, 2], [1, 0]]
    shares = [gradients(trainer) for trainer in trainers]
    torch.testing.assert_close(shares[0][0] + shares[1][0], whole, rtol=1e-4, atol=1e-6)
    assert {n: shares[0][1][n] + shares[1][1][n] for n in metrics} == pytest.approx(metrics, rel=1e-4, abs=1e-6)


def test_a_parameter_without_a_gradient_does_not_decay() -> None:
    """A gradient of zeros would count as one; of several processes see test_reduction.py."""
    trainer = a_trainer(RUN)
    unused = nn.Parameter(torch.ones(3))
    trainer.parameters.append(unused)
    trainer.optimizer.add_param_group({"params": [unused]})
    trainer._accumulate(trainer.prepared([1]))
    before = trainer.parameters[0].detach().clone()
    trainer.optimizer.step()
    assert unused.grad is None
    assert torch.equal(unused, torch.ones(3)) and not torch.equal(trainer.parameters[0], before)


@pytest.mark.parametrize(("split", "lasts"), [(False, [False, True]), (True, [False, False, False, True])])
def test_the_reduction_is_told_which_backward_is_a_steps_last(split: bool, lasts: list[bool]) -> None:
    trainer = a_trainer(replace(RUN, split_pairs=split), process_index=0, num_processes=2)
    told: list[bool] = []
    trainer.reduction = SimpleNamespace(before_backward=told.append, finish=lambda: None)
    trainer._accumulate(trainer.prepared([0]))
    assert told == lasts


def test_a_process_without_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 4)
    with pytest.raises(UserError, match="batch_size 6 leaves some of 4 processes without work"):
        a_trainer(RUN)


def test_held_out_pairs_of_several_sizes_are_all_measured() -> None:
    trainer = a_trainer(replace(RUN, split_pairs=True))
    numbers = trainer.held_out()
    assert numbers["loss"] > 0
    for name in ("loss", "accuracy", "drift"):
        assert numbers[name] == pytest.approx(sum(numbers[f"{name}@{level}"] for level in LEVELS) / len(LEVELS))
    calls: Any = trainer.trainable.calls  # type: ignore[attr-defined]
    assert sum(rows for policy, rows in calls if policy == "trainee") == 5 * 2 * 5  # pairs, samples, levels


def test_the_objective_is_the_methods_own() -> None:
    assert a_trainer(RUN).objective == RUN.method.objective()
    assert a_trainer(replace(RUN, method=DDSPO(space="v"), split_pairs=True)).objective == replace(
        DDSPO(space="v").objective(), split=True
    )


# Running numbers, and policies that follow the trainee


class AgainstBaseline:
    """A link against a number of the batches before."""

    def __call__(self, measured: Measured) -> Tensor:
        return -nn.functional.logsigmoid(measured.rewards[:, 0] - measured.running["baseline"])


def with_baseline(micro_batch: int = 3, **of_accelerator: Any) -> Trainer:
    optimisation = replace(RUN.optimisation, micro_batch=micro_batch, train_steps=4, learning_rate=1e-3, epsilon=1e-2)
    run = replace(RUN, optimisation=optimisation, watching=replace(RUN.watching, max_drift=100.0))
    trainer = a_trainer(run, **of_accelerator)
    running = {"baseline": Running(of=lambda measured: measured.rewards.mean(1), decay=0.5)}
    trainer.objective = replace(trainer.objective, link=AgainstBaseline(), running=running)
    trainer.running = RunningNumbers(running)
    return trainer


def test_a_running_number_is_the_same_for_every_micro_batch() -> None:
    """It follows the mean over a step's whole batch, and moves after the step: the first one sees its start."""
    trajectories = []
    for size in (1, 3, 6):
        trainer = with_baseline(size)
        states = [(state.metrics["mean/baseline"], trainer.running.values["baseline"]) for state in trainer.steps()]
        expected = 0.0
        for mean, value in states:
            expected = 0.5 * expected + 0.5 * mean
            assert value == pytest.approx(expected) != 0
        trajectories.append([value for _, value in states])
    assert trajectories[0] == pytest.approx(trajectories[1], rel=1e-3)
    assert trajectories[0] == pytest.approx(trajectories[2], rel=1e-3)


def test_a_running_number_is_the_same_for_every_number_of_processes() -> None:
    _, metrics = gradients(with_baseline())
    shares = [gradients(with_baseline(process_index=i, num_processes=2))[1] for i in range(2)]
    assert sum(share["mean/baseline"] for share in shares) == pytest.approx(metrics["mean/baseline"], rel=1e-4)


def test_a_running_number_comes_back_with_the_checkpoint(tmp_path: Path) -> None:
    trainer, other = with_baseline(), with_baseline()
    states = trainer.steps()
    for _ in range(2):
        next(states)
    # The weights lie in files of their own, which this stand-in for a backbone does not write.
    save_training(tmp_path / "step.safetensors", 2, trainee=Weights(trainer.parameters), **_parts(trainer))
    assert load_training(tmp_path / "step.safetensors", trainee=Weights(other.parameters), **_parts(other)) == 2
    assert other.running.values == trainer.running.values
    assert next(other.steps(2)).metrics == next(states).metrics


def test_policies_follow_the_trainee_by_their_schedules() -> None:
    """Before a step and from the second one on: at first every policy is the trainee."""
    trainer = a_trainer(replace(RUN, optimisation=replace(RUN.optimisation, train_steps=5, learning_rate=1e-6)))
    trainer.objective = replace(trainer.objective, moving={"old": Average(0.5, growth=0.2), "lagged": Every(2)})
    moves: list[tuple[int, str, str, float]] = []
    trainer.trainable.policies.copy = lambda source, to, kept: moves.append((len(done), source, to, kept))  # type: ignore[method-assign]
    done: list[int] = []
    for state in trainer.steps():
        done.append(state.step)
    kept_by_old = [0.2, 0.4, 0.5, 0.5]
    expected = [(step, "trainee", "old", kept) for step, kept in enumerate(kept_by_old, start=1)]
    expected += [(step, "trainee", "lagged", 0.0) for step in (2, 4)]
    assert sorted(moves) == sorted(expected)


# Against the parts of diffusers that the authors' trainers run on


@pytest.mark.parametrize(("warmup", "steps", "more"), [(100, 200, 0.0067), (100, 100, 0.0202)])
def test_warm_up_is_diffusers_one_step_ahead(warmup: int, steps: int, more: float) -> None:
    """Theirs takes its first step at rate 0; over a run of DDSPO ours adds up to .7 % more, data-driven 2 %."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=warmup)
    theirs = []
    for _ in range(steps + 1):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    settings = Optimisation(learning_rate=1.0, warmup=warmup, train_steps=steps)
    ours = [learning_rate(settings, step) for step in range(steps)]
    assert theirs[0] == 0
    assert ours == pytest.approx(theirs[1:])
    assert sum(ours) / sum(theirs[:-1]) - 1 == pytest.approx(more, abs=1e-4)


def test_the_average_is_diffusers_from_its_second_step_on() -> None:
    """Under (1 + n) / (10 + n); at the first step theirs takes the weights as they are, ours nine tenths of them."""
    steps = 30
    optimisation = replace(RUN.optimisation, learning_rate=0.05, train_steps=steps, ema_decay=0.9999)
    watching = replace(RUN.watching, max_drift=100.0)
    run = replace(RUN, optimisation=optimisation, watching=watching)
    trainer = a_trainer(run)
    theirs = EMAModel([nn.Parameter(p.detach().clone()) for p in trainer.parameters], decay=0.9999)
    states = trainer.steps()
    before = [p.detach().clone() for p in trainer.parameters]
    next(states)
    for start, weights, average in zip(before, trainer.parameters, trainer.average, strict=True):
        torch.testing.assert_close(average, 0.1 * start + 0.9 * weights)
    theirs.optimization_step = 1
    theirs.shadow_params = [average.clone() for average in trainer.average]
    for _ in states:
        theirs.step(trainer.parameters)
    assert theirs.optimization_step == steps
    for ours, shadow in zip(trainer.average, theirs.shadow_params, strict=True):
        torch.testing.assert_close(ours, shadow, rtol=1e-5, atol=1e-6)
    assert theirs.get_decay(1600) == pytest.approx(0.99441, abs=1e-5), "what RealAlign's recipe says of its end"


def test_the_average_is_float32_whatever_the_network_computes_in() -> None:
    """A thousandth of a step of 1e-4 is far below what bfloat16 tells apart beside a weight of a tenth."""
    optimisation = replace(RUN.optimisation, learning_rate=1e-4, train_steps=20, ema_decay=0.999)
    trainer = a_trainer(replace(RUN, precision="bf16", optimisation=optimisation))
    assert {average.dtype for average in trainer.average} == {torch.float32}
    expected = [parameter.detach().double() for parameter in trainer.parameters]
    for state in trainer.steps():
        decay = min(0.999, state.step / (9 + state.step))
        expected = [
            decay * mean + (1 - decay) * parameter.detach().double()
            for mean, parameter in zip(expected, trainer.parameters, strict=True)
        ]
    for average, mean in zip(trainer.average, expected, strict=True):
        torch.testing.assert_close(average.double(), mean, rtol=1e-6, atol=1e-7)
