"""An alignment run, from its settings to its weights; run it again to carry on, or to do nothing when complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs

from contrapose.backbones.base import Backbone
from contrapose.backbones.coherence import check_space
from contrapose.backbones.denoiser import Denoiser, Trainable
from contrapose.backbones.embeddings import Embeddings
from contrapose.backbones.families.table import Unread, load_backbone
from contrapose.backbones.loading import DTYPES
from contrapose.backbones.speed import hasten
from contrapose.backbones.trained_text import NumberedPrompts
from contrapose.core.group import OwnSteps
from contrapose.errors import UserError
from contrapose.files import check_folder, one_writer
from contrapose.methods import name_of
from contrapose.processes import LONGEST_WAIT, check_engine, may_meet_in_vain, num_processes, of_all, rank, together
from contrapose.progress import Progress, untold
from contrapose.runs.folder import RunFolder
from contrapose.runs.metrics import CLOCK, HELD_OUT, add_metrics
from contrapose.runs.names import BASE_NOTE, METRICS, RUN_FILE
from contrapose.runs.origin import public_name
from contrapose.runs.steps import kept_steps
from contrapose.runs.training_state import Moments, Scaler, Stateful, Weights
from contrapose.runs.watched import watched_folder
from contrapose.store.groups import GroupStore
from contrapose.store.mixture import Mixture
from contrapose.train.comparable import comparable
from contrapose.train.data import Groups
from contrapose.train.folder import (
    FolderSeen,
    agreed,
    claim,
    finish,
    go_back_to,
    holds_other_steps,
    inputs_of,
    is_due,
    is_measured,
    is_watched,
    is_whole,
    note_judged,
    restate,
    resume,
    save_step,
    settled_stages,
)
from contrapose.train.judged_rollouts import JudgedRollouts
from contrapose.train.loop import Diverged, Trainer, TrainState
from contrapose.train.settings import Run
from contrapose.train.sharding import check_sharding, shard
from contrapose.train.stages import Stage
from contrapose.train.step_rollouts import StepRollouts
from contrapose.train.texts import settle_together
from contrapose.train.trackers import Trackers, check_installed
from contrapose.train.trained import Trained
from contrapose.train.watch import Watched, Watcher, jury_of

log = logging.getLogger(__name__)


def align(run: Run, out: Path) -> Iterator[TrainState]:
    """Train all of a run's stages, yielding as `align_stage` does."""
    for stage in settled_stages(run, out):
        yield from align_stage(stage)


def align_stage(stage: Stage, progress: Progress = untold) -> Iterator[TrainState]:
    """Train, yielding after each optimiser step (the first state tells where a resumed run starts).

    `progress` is told of the reading of prompts, which comes before.

    Writes `run.yaml`, `metrics.jsonl`, what trackers keep, checkpoints, and at the end the weights and `finished.json`;
    of several processes the first one does, and of networks in shards each its own. Raises `UserError` for pairs of
    another model, other settings or other content of what they name in the folder, a folder that another command is
    writing or that not all processes see, or divergence.
    """
    # first of all, so that what one process fails at ends all, and what is done goes by the files that one of them sees
    accelerator = _accelerator(stage.run)
    with ExitStack() as held:
        with together():
            check_folder(stage.folder)
            if rank() == 0:
                held.enter_context(one_writer(stage.folder))
        yield from _align_alone(stage, accelerator, progress)


