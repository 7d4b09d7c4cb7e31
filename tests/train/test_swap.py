"""`--swap`: the other side of every pair is preferred, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from contrapose.core.links import IPO, Hinge, Sigmoid
from contrapose.core.path import DiffusionPath
from contrapose.errors import UserError
from contrapose.methods import CHATS, DDSPO, SFT, DiffusionDPO, Method
from contrapose.store.mixture import Mixture
from contrapose.store.records import GroupRecord
from contrapose.train.align import align
from contrapose.train.data import Groups
from contrapose.train.settings import Optimisation, Run, Watching

PATH = DiffusionPath(torch.linspace(0.999, 0.005, 1000))
NUM, TIE = 12, 3
METHODS: list[Method] = [DiffusionDPO(beta=200.0), DDSPO(beta=200.0), DDSPO(beta=200.0, losers="random-positive")]


class Numbered:
    """Stands for the text encoder: each prompt ends in a number, and that is its embedding."""

    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"text": torch.tensor([[float(p.split()[-1]) / NUM] for p in prompts])}


@pytest.fixture
def store(tmp_path: Path, write_store: Callable[..., Path]) -> Mixture:
    """Random latents; one pair is a tie."""
    records = [GroupRecord.pair(f"{i}", f"of {i}", f"no {NUM - i}", i, 0.5 if i == TIE else 1.0) for i in range(NUM)]
    random = torch.Generator().manual_seed(0)
    sides = {side: torch.randn(NUM, 4, 8, 8, generator=random) for side in ("winner", "loser")}
    return Mixture(write_store(tmp_path, records, sides))


def _groups(store: Mixture, method: Method, swap: bool) -> Groups:
    return Groups(store, method.composition(), Numbered(), PATH, 0, 0, swap)  # type: ignore[arg-type]


def _gradient(store: Mixture, method: Method, swap: bool, moved: float = 0.0) -> Tensor:
    """Of a small network that has moved so far off its reference."""
    torch.manual_seed(0)
    reference, trainee = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    trainee.load_state_dict(reference.state_dict())
    trainee.weight.data += moved * torch.randn_like(trainee.weight)
    networks = {"reference": reference, "trainee": trainee}

    def predict(policy: str, x_t: Tensor, t: Tensor, condition: dict[str, Tensor]) -> Tensor:
        return networks[policy](x_t + condition["text"][:, :, None, None])

    groups = _groups(store, method, swap)
    group = groups.training_batch(range(6), torch.device("cpu"))
    method.objective()(group, groups.path, "eps", predict).loss.sum().backward()
    return torch.cat([p.grad.flatten() for p in trainee.parameters() if p.grad is not None])


@pytest.mark.parametrize("link", [Sigmoid(), Sigmoid(smoothing=0.1), IPO(), Hinge()], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=["diffusion-dpo", "ddspo", "ddspo-random-positive"])
def test_the_gradient_turns_round_at_the_start(store: Mixture, method: Method, link: object) -> None:
    """Where the margin is 0 every link's slope changes its sign alone: bit for bit but for label smoothing."""
    method = replace(method, link=link)
    there, back = (_gradient(store, method, swap) for swap in (False, True))
    assert there.norm() > 1e-3
    if link == Sigmoid(smoothing=0.1):
        torch.testing.assert_close(back, -there)
    else:
        assert torch.equal(back, -there)


def test_labels_alone_are_exchanged(store: Mixture) -> None:
    """The images, the prompts, the times and the noise of a position stay; a tie stays a tie."""
    groups = [_groups(store, DDSPO(), swap).training_batch(range(NUM), torch.device("cpu")) for swap in (False, True)]
    plain, swapped = groups
    for name, other in (("winner", "loser"), ("loser", "winner")):
        ours, theirs = swapped.samples[name], plain.samples[name]
        assert torch.equal(ours.label, plain.samples[other].label)
        assert torch.equal(ours.latent, theirs.latent) and torch.equal(ours.noise, theirs.noise)
    assert sorted(swapped.samples["winner"].label.tolist()) == [0.0] * (NUM - 1) + [0.5]
    assert all(torch.equal(swapped.prompts[slot]["text"], plain.prompts[slot]["text"]) for slot in plain.prompts)
    assert torch.equal(plain.t, swapped.t)


def test_dpo_swapped_is_dpo_on_exchanged_images(tmp_path: Path, write_store: Callable[..., Path]) -> None:
    """Away from the reference too, where the two gradients are no longer opposite."""
    records = [GroupRecord.pair(f"{i}", f"of {i}", f"no {i}", i) for i in range(NUM)]
    winner, loser = torch.randn(2, NUM, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    pairs = Mixture(write_store(tmp_path / "pairs", records, {"winner": winner, "loser": loser}))
    exchanged = Mixture(write_store(tmp_path / "exchanged", records, {"winner": loser, "loser": winner}))
    method, moved = DiffusionDPO(beta=200.0), 0.1
    swapped = _gradient(pairs, method, True, moved)
    torch.testing.assert_close(swapped, _gradient(exchanged, method, False, moved), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(swapped, -_gradient(pairs, method, False, moved), rtol=1e-2)


@pytest.mark.parametrize(
    ("method", "line"), [(SFT(), "swap: sft .*use --side loser"), (CHATS(), "swap: chats .*in sampling")]
)
def test_methods_without_a_preference_refuse(method: Method, line: str) -> None:
    assert not Run("a model", Path("pairs"), method).swap
    with pytest.raises(UserError, match=line):
        Run("a model", Path("pairs"), method, swap=True)


def test_a_run_learns_the_other_way_round(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    """The first step's margin is 0; after a few, the pairs' winners have the lower reward."""
    settings = {
        "optimisation": Optimisation(train_steps=8, batch_size=12, micro_batch=12, learning_rate=1e-3),
        "watching": Watching(holdout=0),
    }
    margins = {}
    for swap in (False, True):
        run = Run(str(tiny_model), tiny_pairs, DiffusionDPO(beta=500.0), full=True, swap=swap, **settings)
        margins[swap] = [state.metrics["margin"] for state in align(run, tmp_path / str(swap)) if state.metrics]
    assert margins[False][0] == margins[True][0] == 0
    assert margins[True][-1] < 0 < margins[False][-1]
    assert "swap: true" in (tmp_path / "True" / "run.yaml").read_text()
