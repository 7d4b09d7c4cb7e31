"""A run's folder as training writes it: claimed by settings and inputs, carried on from kept steps, lengthened or cut.

How it is read, and what lies in it, is said in `contrapose.runs.folder`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.utils import broadcast_object_list, parse_flag_from_env, wait_for_everyone
from safetensors import SafetensorError, safe_open

from contrapose import runfile
from contrapose.backbones.digests import model_digest
from contrapose.backbones.loading import best_device
from contrapose.backbones.precision import usual_precision
from contrapose.contents import digest_of, digest_of_parts
from contrapose.errors import UserError
from contrapose.files import discard, replacing, write_text
from contrapose.processes import of_all, rank
from contrapose.runs.best import read_best, write_best
from contrapose.runs.folder import RunFolder
from contrapose.runs.metrics import HELD_OUT, JUDGED, add_metrics, in_order, rewrite_metrics
from contrapose.runs.names import (
    CARD,
    CHECKPOINTS,
    FINISHED,
    FULL_FOLDER,
    LORA_FILE,
    METRICS,
    PEFT_CONFIG,
    PEFT_FILE,
    RUN_FILE,
    STATE_FILE,
)
from contrapose.runs.seal import is_edited
from contrapose.runs.steps import forget_steps_after, has_old_steps, kept_steps, prune, step_folder, steps_due
from contrapose.runs.training_state import BrokenCheckpoint, Stateful, load_training, save_training
from contrapose.runs.watched import forget_images
from contrapose.store.mixture import Mixture
from contrapose.train.best import best_of
from contrapose.train.settings import CONVERTER, Run, Watching
from contrapose.train.stages import Stage, stages
from contrapose.train.trained import Trained

_STEPS = "optimisation.train_steps"
log = logging.getLogger(__name__)


def policy_folders(run: Run) -> tuple[str, ...]:
    """The folders that hold the weights of a run of several policies, one each; none where there is one policy."""
    trained = run.method.objective().trained
    return trained if len(trained) > 1 else ()


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps is done after this one; every 0 steps is never."""
    return every > 0 and step > 0 and step % every == 0


def is_measured(step: int, run: Run) -> bool:
    """Whether the held-out pairs are measured after a step: when it is due, after the first and after the last."""
    return is_due(step, run.watching.evaluate_every) or step in (1, run.optimisation.train_steps)


def is_watched(step: int, run: Run) -> bool:
    """Whether images are drawn at a step: when they are due, before the first step and after the last."""
    if not run.watching.draws:
        return False
    watching = run.watching
    may_be_best = watching.keep_best is not None and is_due(step, watching.save_every)
    return may_be_best or is_due(step, watching.images_every) or step in (0, run.optimisation.train_steps)


def settled_stages(run: Run, folder: Path) -> list[Stage]:
    """The stages of a run in a folder, with every default spelled out."""
    device = "cpu" if parse_flag_from_env("ACCELERATE_USE_CPU") else best_device()
    return stages(run.resolved(usual_precision(device, folder / RUN_FILE)), folder)


# Whose folder it is


def inputs_of(stage: Stage, pairs: Mixture) -> dict[str, str]:
    """Digests of all that a run's settings name."""
    inputs = {"model": model_digest(stage.run.model, stage.run.loading), "pairs": pairs.digest}
    random_prompts = stage.run.method.composition().random_prompts
    if random_prompts is not None and random_prompts.file is not None:
        inputs["random_prompts"] = digest_of(random_prompts.file)
    if stage.start is not None:
        inputs["start"] = RunFolder(stage.start).digest
    if stage.policies:
        roles = (f"{role} {RunFolder(folder).digest}" for role, folder in stage.policies.items())
        inputs["policies"] = digest_of_parts(roles)
    return inputs


def holds_other_steps(stage: Stage, inputs: Mapping[str, str]) -> bool:
    """Whether the folder holds this run with another number of steps, looked up before anything is loaded.

    Raises `UserError` where it holds another run, or what no settings tell of.
    """
    path = stage.folder / RUN_FILE
    if path.exists():
        return claim(stage, inputs)
    runfile.check_unclaimed(path, _results(stage.run), inputs)
    return False


def _results(run: Run) -> tuple[str, ...]:
    """What a run writes that it would take for its own, or write over, if it were there before."""
    weights = [FULL_FOLDER] if run.full else [LORA_FILE, PEFT_FILE]
    return (METRICS, CHECKPOINTS, FINISHED, *weights)


