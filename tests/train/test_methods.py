"""Methods that differ in their link alone train a model: cut and carried on as if they had never been.

That micro-batches, processes and parts taken one by one give the same gradient is in test_trainer.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trained import metrics_of, until, weights_of

from contrapose.methods import AWM, DGPO, DSPO, NFT, MaPO, Method
from contrapose.methods.judged_groups import JudgedGroups, OldPolicy
from contrapose.train.align import align
from contrapose.train.settings import Optimisation, Run, Watching

PAIRS = JudgedGroups(num_samples=2)
FOLLOWS = OldPolicy(0.5, old_growth=None)
# by strengths at which three steps on a tiny network are seen; and whether the network is trained in full
TABLE: list[tuple[Method, bool]] = [
    (MaPO(), False),
    (DSPO(beta=2.0), False),
    (DSPO(beta=200.0, form="squared"), True),
    (DGPO(groups=PAIRS, against="old"), False),
    (NFT(groups=PAIRS, old=FOLLOWS), True),
    (AWM(groups=PAIRS, old=FOLLOWS), False),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "full"), TABLE, ids=str)
def test_killed_and_resumed_is_uninterrupted(
    method: Method, full: bool, tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    optimisation = Optimisation(learning_rate=1e-2, train_steps=3, batch_size=4, micro_batch=2, epsilon=1e-2)
    watching = Watching(holdout=0, save_every=1, max_drift=1e3)
    run = Run(str(tiny_model), tiny_pairs, method, optimisation=optimisation, watching=watching, full=full)
    list(align(run, tmp_path / "whole"))
    until(align(run, tmp_path / "cut"), 1)
    assert [state.step for state in align(run, tmp_path / "cut")] == [1, 2, 3], "carried on, not begun again"
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "whole")
    ours, theirs = (weights_of(tmp_path / folder) for folder in ("cut", "whole"))
    assert ours.keys() == theirs.keys() != set()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
