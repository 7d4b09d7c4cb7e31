"""Walks in whole runs: however the batch is cut, they go the same way. Killed runs are in test_methods.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from trained import metrics_of

from contrapose.methods import InPO, Method, SelfNPO
from contrapose.train.align import align
from contrapose.train.settings import Optimisation, Run, Watching

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_levels")]
METHODS = [InPO(beta=200.0, inversion_steps=2, inversion_eta=0.3), SelfNPO()]


@pytest.fixture(params=METHODS, ids=lambda method: type(method).__name__)
def run(request: pytest.FixtureRequest, tiny_model: Path, tiny_pairs: Path) -> Run:
    method: Method = request.param
    optimisation = Optimisation(learning_rate=1e-2, train_steps=3, batch_size=4, micro_batch=4, epsilon=1e-2)
    watching = Watching(holdout=4, evaluate_every=2, save_every=1)
    return Run(str(tiny_model), tiny_pairs, method, optimisation=optimisation, watching=watching, lora_rank=4)


def test_micro_batches_change_nothing(run: Run, tmp_path: Path) -> None:
    lines = []
    for size in (1, 4):
        changed = replace(run, optimisation=replace(run.optimisation, train_steps=2, micro_batch=size))
        list(align(changed, tmp_path / str(size)))
        lines.append(metrics_of(tmp_path / str(size)))
    for ours, theirs in zip(*lines, strict=True):
        for name in ("accuracy", "held_out/accuracy"):  # before the first update every reward is zero but for rounding
            ours.pop(name, None)
            theirs.pop(name, None)
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
