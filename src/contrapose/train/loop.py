"""The training loop: a generator that yields after every optimiser step; logging and saving are its caller's.

Nothing random is carried from step to step, so weights, moments, running numbers and the step's number are the whole
state of a run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from contrapose.backbones.denoiser import Trainable
from contrapose.backbones.dropout import words_of
from contrapose.core.group import Condition, Group
from contrapose.core.objective import Outcome
from contrapose.core.running import RunningNumbers
from contrapose.errors import UserError
from contrapose.processes import shared_out
from contrapose.seeds import seed_of
from contrapose.tensors import in_one_piece, is_cut
from contrapose.train.data import Groups, send
from contrapose.train.diagnostics import of_batch, of_held_out, settled
from contrapose.train.look_ahead import LookAhead
from contrapose.train.on_policy import Rollouts
from contrapose.train.optimizers import build_optimizer
from contrapose.train.reduction import reduction_of, summed
from contrapose.train.settings import Optimisation, Run

_FOLLOWED = "mean/"  # before the metrics that running numbers follow
log = logging.getLogger(__name__)
NUM_AHEAD = 2
"""Micro-batches that are prepared before the network is ready for them."""


class Diverged(UserError):
    """Training has left sense; the last checkpoint is the last good one."""


@dataclass(frozen=True)
class TrainState:
    """Where training stands after an optimiser step."""

    step: int
    metrics: dict[str, float]


class SampleSource(Protocol):
    """Draws samples of a policy's own into the buffer that groups take them from."""

    every: int
    """Optimiser steps from one draw to the next."""
    inputs: dict[str, str]
    """Digests of what decides it beside the settings, by what they are of."""

    def draw(self, step: int) -> dict[str, float]:
        """The new samples of an optimiser step, and what is told of them."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A micro-batch on the device."""

    group: Group
    size: int
    """Number of its groups that count: none of one that only keeps pace with other processes' micro-batches."""
    dropout: Tensor | None
    """Seeds of its positions for what adapters drop out, as `SeededRows` takes them; None where nothing does."""
    is_last: bool
    """Whether it is the last one of this process in its step."""


def learning_rate(o: Optimisation, step: int) -> float:
    """Rate of the step numbered from 0: linear warm-up, then constant, linear to 0, or cosine to 0.

    Differs from the authors' code: its warm-up, diffusers', takes the first step at rate 0; this is one step ahead.
    """
    if step < o.warmup:
        return o.learning_rate * (step + 1) / o.warmup
    share = (step - o.warmup) / max(o.train_steps - o.warmup, 1)
    if o.schedule == "linear":
        return o.learning_rate * (1 - share)
    if o.schedule == "cosine":
        return o.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
    return o.learning_rate