def _align_alone(stage: Stage, accelerator: Accelerator, progress: Progress) -> Iterator[TrainState]:
    run = stage.run
    out = stage.folder
    is_first = rank() == 0
    with together():
        pairs = Mixture(run.pairs)
        if stage.then is not None:
            comparable(pairs, stage.then)  # refused now, and not when this run has been trained for it
        compared = comparable(pairs, run)
        begun = (out / RUN_FILE).exists()
        inputs = inputs_of(stage, pairs) if is_first else {}
        has_other_steps = is_first and holds_other_steps(stage, inputs)
        is_over = begun and is_first and is_whole(stage)
    # another machine may see later what the first process has written
    begun, is_over = agreed(out, of_all(FolderSeen(begun, is_over, run.precision)))
    if is_over:
        log.info(f"{out}: had finished already")
        yield TrainState(run.optimisation.train_steps, {})
        return
    with together():
        _check_here(accelerator, run)
        jury_of(run.watching, str(accelerator.device))  # missing weights are told now, not at the first image
    torch.manual_seed(run.seed)  # LoRA's initial weights
    with together():
        backbone = _backbone(run, accelerator)
    watched = Watched(run.watching, backbone) if run.watching.draws else None
    trainer = _trainer(stage, compared, accelerator, backbone, watched, is_new=not begun, progress=progress)
    if is_first:
        # only now: a mistyped model or folder of pairs leaves nothing that refuses its fix, judges are known, and they
        # see differences
        inputs |= trainer.rollouts.inputs if trainer.rollouts else {}
        claim(stage, inputs)
    notes = {"base": public_name(run.model), "method": name_of(run.method), BASE_NOTE: trainer.trainable.fingerprint}
    trained = Trained(trainer.trainable, trainer.average, notes)
    parts = _parts(trainer)
    watcher = Watcher(out, watched, backbone, trainer, trained) if watched is not None else None
    start = resume(out, run.optimisation.train_steps, trained, parts)
    accelerator.wait_for_everyone()  # before the first process writes what the others read
    held_out = _held_out_at(start, trainer)
    measured = 0
    if is_first:
        if has_other_steps:
            restate(stage, inputs, start)
        measured = go_back_to(start, stage, held_out)
    yield TrainState(start, {})
    try:
        with Trackers(stage, start, measured) if is_first else nullcontext() as trackers:
            yield from _recorded(trainer, start, out, trained, parts, watcher, trackers)
    except Diverged as error:
        kept = list(kept_steps(out).values())
        raise Diverged(f"{out}: {error}; the last good checkpoint is {kept[-1] if kept else 'none yet'}") from None
    if is_first or trainer.is_sharded:
        finish(out, trained, _summary(trainer, out))
    accelerator.wait_for_everyone()  # the next stage begins at these weights


def _held_out_at(step: int, trainer: Trainer) -> Callable[[], Mapping[str, float]]:
    """How the first process measures the held-out pairs where a run begins or goes on, if that is needed."""
    if trainer.is_sharded and is_measured(step, trainer.run):
        # now and together, since networks in shards answer all processes alone
        return partial(dict, trainer.held_out())
    return trainer.held_out


def _watch_start(watcher: Watcher, start: int, trackers: Trackers | None) -> None:
    """Draw and judge where a run begins or goes on, unless that was done before it was killed."""
    watcher.accelerator.wait_for_everyone()  # until what is not of this step has left the folder
    is_new = not watched_folder(watcher.out, start).exists()
    judged = watcher(start)
    if trackers:
        note_judged(watcher.out, start, judged)
        trackers.send(start, judged, is_new)


def _lacks_gpu(run: Run) -> bool:
    return run.precision == "fp16" and not torch.cuda.is_available()


def _accelerator(run: Run) -> Accelerator:
    """Accelerate by the precision of this run, whichever runs the process had before."""
    check_engine()
    # one that lacks its GPU may be over, and is refused otherwise
    precision = "no" if run.computes_in == "fp32" or _lacks_gpu(run) else run.computes_in
    waiting = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    at_once = GradientAccumulationPlugin(num_steps=1)  # whatever accelerate's variables say: the loop adds gradients up
    try:
        return Accelerator(mixed_precision=precision, gradient_accumulation_plugin=at_once, kwargs_handlers=[waiting])
    except ValueError:
        # it takes a process's first precision for all that follow; what knows of the other processes stays
        AcceleratorState._reset_state()
        return Accelerator(mixed_precision=precision, gradient_accumulation_plugin=at_once, kwargs_handlers=[waiting])


def _check_here(accelerator: Accelerator, run: Run) -> None:
    """Raise `UserError` where a GPU, a tracker's package or a newer torch is missing that the run needs.

    And for several processes that do not know of each other, which would each do all of the work.
    """
    if _lacks_gpu(run):
        raise UserError("precision fp16 needs a GPU; use bf16 or fp32 here")
    check_installed(run.watching.trackers)
    if num_processes() != accelerator.num_processes:
        raise UserError(
            f"{num_processes()} processes were started that do not know of each other; on CPUs set "
            "ACCELERATE_USE_CPU=true, or start 'contrapose align' once"
        )
    if accelerator.num_processes > 1:
        log.info(f"training over {accelerator.num_processes} processes")
    if may_meet_in_vain():
        fix = "give torchrun --rdzv-backend c10d, and set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for it"
        log.warning(f"processes that torchrun starts again may wait for one another in vain; {fix}")
    check_sharding(run.sharding, accelerator.num_processes)