def claim(stage: Stage, inputs: Mapping[str, str]) -> bool:
    """Write the run's settings and inputs into its folder, or check that those that are there are the same.

    True where they are but for the number of steps, which `restate` then writes. Raises `UserError` naming what
    differs, or why the number of steps may not.
    """
    run = stage.run
    path = stage.folder / RUN_FILE
    recorded = runfile.claimed(path) if path.exists() else {}
    steps = _mapping(recorded.get("optimisation")).get("train_steps", run.optimisation.train_steps)
    free: list[str] = []
    if steps != run.optimisation.train_steps:
        free.append(_STEPS)
    if _mapping(recorded.get("first")).get("first_train_steps") is None and run.first.first_train_steps == steps:
        free.append("first.first_train_steps")  # what was left to the run's own number is now said
    runfile.claim(path, run, CONVERTER, free, inputs, _results(run))
    if _STEPS in free:
        _check_steps(stage, steps)
    return _STEPS in free


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_steps(stage: Stage, recorded: int) -> None:
    """Raise `UserError` where the run in the folder, of so many steps, cannot become one of another number."""
    folder = stage.folder
    run = RunFolder(folder)
    o = stage.run.optimisation
    if stage.earlier:
        raise UserError(
            f"{folder}: has {recorded} steps, and what a run begins with is not lengthened with it; set "
            f"first_train_steps to {recorded}, or choose another --out"
        )
    if o.schedule != "constant":
        raise UserError(
            f"{folder}: is a run of {recorded} steps on a {o.schedule} schedule, whose rates depend on their number "
            f"({_STEPS} differs); choose another --out"
        )
    kept = run.steps
    listed = ", ".join(map(str, kept)) or "none"
    if kept and kept[-1] > o.train_steps and o.train_steps not in kept:
        raise UserError(
            f"{folder}: cannot be cut to {o.train_steps} steps, which it has not kept (those that are: {listed})"
        )
    if run.finished and not kept:
        raise UserError(f"{folder}: has kept no step to go on from to {o.train_steps}; choose another --out")


def restate(stage: Stage, inputs: Mapping[str, str], start: int) -> None:
    """Write the run's settings over those of the same run with another number of steps, which had kept step `start`."""
    run = stage.run
    folder = stage.folder
    if start == 0 and RunFolder(folder).finished:
        raise UserError(f"{folder}: has kept no step that is whole; choose another --out")
    log.info(f"{folder}: becomes a run of {run.optimisation.train_steps} steps, from its step {start} on")
    runfile.write_claim(folder / RUN_FILE, run, CONVERTER, inputs)


# How far it got


def is_whole(stage: Stage) -> bool:
    """Whether the run has finished, and its weights are still there and can be opened."""
    folder = stage.folder
    if not (folder / FINISHED).exists():
        return False
    reason = None
    try:
        summary = RunFolder(folder).summary()
        if summary is None or summary.get("steps") != stage.run.optimisation.train_steps:
            return False
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


class FolderSeen(NamedTuple):
    """What one of several processes sees of a run in its folder."""

    has_begun: bool
    is_over: bool
    """Looked up by the first process alone."""
    precision: str | None
    """The one that a setting left out has there."""


def agreed(folder: Path, seen: Sequence[FolderSeen]) -> tuple[bool, bool]:
    """Whether a run has begun and is over as the first process sees it: what it wrote, others may see later.

    Raises `UserError` for processes that would train in other precisions.
    """
    precisions = list(dict.fromkeys(each.precision for each in seen))
    if len(precisions) > 1:
        raise UserError(
            f"{folder}: processes would train in different precisions ({', '.join(map(str, precisions))}); set "
            "--precision, and name a folder on a file system that all machines see"
        )
    return seen[0].has_begun, seen[0].is_over


def resume(folder: Path, steps: int, trained: Trained, parts: Mapping[str, Stateful]) -> int:
    """Restore the latest kept step that is whole, of at most `steps` steps, and return its number; 0 without one.

    A broken one is told of and passed over for the one before it. All processes are to call this. Raises `UserError`
    for a run whose steps were kept by an older version, and where not all processes see and read the same.
    """
    kept = kept_steps(folder)
    check_seen(folder, of_all(list(kept)))
    if not kept and has_old_steps(folder):
        raise UserError(
            f"{folder}: its checkpoints are of an older Contrapose and are not read any more; delete "
            f"{folder / CHECKPOINTS} to train from the start, or choose another --out"
        )
    for number, place in reversed(kept.items()):
        if number > steps:
            continue
        try:
            step = load_training(place / STATE_FILE, trained, **parts)
            if step != number:
                raise BrokenCheckpoint(f"{place}: is of step {step}")
            return step
        except BrokenCheckpoint as error:
            log.warning(f"{error}; carrying on from the one before it")
    return 0


def check_seen(folder: Path, kept: Sequence[Sequence[int]]) -> None:
    """Raise `UserError` where the processes of a run see other kept steps than one another, which each gives."""
    newest = [max(steps, default=0) for steps in kept]
    if any(steps != kept[0] for steps in kept):
        raise UserError(
            f"{folder}: processes see different kept steps (the newest are {', '.join(map(str, newest))}); name a "
            "folder on a file system that all machines see"
        )


