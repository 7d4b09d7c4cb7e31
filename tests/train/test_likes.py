"""Likes and dislikes in training: taken apart from their groups, drawn by their share, measured each kind by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from trained import metrics_of

from contrapose.core.measured import Measured
from contrapose.core.objective import Outcome
from contrapose.core.path import DiffusionPath
from contrapose.methods import DiffusionKTO
from contrapose.store.mixture import Mixture
from contrapose.store.records import GroupRecord
from contrapose.train.align import align
from contrapose.train.comparable import comparable
from contrapose.train.data import Groups
from contrapose.train.diagnostics import of_batch, settled
from contrapose.train.settings import Optimisation, Run, Watching

CPU = torch.device("cpu")
PATH = DiffusionPath(torch.linspace(0.999, 0.005, 1000))
METHOD = DiffusionKTO(beta=200.0)


class Numbered:
    """Stands for the text encoder: each prompt ends in a number, and that is its embedding."""

    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return {"text": torch.tensor([[float(p.split()[-1])] for p in prompts])}


@pytest.fixture
def folders(tmp_path: Path, write_store: Callable[..., Path]) -> tuple[Path, Path]:
    """Pair i holds i as its winner and 100 + i as its loser; 6 likes hold 200 and more, and 2 dislikes 300 and more."""
    sides = torch.stack([torch.arange(4.0), 100 + torch.arange(4.0)], 1).view(4, 2, 1, 1, 1).expand(-1, -1, 4, 8, 8)
    pairs = [GroupRecord.pair(f"p{n}", f"of {n}", "", n) for n in range(4)]
    values = torch.cat([200 + torch.arange(6.0), 300 + torch.arange(2.0)]).view(-1, 1, 1, 1, 1).expand(-1, 1, 4, 8, 8)
    likes = [GroupRecord(f"l{n}", f"of {n + 10}", "", n, (float(n < 6),), {"taste": (n / 2,)}) for n in range(8)]
    return (
        write_store(tmp_path / "pairs", pairs, sides.contiguous()),
        write_store(tmp_path / "likes", likes, values.contiguous()),
    )


def groups_of(folders: tuple[Path, ...], method: DiffusionKTO = METHOD, swap: bool = False) -> Groups:
    run = Run("a model", folders, method)
    store = comparable(Mixture(folders), run)
    return Groups(store, method.composition(), Numbered(), PATH, 0, 0, swap)  # type: ignore[arg-type]


def seen(groups: Groups, epochs: int = 1) -> list[tuple[int, float]]:
    """Value and label of every image of these epochs."""
    group = groups.training_batch(range(epochs * len(groups.training)), CPU)
    [sample] = group.samples.values()
    return [(int(latent.mean()), float(label)) for latent, label in zip(sample.latent, sample.label, strict=True)]


def test_every_image_is_a_like_or_a_dislike(folders: tuple[Path, Path]) -> None:
    """As they come: of a pair the winner and the loser, each under its pair's prompt; of a lone image itself."""
    groups = groups_of(folders, replace(METHOD, like_share=None))
    images = seen(groups)
    assert sorted(images) == [
        *((n, 1.0) for n in range(4)), *((100 + n, 0.0) for n in range(4)),
        *((200 + n, 1.0) for n in range(6)), *((300 + n, 0.0) for n in range(2)),
    ]  # fmt: skip
    prompts = groups.training_batch(range(16), CPU).prompts["prompt"]["text"].flatten().tolist()
    assert {(value % 100, prompt) for (value, _), prompt in zip(images, prompts, strict=True) if value < 200} == {
        (n, n) for n in range(4)
    }
    assert groups.training_batch([0], CPU).samples["sample 1"].scores.keys() <= {"taste"}


def test_folders_keep_their_weights(folders: tuple[Path, Path]) -> None:
    """Half of what is drawn are likes, of a folder that counts twice and one that counts once."""
    pairs, likes = folders
    images = seen(groups_of((Path(f"{pairs}:2"), likes), replace(METHOD, like_share=0.5)), epochs=45)
    assert sum(label for _, label in images) / len(images) == pytest.approx(0.5, abs=0.03)
    of_pairs = [value for value, label in images if value < 4 and label]
    of_likes = [value for value, label in images if 200 <= value < 300]
    assert len(of_pairs) / len(of_likes) == pytest.approx(2 * 4 / 6, rel=0.1)


