"""Whether networks are cut up over the processes of a run, and with which other settings that goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from contrapose.errors import UserError
from contrapose.ranges import Count, checked

if TYPE_CHECKING:
    from contrapose.core.objective import Objective
    from contrapose.train.settings import Run

ShardName = Literal["none", "full", "offload"]


@dataclass(frozen=True, kw_only=True)
@checked
class Sharding:
    """What each process holds of the networks."""

    shard: ShardName = "none"
    """What each of several processes holds of the networks: none is all of them; full is a share of weights, gradients,
    moments and averages, with each block gathered when it computes; offload is full with the shares of frozen copies in
    the machine's own memory."""
    shard_over: Count | None = None
    """Over how many processes networks are cut up, such as those of one machine; the next ones hold the same shards
    again, and gradients are summed over all. All processes when unset."""

    def num_shards(self, num_processes: int) -> int:
        """Over how many of so many processes the networks are cut up; 1 where each has all."""
        return 1 if self.shard == "none" else min(num_processes, self.shard_over or num_processes)

    def check_processes(self, num_processes: int) -> None:
        """Raise `UserError` for several processes that are no multiple of those that networks are cut up over."""
        if self.shard_over and num_processes > 1 and num_processes % self.shard_over:
            raise UserError(
                f"shard_over {self.shard_over}: {num_processes} processes are no multiple of it; start as many, or "
                "leave the setting out"
            )

    def check(self, run: Run) -> None:
        """Raise `UserError` for a setting of the run that is not to be had of networks in shards."""
        if self.shard == "none":
            if self.shard_over is not None:
                raise UserError("shard_over: counts with --shard alone; leave the setting out")
            return
        optimizer = run.optimisation.optimizer
        quantize = run.loading.quantize
        if optimizer != "adamw":
            self._refuse(f"optimizer {optimizer}", "keeps whole tensors alone; take adamw")
        if quantize != "none":
            self._refuse(f"quantize {quantize}", "keeps weights that cannot be cut; take one of the two")
        if run.precision == "fp16":
            self._refuse("precision fp16", "scales gradients by what all processes have of them; take bf16")
        if run.adapters.train_text_encoder:
            self._refuse("train_text_encoder", "reads other prompts in each process; leave it out")
        for name in ("compile", "channels_last"):
            if getattr(run.speed, name):
                self._refuse(name, "changes networks in a way that cannot be cut; leave it out")
        if self.shard == "offload" and not run.full:
            raise UserError("shard offload: adapters have no frozen copies of the network; take full")
        if self.shard == "offload" and not _copies_that_stand_still(run.objective()):
            raise UserError("shard offload: no frozen copy of the network stands still in this run; take full")

    def for_run_before(self, objective: Objective) -> Sharding:
        """The same for a run that another begins with, which may have no frozen copy that could be offloaded."""
        if self.shard == "offload" and not _copies_that_stand_still(objective):
            return replace(self, shard="full")
        return self

    def _refuse(self, setting: str, reason: str) -> None:
        raise UserError(f"shard {self.shard}: {setting} {reason}")


def _copies_that_stand_still(objective: Objective) -> set[str]:
    """The frozen policies that do not follow the trainee."""
    return {*objective.plan(), *objective.frozen} - {*objective.trained, *objective.moving}