def _backbone(run: Run, accelerator: Accelerator) -> Backbone:
    dtype = DTYPES[run.computes_in]
    finer = torch.float32 if run.full else dtype
    # of networks in shards the first process alone has all values
    unread: list[Unread] = ["denoiser"] if rank() != 0 and _is_sharded(run, accelerator) else []
    backbone = load_backbone(
        run.model, dtype, accelerator.device, loading=run.loading, network_dtype=finer, without_values=unread
    )
    if run.distilled_guidance is not None:
        backbone.denoiser.feed_guidance(run.distilled_guidance)
    return backbone


def _trainer(
    stage: Stage,
    store: Mixture,
    accelerator: Accelerator,
    backbone: Backbone,
    watched: Watched | None,
    is_new: bool = False,
    progress: Progress = untold,
) -> Trainer:
    """The loop of a stage over its groups; of a new run with the first samples drawn, where any are."""
    run = stage.run
    composition = run.method.composition()
    measured = run.method.objective().space or backbone.denoiser.space
    own_groups = composition.own_groups
    # a state of a trajectory is told as data and noise, wherever it lies
    needs_data = composition.on_policy is not None or isinstance(own_groups, OwnSteps)
    check_space(backbone.denoiser, "x0" if needs_data else measured)
    if own_groups is None:
        _check_origin(run, store, backbone)
    shape = backbone.images.shape_for(own_groups.size) if own_groups else store.usual_shape
    path = backbone.denoiser.noising(shape, run.time_density, run.time_shift == "scheduler")
    prompts = NumberedPrompts() if run.adapters.train_text_encoder else None
    embeddings = prompts or Embeddings(backbone.text, run.cache_limit)
    holdout = run.watching.holdout
    spread = run.time_draws == "spread"
    groups = Groups(
        store, composition, embeddings, path, run.seed, holdout, run.swap, run.caption_dropout, run.mask_floor, spread
    )
    needs_encoders = True
    if isinstance(embeddings, Embeddings):
        settled = settle_together(embeddings, groups.prompts, progress)
        log.info(settled.line)
        needs_encoders = settled.encoders_needed
        if watched is not None:
            # after the pairs' own, so that these are read as they are without them
            needs_encoders |= embeddings.settle(watched.texts()).encoders_needed
    else:
        embeddings(list(groups.prompts()))  # numbered in one order, wherever the run is resumed
        log.info("text encoders are trained: they stay in memory, and embeddings are made at every step")
    backbone.release_encoders(keep_text=needs_encoders, keep_images=watched is not None or own_groups is not None)
    dtype = DTYPES[run.computes_in]
    is_sharded = _is_sharded(run, accelerator)
    with together():
        trainable = _trainable(stage, backbone.denoiser, dtype, prompts, placed=not is_sharded)
        hasten(trainable.policies.networks(), run.speed, dtype, backbone.device, trained=True)
    if is_sharded:
        shard(trainable.policies, run, dtype, accelerator)
    trainer = Trainer(run, trainable, groups, accelerator)
    if own_groups:
        rollouts = StepRollouts if isinstance(own_groups, OwnSteps) else JudgedRollouts
        trainer.rollouts = rollouts(own_groups, trainer, backbone)
    if is_new:
        trainer.draw_first()
    return trainer


def _is_sharded(run: Run, accelerator: Accelerator) -> bool:
    return run.sharding.shard != "none" and accelerator.num_processes > 1


def _trainable(
    stage: Stage, denoiser: Denoiser, dtype: torch.dtype, prompts: NumberedPrompts | None, placed: bool
) -> Trainable:
    """The policies that the method trains, and those that it asks."""
    run = stage.run
    objective = run.objective()
    frozen: dict[str, Path | None] = dict(stage.policies)
    frozen.update(dict.fromkeys(objective.moving))
    if run.full:
        needs_reference = "reference" in objective.plan()
        return denoiser.full(dtype, needs_reference, objective.trained, stage.start, frozen, placed)
    adapters = run.adapters
    if stage.start != run.start:
        # an earlier stage of this run has put its adapters where the setting says
        adapters = replace(adapters, lora_targets=None)
    settings = (run.lora_rank, run.lora_alpha, objective.trained, stage.start, frozen, adapters)
    return denoiser.lora(*settings, prompts=prompts, placed=placed)


