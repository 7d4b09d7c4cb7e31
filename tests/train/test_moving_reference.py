"""A reference that follows the trainee: which one rewards are measured against, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from contrapose.core.moving import Every
from contrapose.errors import UserError
from contrapose.methods import CHATS, DDSPO, SFT, DiffusionDPO, DiffusionDRO, RealAlign
from contrapose.train.align import align
from contrapose.train.settings import Optimisation, Run, Watching
from contrapose.train.stages import stages

RUN = Run("a model", Path("pairs"), DDSPO(), reference_decay=0.9, reference_every=5)


def test_rewards_are_against_the_policy_that_follows_and_truths_are_not() -> None:
    """DDSPO's truths stay the start's answers to both prompts."""
    objective = RUN.objective()
    assert objective.moving == {"following": Every(5, 0.9)}
    plan = objective.plan()
    assert {policy: len(rows) for policy, rows in plan.items()} == {"following": 2, "reference": 2, "trainee": 2}
    assert replace(RUN, reference_decay=None, reference_every=None).objective() == DDSPO().objective()


def test_policies_that_follow_already_go_on() -> None:
    moving = replace(RUN, method=DiffusionDRO(sync_every=3)).objective().moving
    assert moving == {"lagged": Every(3), "following": Every(5, 0.9)}


def test_a_move_is_taken_every_so_many_steps() -> None:
    following = Every(3, 0.25)
    assert [following(step) for step in range(1, 7)] == [1.0, 1.0, 0.25, 1.0, 1.0, 0.25]
    assert following.mixes and not Every(3).mixes


def test_the_reference_of_earlier_stages_stays() -> None:
    run = replace(RUN, method=RealAlign())
    first, last = (stage.run for stage in stages(run, Path("out")))
    assert (first.reference_decay, first.reference_every) == (None, None) and last == run


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"method": SFT()}, "sft has no reference to move"),
        ({"method": CHATS()}, "chats trains several policies"),
        ({"reference_decay": None}, "reference_every is unused without reference_decay"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        replace(RUN, **changes)


@pytest.mark.slow
@pytest.mark.usefixtures("few_levels")
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_against_a_copy_of_itself_nothing_has_been_gained(
    full: bool, tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    """Every second step the reference is the trainee, and Diffusion-DPO's loss log 2 as at the start."""
    optimisation = Optimisation(learning_rate=1e-2, train_steps=4, batch_size=2, micro_batch=2)
    run = Run(
        str(tiny_model), tiny_pairs, DiffusionDPO(beta=100.0), full=full, optimisation=optimisation,
        watching=Watching(holdout=0, save_every=0), reference_decay=0.0, reference_every=2,
    )  # fmt: skip
    losses = [state.metrics["loss"] for state in align(run, tmp_path / "run") if state.metrics]
    assert losses[::2] == pytest.approx([math.log(2)] * 2, abs=1e-5)
    assert all(abs(loss - math.log(2)) > 1e-4 for loss in losses[1::2])
