"""Methods of judged groups as they are published: the old policy draws, a judge scores, the trainee learns of all.

That a killed run ends the same is in test_methods.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from trained import metrics_of

from contrapose.core.group import REWARD
from contrapose.errors import UserError
from contrapose.judges.colours import Colours
from contrapose.methods import CRD, DGPO, NFT
from contrapose.methods.judged_groups import JudgedGroups, OldPolicy
from contrapose.methods.own_samples import OwnSamples
from contrapose.train.align import align
from contrapose.train.judging import RolloutJudging
from contrapose.train.settings import Optimisation, Run, Watching

GROUPS = JudgedGroups(OwnSamples(samples_per_prompt=3, prompts_per_draw=4, buffer=6, rollout_steps=2))
FOLLOWS = OldPolicy(0.5, old_growth=None)


@pytest.fixture
def run(tiny_model: Path, prompts_file: Path) -> Run:
    return Run(
        str(tiny_model), prompts_file, NFT(groups=GROUPS, old=FOLLOWS),
        optimisation=Optimisation(learning_rate=1e-2, train_steps=3, batch_size=4, micro_batch=4, epsilon=1e-2),
        watching=Watching(save_every=1, keep=9, max_drift=1e3), judging=RolloutJudging((Colours(),)),
    )  # fmt: skip


@pytest.mark.slow
def test_how_the_work_is_cut_changes_nothing(run: Run, tmp_path: Path) -> None:
    o = replace(run.optimisation, train_steps=2, learning_rate=1e-3)
    whole = replace(run, optimisation=o)
    cut = replace(run, optimisation=replace(o, micro_batch=1), split_pairs=True)
    lines = []
    for name, of_run in (("whole", whole), ("cut", cut)):
        list(align(of_run, tmp_path / name))
        lines.append(metrics_of(tmp_path / name))
    for theirs, ours in zip(*lines, strict=True):
        for name in ("loss", "grad_norm", "rollouts/reward", "rollouts/spread"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-2, abs=1e-5)


@pytest.mark.slow
def test_the_old_policy_draws(run: Run, tmp_path: Path) -> None:
    """One that stays draws the same of a prompt at every step, and one that is the trainee's does not."""
    rewards = []
    for name, old in (("stays", OldPolicy(None)), ("follows", OldPolicy(0.0))):
        sampling = replace(GROUPS.sampling, prompts_per_draw=12, buffer=12)  # all prompts
        method = NFT(groups=replace(GROUPS, sampling=sampling), old=old)
        o = replace(run.optimisation, learning_rate=0.1, train_steps=2)
        list(align(replace(run, method=method, optimisation=o), tmp_path / name))
        rewards.append([line["rollouts/reward"] for line in metrics_of(tmp_path / name)])
    assert rewards[0][0] == pytest.approx(rewards[1][0]), "both begin as the model"
    assert rewards[0][1] != rewards[1][1]


def test_what_is_drawn_and_what_is_stored() -> None:
    drawn, stored = (
        NFT(groups=groups).composition() for groups in (GROUPS, JudgedGroups(OwnSamples(3), True, "taste"))
    )
    assert list(drawn.samples) == list(stored.samples) == ["rank 1", "rank 2", "rank 3"]
    assert drawn.own_groups is not None and drawn.own_groups.policy == "old" and not drawn.as_drawn
    assert drawn.own_groups.tie_margin is None, "a group without a difference has advantages of 0, and is not left out"
    assert stored.own_groups is None and stored.as_drawn and stored.judge == "taste"
    with pytest.raises(UserError, match="judge taste: judges what is stored"):
        JudgedGroups(judge="taste")
    with pytest.raises(UserError, match="buffer, rollout_steps: unused with stored groups"):
        JudgedGroups(OwnSamples(3, buffer=50, rollout_steps=2), stored=True)
    with pytest.raises(UserError, match=r"prompts_per_draw 32: of each draw only 5 \(buffer\) would be kept"):
        OwnSamples(buffer=5)
    with pytest.raises(UserError, match="sampler_decay, sampler_delay: unused with stored groups"):
        CRD(groups=JudgedGroups(stored=True), sampler_decay=0.9, sampler_delay=0)


def test_a_reference_that_follows_already_is_not_moved_twice(run: Run) -> None:
    with pytest.raises(UserError, match="reference_decay: nft measures rewards against a policy that follows already"):
        replace(run, reference_decay=0.9)
    assert REWARD not in replace(run, method=DGPO(groups=GROUPS), reference_decay=0.9).objective().moving