def _check_origin(run: Run, mixture: Mixture, backbone: Backbone) -> None:
    for store in mixture.stores:
        assert isinstance(store, GroupStore), "a method that takes pairs was refused prompts alone"
        drawn_with = store.manifest.get("fingerprint")
        if drawn_with != backbone.fingerprint and not run.foreign_pairs:
            raise UserError(
                f"{store.folder}: these pairs were drawn with another model ({drawn_with}) than {run.model} "
                f"({backbone.fingerprint}); draw pairs with this one, or accept them with --foreign-pairs"
            )
        _check_shapes(store, run.model, backbone)


def _check_shapes(store: GroupStore, model: str, backbone: Backbone) -> None:
    channels, *sides = backbone.images.latent_shape
    patch = backbone.images.patch
    for shape in store.shapes:
        if len(shape) != 1 + len(sides) or shape[0] != channels or any(side % patch for side in shape[1:]):
            raise UserError(
                f"{store.folder}: latents of shape {list(shape)} do not fit {model}, which takes "
                f"{[channels, *('*' for _ in sides)]} with sides that are multiples of {patch}"
            )


def _parts(trainer: Trainer) -> dict[str, Stateful]:
    """What training needs to go on beyond the weights that are loadable."""
    parts: dict[str, Stateful] = {"optimizer": Moments(trainer.optimizer)}
    if trainer.average:  # which is what is loadable
        parts["trainee"] = Weights(trainer.parameters)
    if trainer.accelerator.scaler is not None:
        parts["scaler"] = Scaler(trainer.accelerator.scaler)
    for policy in trainer.objective.moving:
        parts[policy] = Weights(trainer.trainable.policies.frozen_parameters(policy))
    for policy, average in trainer.policy_averages.items():
        # beside the rounded weights: a policy that keeps all of its own is not rounded again before it predicts
        parts[f"{policy}.average"] = Weights(average)
    if trainer.objective.running:
        parts["running"] = trainer.running
    if trainer.groups.replay is not None:
        parts["replay"] = trainer.groups.replay
    if trainer.groups.drawn is not None:
        parts["drawn"] = trainer.groups.drawn
    return parts


def _recorded(
    trainer: Trainer,
    start: int,
    out: Path,
    trained: Trained,
    parts: Mapping[str, Stateful],
    watcher: Watcher | None,
    trackers: Trackers | None,
) -> Iterator[TrainState]:
    """The loop's states, with held-out diagnostics, written down as they come."""
    run = trainer.run
    main = trainer.accelerator.is_main_process
    if watcher is not None and is_watched(start, run):
        _watch_start(watcher, start, trackers)
    clock = time.monotonic()
    for state in trainer.steps(start):
        metrics = state.metrics
        if is_measured(state.step, run):
            metrics |= {f"{HELD_OUT}{name}": value for name, value in trainer.held_out().items()}
        if watcher is not None and is_watched(state.step, run):
            metrics |= watcher(state.step)
        now = time.monotonic()
        if trackers:
            # the time of the held-out measurement counts, the caller's between two steps does too
            timed = metrics | {CLOCK: now - clock}
            # sent first: of what is not in the file, no tracker is taken to know when the run goes on
            trackers.send(state.step, timed)
            add_metrics(out / METRICS, state.step, timed)
        clock = now
        is_kept = is_due(state.step, run.watching.save_every) or state.step == run.optimisation.train_steps
        if is_kept and (main or trainer.is_sharded):
            save_step(out, state.step, run.watching, trained, parts, together=trainer.is_sharded)
        yield state


def _summary(trainer: Trainer, out: Path) -> dict[str, Any]:
    """What a run tells of itself at its end."""
    seconds = sum(line.get(CLOCK, 0.0) for line in RunFolder(out).metrics())
    num_parameters = sum(parameter.numel() for parameter in trainer.parameters)
    return {
        "steps": trainer.run.optimisation.train_steps,
        "seconds": seconds,
        "trained_parameters": num_parameters,
        "training_pairs": len(trainer.groups.training),
        "held_out_pairs": len(trainer.groups.held_out),
        BASE_NOTE: trainer.trainable.fingerprint,
    }
