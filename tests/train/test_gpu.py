"""What only a CUDA device can show: mixed precision trains, resumes, and starts undecided."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from contrapose.methods import DDSPO
from contrapose.train.align import align
from contrapose.train.settings import Optimisation, Run, Watching


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_mixed_precision_trains_on_the_device(
    tiny_model: Path, tiny_pairs: Path, tmp_path: Path, precision: str, full: bool
) -> None:
    optimisation = Optimisation(learning_rate=1e-4, train_steps=3, batch_size=4, micro_batch=2)
    watching = Watching(holdout=2, evaluate_every=3, save_every=2)
    run = Run(
        str(tiny_model),
        tiny_pairs,
        DDSPO(beta=200.0),
        full,
        precision=precision,
        optimisation=optimisation,
        watching=watching,
    )
    states = list(align(run, tmp_path / "run"))
    assert states[1].metrics["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert states[-1].step == 3
