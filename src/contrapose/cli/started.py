"""Several processes of one command: which commands take them, and what to do with the others."""

from __future__ import annotations

from contrapose.errors import UserError
from contrapose.processes import launched, num_processes

OF_WORKERS = ("evaluate", "pairs draw", "pairs import", "pairs real", "pairs score", "sample", "sweep")
"""Commands that workers share which know nothing of each other."""
_SHARED = ("align", *OF_WORKERS)  # over several processes
_LONG = ("align", "study run")  # the others are over before they are in the way


def check_processes(name: str) -> None:
    """Raise `UserError` where several processes were started of a command that would do all of its work in each."""
    _check_tasks(name)
    if num_processes() > 1 and name not in _SHARED:
        raise UserError(
            f"{name}: was started as {num_processes()} processes, but shares no work between them; start it once (for "
            f"several are {', '.join(_SHARED)})"
        )


def _check_tasks(name: str) -> None:
    """Raise `UserError` where srun alone started several processes of a long command that no workers share."""
    task = launched()
    if task is None or num_processes() > 1 or name not in _LONG:
        return
    if task.number > 0:
        raise SystemExit(2)  # the first task says it for all
    instead = "start it once (srun --ntasks 1)"
    if name == "align":
        instead = "let srun start one torchrun a machine (docs/many-gpus.md has the lines)"
    raise UserError(
        f"{name}: srun started it as {task.of} tasks, which do not know of each other; {instead}; for a run of its own "
        f"in each task, put 'env -u SLURM_PROCID' before it"
    )