def test_swapped_likes_are_dislikes(folders: tuple[Path, Path]) -> None:
    plain, swapped = (seen(groups_of(folders, swap=swap)) for swap in (False, True))
    assert [(value, 1 - label) for value, label in plain] == swapped


@pytest.mark.parametrize("share", [0.8, 0.25, 1.0])
def test_likes_are_drawn_by_their_share(folders: tuple[Path, Path], share: float) -> None:
    """Among 10 likes and 6 dislikes, over several epochs of unchanged length."""
    labels = [label for _, label in seen(groups_of(folders, replace(METHOD, like_share=share)), epochs=12)]
    assert sum(labels) / len(labels) == pytest.approx(share, abs=0.04)


def test_of_one_kind_there_is_no_share(folders: tuple[Path, Path], tmp_path: Path, write_store: Callable) -> None:
    records = [GroupRecord(f"d{n}", f"of {n}", "", n, (0.0,)) for n in range(5)]
    disliked = write_store(tmp_path / "disliked", records, torch.zeros(5, 1, 4, 8, 8))
    assert seen(groups_of((disliked,))) == [(0, 0.0)] * 5


def test_gains_are_means_over_likes_and_over_dislikes() -> None:
    parts = {"winner_error_gain": 0.3, "winner_share": 0.75, "loser_error_gain": -0.1, "loser_share": 0.25, "loss": 2.0}
    assert settled(parts) == {"winner_error_gain": 0.3 / 0.75, "loser_error_gain": -0.4, "loss": 2.0}
    of_likes = parts | {"winner_share": 1.0, "loser_error_gain": 0.0, "loser_share": 0.0}
    assert settled(of_likes) == {"winner_error_gain": 0.3, "loss": 2.0}, "of no dislikes there is no mean"


@pytest.mark.parametrize("swap", [False, True])
def test_swapped_numbers_keep_the_sense_of_the_likes(swap: bool) -> None:
    """As a pair's do: what is trained towards dislikes falls, and winners are what was liked."""
    liked = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    gains = torch.tensor([[0.2], [0.1], [-0.2], [-0.3]])
    measured = Measured(
        rewards=gains,
        T=0.5 - gains,
        R=torch.full((4, 1), 0.5),
        D=torch.zeros(4, 1),
        overlap=torch.zeros(4, 1, 1),
        labels=1 - liked if swap else liked,
        level=torch.zeros(4),
    )
    numbers = {name: float(value) for name, value in of_batch(Outcome(torch.zeros(4), (), measured, {}), swap).items()}
    assert settled(numbers) == pytest.approx(
        {"loss": 0, "accuracy": 1, "margin": 0.2, "winner_error_gain": 0.15, "loser_error_gain": -0.25, "drift": 0}
    )


# Whole runs


@pytest.fixture
def run(tiny_model: Path, tiny_pairs: Path) -> Run:
    optimisation = Optimisation(learning_rate=1e-2, train_steps=5, batch_size=4, micro_batch=4, epsilon=1e-2)
    watching = Watching(holdout=4, evaluate_every=2, save_every=2)
    return Run(str(tiny_model), tiny_pairs, METHOD, optimisation=optimisation, watching=watching, lora_rank=4)


@pytest.mark.slow
@pytest.mark.usefixtures("few_levels")
def test_killed_and_resumed_is_uninterrupted(run: Run, tmp_path: Path) -> None:
    """With the baseline, which the loss of every later step is against."""
    list(align(run, tmp_path / "whole"))
    for killed_after in (1, 3):
        states = align(run, tmp_path / "cut")
        next(state for state in states if state.step == killed_after)
        states.close()
    assert [state.step for state in align(run, tmp_path / "cut")] == [2, 3, 4, 5]
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert metrics_of(tmp_path / "whole")[-1]["mean/baseline"] != 0


@pytest.mark.slow
@pytest.mark.usefixtures("few_levels")
def test_micro_batches_change_nothing(run: Run, tmp_path: Path) -> None:
    """A baseline of the micro-batch would, and so would means over likes that were weighted by micro-batch."""
    lines = []
    for size in (1, 4):
        changed = replace(run, optimisation=replace(run.optimisation, train_steps=3, micro_batch=size))
        list(align(changed, tmp_path / str(size)))
        lines.append(metrics_of(tmp_path / str(size)))
    assert {"winner_error_gain", "accuracy", "margin", "drift", "held_out/margin"} <= lines[0][1].keys()
    for ours, theirs in zip(*lines, strict=True):
        del ours["accuracy"], theirs["accuracy"]  # before the first update every reward is zero but for rounding
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