class Trainer:
    """Objective, policies and data under one optimiser.

    `num_ahead` micro-batches are prepared by a thread while the network works on another. Between two steps, when
    others measure, draw and save, it rests.
    """

    waited = 0.0
    """Seconds of all steps so far in which micro-batches were waited for."""

    def __init__(
        self, run: Run, trainable: Trainable, groups: Groups, accelerator: Accelerator, num_ahead: int = NUM_AHEAD
    ):
        self.run = run
        self.trainable = trainable
        self.groups = groups
        self.accelerator = accelerator
        self.num_ahead = num_ahead
        o = run.optimisation
        self.objective = replace(run.objective(), split=run.split_pairs)
        self.running = RunningNumbers(self.objective.running)
        if o.batch_size < o.micro_batch * accelerator.num_processes:
            raise UserError(
                f"batch_size {o.batch_size} leaves some of {accelerator.num_processes} processes without work"
            )
        self.rollouts: SampleSource | None = None
        self._of_first_draw: dict[str, float] | None = None
        on_policy = run.method.composition().on_policy
        if on_policy:
            assert groups.replay is not None
            self.rollouts = Rollouts(
                on_policy, groups, groups.replay, trainable.space, self._predict, o.micro_batch, accelerator
            )
        self.parameters = trainable.policies.parameters()
        self.reduction = reduction_of(self.parameters, accelerator)
        self.optimizer = accelerator.prepare_optimizer(build_optimizer(o, self.parameters, accelerator.device))
        self.policy_averages: dict[str, list[Tensor]] = {}
        for policy, following in self.objective.moving.items():
            # now, while every moving policy is the trainee: what was rounded of its weights is still to be had
            in_float32 = trainable.policies.average(policy) if following.mixes else {}
            if in_float32:
                self.policy_averages[policy] = list(in_float32.values())
        self.average: list[Tensor] = []
        if o.ema_decay:
            self.average = [parameter.detach().clone() for parameter in self.parameters]
        for module in trainable.policies.modules():
            module.train()
            if run.gradient_checkpointing:
                module.enable_gradient_checkpointing()

    def draw_first(self) -> None:
        """Draw what the first step draws now, so that samples of no use are told before anything is written."""
        if self.rollouts:
            log.info("drawing the first samples")
            self._of_first_draw = self.rollouts.draw(0)

    @property
    def is_sharded(self) -> bool:
        """Whether networks are cut up over processes, which then have to ask them together."""
        return is_cut(self.parameters[0])

    def steps(self, start: int = 0) -> Iterator[TrainState]:
        """Train from step `start` to the end, yielding after each step.

        Raises `Diverged` before the step is taken when loss or gradient is not finite or the trainee has drifted off.
        """
        end = self.run.optimisation.train_steps
        with LookAhead[Prepared](self.num_ahead) as look_ahead:
            micro_batches = look_ahead.over(self.prepared(range(start, self._next_draw(start))))
            for step in range(start, end):
                torch.manual_seed(seed_of(self.run.seed, "step", step))  # for anything random inside the network
                self._move_policies(step)
                of_draw: dict[str, float] = {}
                if self.rollouts and step % self.rollouts.every == 0:
                    drawn_already = self._of_first_draw if step == 0 else None
                    of_draw = self.rollouts.draw(step) if drawn_already is None else drawn_already
                    # whose samples are in the groups from now on, so that none is prepared before they are there
                    micro_batches = look_ahead.over(self.prepared(range(step, self._next_draw(step))))
                numbers = self._take(step, micro_batches)
                look_ahead.rest()
                self.waited = look_ahead.waited
                yield TrainState(step + 1, numbers | of_draw)

    def _next_draw(self, step: int) -> int:
        """The next step before which samples are drawn; the end where there is none."""
        end = self.run.optimisation.train_steps
        if self.rollouts is None:
            return end
        return min((step // self.rollouts.every + 1) * self.rollouts.every, end)

    def _take(self, step: int, micro_batches: Iterator[Prepared]) -> dict[str, float]:
        """Take one optimiser step, of the micro-batches up to its last one, and tell of it."""
        o = self.run.optimisation
        rate = learning_rate(o, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        metrics = self._accumulate(micro_batches)
        most = o.max_grad_norm or math.inf  # an infinite norm is measured, and scales by 1
        norm = in_one_piece(self.accelerator.clip_grad_norm_(self.parameters, most))
        numbers = settled(self._to_host({**metrics, "grad_norm": norm}))
        self._check(step, numbers)  # before the step, so that the weights are still those of the last good one
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.running.update({name: numbers[_FOLLOWED + name] for name in self.objective.running})
        if self.average:
            # A short memory at first (as in TensorFlow's averages), so that the start is soon forgotten. What is
            # trained is float32, and so is this: bf16's 8 bits would lose a share of 1 - decay below 1/256.
            decay = min(o.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return numbers | {"learning_rate": rate}

    def held_out(self) -> dict[str, float]:
        """Diagnostics on the held-out pairs; empty when there are none."""
        batches = self.groups.held_out_batches(self.run.optimisation.micro_batch)
        if not batches:
            return {}

        def measure(level: float) -> list[Outcome]:
            groups = (self.groups.held_out_batch(level, self.accelerator.device, batch) for batch in batches)
            with LookAhead[Group](self.num_ahead) as look_ahead:
                return [self._outcome(group) for group in look_ahead.over(groups)]

        return of_held_out(measure, self.run.swap)

    def _move_policies(self, step: int) -> None:
        """Bring the policies that follow the trainee to where they are before this step; all begin as the trainee."""
        if step == 0:
            return
        for policy, following in self.objective.moving.items():
            kept = following(step)
            if kept < 1:
                self.trainable.policies.copy(self.objective.trained[0], policy, kept)

    def prepared(self, steps: Iterable[int]) -> Iterator[Prepared]:
        """This process's share of each step's micro-batches, as many as every other process has."""
        o = self.run.optimisation
        acc = self.accelerator
        for step in steps:
            positions_of_step = range(step * o.batch_size, (step + 1) * o.batch_size)
            micro_batches = self.groups.micro_batches(positions_of_step, o.micro_batch)
            shares = shared_out(micro_batches, acc.process_index, acc.num_processes)
            for number, (positions, counts) in enumerate(shares, start=1):
                group = self.groups.training_batch(positions, acc.device)
                dropout: Tensor | None = None
                if self.run.adapters.lora_dropout:
                    seeds = [seed_of(self.run.seed, "dropout", position, bits=62) for position in positions]
                    dropout = send(words_of(seeds), acc.device)
                yield Prepared(group, len(positions) if counts else 0, dropout, number == len(shares))

    def _accumulate(self, micro_batches: Iterator[Prepared]) -> dict[str, Tensor]:
        """Gradients and metrics of one effective batch: of all processes' micro-batches up to the last ones."""
        batch_size = self.run.optimisation.batch_size
        policies = self.objective.part_policies
        sums: dict[str, Tensor] = {}
        for prepared in micro_batches:
            # adapters' inputs are left out, where the run asks for that, by the positions' own seeds
            seeds = prepared.dropout
            with nullcontext() if seeds is None else self.trainable.policies.rows.of(seeds):
                outcome = self._outcome(prepared.group)
                for place, part in enumerate(outcome.parts):
                    # a sum over the step's groups, whatever the micro-batches: divided by the batch, not their number
                    loss = part.sum() / batch_size
                    if not prepared.size:
                        loss = loss * 0
                    has_further_parts = policies[place] in policies[place + 1 :]
                    self.reduction.before_backward(prepared.is_last and not has_further_parts)
                    self.accelerator.backward(loss)
            followed = {_FOLLOWED + name: values.mean() for name, values in outcome.followed.items()}
            for name, value in (of_batch(outcome, self.run.swap) | followed).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value * prepared.size / batch_size
            if prepared.is_last:
                break
        self.reduction.finish()
        return summed(sums, self.accelerator)

    def _outcome(self, group: Group) -> Outcome:
        path = self.groups.path
        return self.objective(group, path, self.trainable.space, self._predict, self.running.values)

    def _predict(self, policy: str, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The policy's, under an autocast of its own, since a split pair's parts are predicted when asked for."""
        with self.accelerator.autocast():
            return self.trainable.predict(policy, x_t, t, condition)

    @staticmethod
    def _to_host(metrics: dict[str, Tensor]) -> dict[str, float]:
        """The one transfer of a step."""
        return dict(zip(metrics, torch.stack([m.float() for m in metrics.values()]).tolist(), strict=True))

    def _check(self, step: int, numbers: dict[str, float]) -> None:
        scaled = self.accelerator.scaler is not None  # a gradient scaler skips overflowing steps by itself
        strange = [n for n, value in numbers.items() if not math.isfinite(value) and not (scaled and n == "grad_norm")]
        if strange:
            raise Diverged(f"diverged at step {step + 1}: {', '.join(strange)} not finite; try a lower learning rate")
        if numbers.get("drift", 0.0) > self.run.watching.max_drift:
            raise Diverged(
                f"diverged at step {step + 1}: distance from the reference {numbers['drift']:.3g} passes max_drift "
                f"{self.run.watching.max_drift:g}; try a lower learning rate or a larger beta"
            )
