"""A run's kept steps: folders with the weights as stock diffusers loads them, and the training state beside them.

checkpoints/step-000100/pytorch_lora_weights.safetensors   adapters; or model/, the denoiser alone; a folder a policy
checkpoints/step-000100/training.safetensors               what training needs beyond the weights to go on
checkpoints/step-000100/training/                          what of this is cut up over processes, a file a process
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from contrapose.files import discard
from contrapose.runs.names import CHECKPOINTS

_NAMED = re.compile(r"step-(\d{1,12})")


def step_folder(run: Path, step: int) -> Path:
    """Where a run keeps a step."""
    return run / CHECKPOINTS / step_name(step)


def step_name(step: int) -> str:
    """What the folder of a step is called."""
    return f"step-{step:06d}"


def kept_steps(run: Path) -> dict[int, Path]:
    """The folders of the kept steps by their number, the latest last."""
    return numbered(run / CHECKPOINTS)


def numbered(place: Path) -> dict[int, Path]:
    """The folders of steps that lie here by their number, the latest last."""
    folders = {}
    for path in place.glob("step-*"):
        named = _NAMED.fullmatch(path.name)
        if named and path.is_dir():
            folders[int(named[1])] = path
    return dict(sorted(folders.items()))


def has_old_steps(run: Path) -> bool:
    """Whether there are steps as they were kept before their weights were loadable: one file each."""
    return any((run / CHECKPOINTS).glob("step-*.safetensors"))


def steps_due(run: Path, is_due: Callable[[int], bool]) -> list[int]:
    """Of the kept steps those that are due to be kept, and the last one."""
    kept = kept_steps(run)
    return [step for step in kept if is_due(step) or step == max(kept)]


def prune(run: Path, keep: int, is_due: Callable[[int], bool], further: Collection[int] = ()) -> None:
    """Leave the latest `keep` of the kept steps that are due to be kept, the last one among them, and these further."""
    left = {*steps_due(run, is_due)[-keep:], *further}
    for step, folder in kept_steps(run).items():
        if step not in left:
            discard(folder)


def forget_steps_after(run: Path, step: int) -> None:
    """Remove the kept steps beyond this one."""
    for number, folder in kept_steps(run).items():
        if number > step:
            discard(folder)
