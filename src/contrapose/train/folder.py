"""A run's folder: claimed by its settings and by what they name, its metrics, its checkpoints, and whether it is whole.

run.yaml, inputs.yaml    what decides the run: its settings, and digests of the model, pairs and runs that they name
metrics.jsonl            one line a step
checkpoints/             the latest training states
finished.json            written last, beside the weights
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from contrapose import metrics, runfile
from contrapose.backbones.digests import model_digest, run_digest
from contrapose.contents import digest_of_parts
from contrapose.documents import load_json
from contrapose.errors import UserError
from contrapose.files import replacing
from contrapose.runs.names import FINISHED, FULL_FOLDER
from contrapose.store.mixture import Mixture
from contrapose.train.checkpoint import BrokenCheckpoint, Stateful, load_training, save_training
from contrapose.train.settings import CONVERTER, Run
from contrapose.train.stages import Stage

RUN_FILE, METRICS, CHECKPOINTS = "run.yaml", "metrics.jsonl", "checkpoints"
# Settings that do not decide the outcome, and may change when a run is resumed.
_FREE = [
    "watching.save_every", "watching.keep", "optimisation.micro_batch", "gradient_checkpointing", "split_pairs",
    "cache_limit",
]  # fmt: skip
_CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")
log = logging.getLogger(__name__)


def policy_folders(run: Run) -> tuple[str, ...]:
    """The folders that hold the weights of a run of several policies, one each; none where there is one policy."""
    trained = run.method.objective().trained
    return trained if len(trained) > 1 else ()


def claim(stage: Stage, pairs: Mixture) -> bool:
    """Write the run's settings and the digests of what they name into its folder, or check those that are there.

    True when they were there. Raises `UserError` naming what differs.
    """
    run = stage.run
    inputs = {"model": model_digest(run.model, run), "pairs": pairs.digest}
    if stage.start is not None:
        inputs["start"] = run_digest(stage.start)
    if stage.policies:
        inputs["policies"] = digest_of_parts(f"{role} {run_digest(folder)}" for role, folder in stage.policies.items())
    return runfile.claim(stage.folder / RUN_FILE, run, CONVERTER, free=_FREE, inputs=inputs)


def is_whole(stage: Stage) -> bool:
    """Whether the run has finished, and its weights are still there and can be opened."""
    folder = stage.folder
    if not (folder / FINISHED).exists():
        return False
    reason = None
    try:
        load_json(folder / FINISHED)
        for policy in policy_folders(stage.run) or ("",):
            _open_weights(folder / policy)
    except (UserError, SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
    if reason:
        log.warning(f"{folder}: had finished, but {reason}; what is missing is made again from the last checkpoint")
    return reason is None


def _open_weights(folder: Path) -> None:
    """Open every file of weights of one policy; an error tells what is wrong."""
    weights = [*folder.glob("*.safetensors"), *(folder / FULL_FOLDER).rglob("*.safetensors")]
    if not weights:
        raise UserError("its weights are gone")
    for file in weights:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file.name} is broken ({error})") from error


def resume(folder: Path, steps: int, **parts: Stateful) -> int:
    """Restore the latest checkpoint that is whole, of at most `steps` steps, and return its step; 0 without one.

    A broken one is told of and passed over for the one before it.
    """
    for path in reversed(checkpoints(folder)):
        try:
            step = load_training(path, **parts)
            if step > steps:
                raise BrokenCheckpoint(f"{path}: is of step {step}, and the run has {steps}")
            return step
        except BrokenCheckpoint as error:
            log.warning(f"{error}; carrying on from the one before it")
    return 0


def checkpoints(folder: Path) -> list[Path]:
    """A run's checkpoints, the latest last."""
    named = ((_CHECKPOINT.fullmatch(path.name), path) for path in (folder / CHECKPOINTS).glob("step-*.safetensors"))
    return [path for _, path in sorted((int(name[1]), path) for name, path in named if name)]


def save_checkpoint(folder: Path, step: int, keep: int, **parts: Stateful) -> None:
    """Write a checkpoint and leave the latest `keep`."""
    save_training(folder / CHECKPOINTS / f"step-{step:06d}.safetensors", step, **parts)
    for old in checkpoints(folder)[:-keep]:
        old.unlink()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics as they stand. Raises `UserError` naming the file and the line that is broken."""
    return metrics.read_metrics(folder / METRICS)


def forget_after(folder: Path, step: int) -> None:
    """Drop metrics of steps that will be taken again."""
    if not (folder / METRICS).exists():
        return
    kept = [json.dumps(line) + "\n" for line in read_metrics(folder) if line["step"] <= step]
    with replacing(folder / METRICS) as aside:
        aside.write_text("".join(kept), encoding="utf-8")
