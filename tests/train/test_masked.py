"""`--mask-floor`: pairs are compared where their masks say that they differ; on the tiny model and pairs it drew."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from trained import metrics_of, weights_of

from contrapose.core.path import DiffusionPath
from contrapose.errors import UserError
from contrapose.methods import (
    CHATS,
    DDSPO,
    SFT,
    DataDrivenDDSPO,
    DiffusionDPO,
    DiffusionDRO,
    DiffusionKTO,
    Method,
    RealAlign,
)
from contrapose.store.groups import GroupStore
from contrapose.store.mixture import Mixture
from contrapose.store.shard_files import read_shard, write_shard
from contrapose.train.align import align
from contrapose.train.data import Groups
from contrapose.train.settings import Optimisation, Run, Watching
from contrapose.train.stages import stages

CPU = torch.device("cpu")
FLOOR = 0.2
MAKE = Callable[[Tensor], Tensor]


def masked(pairs: Path, folder: Path, make: MAKE) -> Path:
    """The same pairs with masks, each made of its pair's differences [k, h, w] from 0 to 1."""
    shutil.copytree(pairs, folder)
    for index, path in enumerate(sorted(folder.glob("shard-*"))):
        latents = load_file(path)["latents"]
        differences = (latents[:, 0] - latents[:, 1]).abs().float().mean(1)
        masks = (255 * make(differences / differences.max())).round().byte()
        write_shard(folder, index, read_shard(path).records, latents, masks)
    return folder


@pytest.fixture
def where_they_differ(tiny_pairs: Path, tmp_path: Path) -> Path:
    return masked(tiny_pairs, tmp_path / "masked-pairs", lambda differences: differences)


@pytest.fixture
def run(tiny_model: Path, where_they_differ: Path) -> Run:
    fast = Optimisation(learning_rate=1e-2, train_steps=3, batch_size=4, micro_batch=4, epsilon=1e-2)
    watching = Watching(holdout=2, evaluate_every=2, save_every=2)
    return Run(
        str(tiny_model), where_they_differ, DDSPO(beta=200.0), mask_floor=FLOOR, optimisation=fast, watching=watching
    )


def _same_weights(ours: Path, theirs: Path) -> bool:
    others = weights_of(theirs)
    return all(torch.equal(value, others[name]) for name, value in weights_of(ours).items())


# What groups carry


def _groups(pairs: Path, floor: float | None) -> Groups:
    def embeddings(prompts: Sequence[str | None]) -> dict[str, Tensor]:
        return {"text": torch.zeros(len(prompts), 1)}

    path = DiffusionPath(torch.linspace(0.999, 0.005, 1000))
    return Groups(Mixture(pairs), DDSPO().composition(), embeddings, path, 0, 2, mask_floor=floor)


def test_groups_have_the_weights_of_their_records_masks(where_they_differ: Path) -> None:
    groups, store = _groups(where_they_differ, FLOOR), GroupStore(where_they_differ)
    training = groups.training_batch(range(4), CPU)
    held_out = groups.held_out_batch(0.5, CPU, groups.held_out)
    for group, records in ((training, [groups._own(p) for p in range(4)]), (held_out, groups.held_out)):
        masks = torch.stack([store.mask(record) for record in records])
        expected = FLOOR + (1 - FLOOR) * masks
        expected = expected / expected.mean((1, 2), keepdim=True)
        assert group.weights is not None
        torch.testing.assert_close(group.weights, expected[:, None])
    # each by itself, as a micro-batch of one sees it
    alone = [groups.training_batch([position], CPU).weights for position in range(4)]
    assert torch.equal(torch.cat([weights for weights in alone if weights is not None]), training.weights)


def test_without_a_floor_masks_are_not_looked_at(where_they_differ: Path, tiny_pairs: Path) -> None:
    groups = [_groups(pairs, None).training_batch(range(4), CPU) for pairs in (where_they_differ, tiny_pairs)]
    assert groups[0].weights is None and groups[1].weights is None
    assert torch.equal(groups[0].samples["loser"].latent, groups[1].samples["loser"].latent)


# Training


@pytest.mark.slow
@pytest.mark.usefixtures("few_levels")
def test_masked_runs(run: Run, tiny_pairs: Path, tmp_path: Path) -> None:
    """Masks that say nothing change no bit, others do; kills and micro-batches change nothing."""
    pairs_of_ones = masked(tiny_pairs, tmp_path / "pairs-of-ones", torch.ones_like)
    small = replace(run.optimisation, micro_batch=1)
    runs = {
        "plain": replace(run, pairs=tiny_pairs, mask_floor=None),
        "ones": replace(run, pairs=pairs_of_ones),
        "masked": run,
        "small": replace(run, optimisation=small, split_pairs=True),
    }
    for name, settings in runs.items():
        list(align(settings, tmp_path / name))
    assert metrics_of(tmp_path / "ones") == metrics_of(tmp_path / "plain")
    assert _same_weights(tmp_path / "ones", tmp_path / "plain")

    assert yaml.safe_load((tmp_path / "masked/run.yaml").read_text())["mask_floor"] == FLOOR
    assert not _same_weights(tmp_path / "masked", tmp_path / "plain")
    held_out = [name for name in metrics_of(tmp_path / "masked")[-1] if name.endswith("drift@0.5")]
    assert held_out, "held-out pairs were measured"
    assert metrics_of(tmp_path / "masked")[-1][held_out[0]] != metrics_of(tmp_path / "plain")[-1][held_out[0]]

    others = weights_of(tmp_path / "small")
    assert max((value - others[name]).abs().max() for name, value in weights_of(tmp_path / "masked").items()) < 1e-6

    states = align(run, tmp_path / "cut")
    while next(states).step < 2:
        pass
    states.close()
    list(align(run, tmp_path / "cut"))
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "masked")
    assert _same_weights(tmp_path / "cut", tmp_path / "masked")


# What is refused


@pytest.mark.parametrize(
    "method", [SFT(), DiffusionDRO(), DiffusionKTO(), DDSPO(losers="not-paired"), DDSPO(losers="random-positive")]
)
def test_methods_that_do_not_compare_a_pair_refuse(method: Method) -> None:
    with pytest.raises(UserError, match=r"mask_floor: .* does not compare the two images of a pair"):
        Run("a model", Path("pairs"), method, mask_floor=FLOOR)


@pytest.mark.parametrize("method", [DDSPO(), DiffusionDPO(), CHATS(), RealAlign(), DataDrivenDDSPO()])
def test_pairs_without_masks_are_refused_before_loading(method: Method, tiny_pairs: Path, tmp_path: Path) -> None:
    """Where the method begins with other runs, before these are trained for it."""
    run = Run("no such model", tiny_pairs, method, mask_floor=FLOOR, watching=Watching(holdout=0))
    with pytest.raises(UserError, match=r"pairs have no mask, which mask_floor needs; .*--spoil inpaint"):
        list(align(run, tmp_path / "out"))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("run.yaml"))


def test_runs_that_a_masked_one_begins_with_are_not_masked() -> None:
    run = Run("a model", Path("pairs"), RealAlign(), mask_floor=FLOOR)
    assert [stage.run.mask_floor for stage in stages(run, Path("out"))] == [None, FLOOR]
