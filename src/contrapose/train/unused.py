"""Settings of a run that its method, as it is set, would not go by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrapose.core.group import OwnSteps
from contrapose.errors import UserError
from contrapose.methods import name_of

if TYPE_CHECKING:
    from contrapose.train.settings import Run


def check_used(run: Run) -> None:
    """Raise `UserError` for times, draws of times and dropped captions that would have no effect, or not theirs.

    Steps of a sampler, and states of a trajectory, are learnt where and how they were taken.
    """
    composition = run.method.composition()
    name = name_of(run.method)
    if composition.has_own_times and run.time_density is not None:
        raise UserError(
            f"time_density: {name} as it is set learns at the times of its own sampler; leave the setting out"
        )
    if run.caption_dropout and run.method.objective().compares_prompts:
        raise UserError(
            f"caption_dropout: {name} sets prompts of one image against each other, and without one they are alike; "
            "leave the setting out"
        )
    if not isinstance(composition.own_groups, OwnSteps):
        return
    if run.time_draws != "independent":
        raise UserError(f"time_draws: {name} learns steps at the times of its sampler; leave the setting out")
    if run.caption_dropout:
        raise UserError(f"caption_dropout: {name} takes its steps under their prompts; leave the setting out")
