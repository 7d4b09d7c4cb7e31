"""Every method trains a model, with adapters and in full: cut and carried on as if it had never been.

That micro-batches, processes and parts taken one by one give the same gradient is in test_trainer.py.
"""

from __future__ import annotations

from pathlib import Path

import every_method
import pytest
from trained import content_of, until

from contrapose.train.align import align

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_levels")]

TRAINING = [
    "--learning-rate", "1e-2", "--epsilon", "1e-2", "--train-steps", "3", "--batch-size", "4", "--micro-batch", "2",
    "--holdout", "0", "--save-every", "1", "--max-drift", "1e3",
]  # fmt: skip


@pytest.mark.parametrize(("name", "full"), every_method.by_turns())
def test_killed_and_resumed_is_uninterrupted(
    name: str, full: bool, tiny_model: Path, tiny_pairs: Path, tmp_path: Path
) -> None:
    """To the byte: weights, moments, policies that follow, buffers and running numbers; of stages the first is cut."""
    run = every_method.run_of(name, tiny_model, tiny_pairs, *every_method.trainee(full), *TRAINING)
    list(align(run, tmp_path / "whole"))
    until(align(run, tmp_path / "cut"), 1)
    resumed = [state.step for state in align(run, tmp_path / "cut")]
    assert resumed[:3] == [1, 2, 3], "carried on, not begun again"
    assert content_of(tmp_path / "cut") == content_of(tmp_path / "whole")