def go_back_to(step: int, stage: Stage, held_out: Callable[[], Mapping[str, float]]) -> int:
    """Leave in the folder what a run of these settings leaves up to this step; `held_out` measures at it.

    Returns the last step that had been measured, of which trackers know.

    What was written after it goes, as do weights and card of an end that is none any more. The step's line may lack
    measurements that are due after a last one, and a line of what was a last step may have some that are not.
    """
    folder = stage.folder
    run = stage.run
    with suppress(UserError):  # of what is broken nothing is known to be another end's
        if (folder / FINISHED).is_file() and RunFolder(folder).summary() is None:
            _unfinish(folder, policy_folders(run) or ("",))
    forget_steps_after(folder, step)
    # a run that is not watched any more keeps the images that it has
    forget_images(folder, lambda number: number <= step and (is_watched(number, run) or not run.watching.draws))
    _prune(folder, run.watching)  # a kill may have come between keeping this step and letting others go

    def as_due(line: dict[str, Any]) -> dict[str, Any] | None:
        number = line["step"]
        if number > step:
            return None
        if run.watching.draws and not is_watched(number, run):
            line = {name: value for name, value in line.items() if not name.startswith(JUDGED)}
        left = {name: value for name, value in line.items() if not name.startswith(HELD_OUT)}
        if not is_measured(number, run):
            return left
        if number < step or len(left) < len(line):
            return line
        return in_order(left | {f"{HELD_OUT}{name}": value for name, value in held_out().items()})

    measured = RunFolder(folder).metrics()
    rewrite_metrics(folder / METRICS, as_due)
    return max((int(line["step"]) for line in measured), default=0)


def note_judged(folder: Path, step: int, judged: Mapping[str, float]) -> None:
    """Put what judges say of a step into its line, or into one of its own before the first step.

    What was said there of other prompts, or by other judges, goes.
    """
    lines = {line["step"]: line for line in RunFolder(folder).metrics()}
    said = {name: value for name, value in lines.get(step, {}).items() if name.startswith(JUDGED)}
    if not judged or said == judged:
        return
    if step not in lines:
        add_metrics(folder / METRICS, step, judged)
        return

    def with_judged(line: dict[str, Any]) -> dict[str, Any]:
        if line["step"] != step:
            return line
        unjudged = {name: value for name, value in line.items() if name not in said}
        return in_order({**unjudged, **judged})

    rewrite_metrics(folder / METRICS, with_judged)


def _unfinish(folder: Path, policies: tuple[str, ...]) -> None:
    """Remove the end of a run that goes on; what tells that there was one goes last."""
    card = folder / CARD
    if card.is_file() and not is_edited(card.read_text(encoding="utf-8", errors="surrogateescape")):
        card.unlink()
    for policy in policies:
        for name in (LORA_FILE, PEFT_FILE, PEFT_CONFIG, FULL_FOLDER):
            if (folder / policy / name).exists():
                discard(folder / policy / name)
    (folder / FINISHED).unlink()


def save_step(
    folder: Path, step: int, watching: Watching, trained: Trained, parts: Mapping[str, Stateful], together: bool = False
) -> None:
    """Keep a step, and of the earlier ones the latest that are due.

    With `together` all processes call this, since each holds a share of what is kept.
    """
    place = step_folder(folder, step)
    with replacing_together(place) if together else replacing(place) as aside:
        aside.mkdir(exist_ok=together)
        trained.write(aside, with_pipeline=False)
        save_training(aside / STATE_FILE, step, trained, **parts)
    if rank() == 0:
        _prune(folder, watching)


@contextmanager
def replacing_together(path: Path) -> Iterator[Path]:
    """`replacing` by the first of several processes; all write into what it yields, and leave when it is in place."""
    with replacing(path) if rank() == 0 else nullcontext(path) as place:
        (aside,) = broadcast_object_list([str(place)])
        yield Path(aside)
        wait_for_everyone()
    wait_for_everyone()


def _prune(folder: Path, watching: Watching) -> None:
    """Let steps go but for the latest, and the best one where a judge is to choose it."""

    def due(step: int) -> bool:
        return is_due(step, watching.save_every)

    best = best_of(folder, steps_due(folder, due)) if watching.keep_best else None
    write_best(folder, best)  # first, so that it names a step that is there
    prune(folder, watching.keep, due, [best.step] if best else [])


def finish(folder: Path, trained: Trained, summary: Mapping[str, Any]) -> None:
    """Write the weights, and then what tells that the run has come to its end; tell which kept step is the best.

    Where networks are cut up over processes, all of these call this.
    """
    trained.write(folder, with_pipeline=True)
    if rank() > 0:
        return
    write_text(folder / FINISHED, json.dumps(summary, indent=1))
    best = read_best(folder)
    if best is not None:
        log.info(f"{folder}: the best kept step, {folder}@best, is {best.sentence}")
