"""Samples of the policy itself: rollouts of an earlier copy of the trainee, which follows it on a schedule.

A rollout depends on (seed, its number) and that policy's weights alone, and the state that a training position
gets on (seed, position) and the buffer; a resumed run, which has weights and buffer back, goes on as if never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from contrapose.core.choices import Space
from contrapose.core.group import OnPolicy
from contrapose.core.objective import Predict
from contrapose.core.solver import grid, trajectory
from contrapose.processes import shared_out
from contrapose.seeds import starting_noise
from contrapose.train.data import Groups, send
from contrapose.train.replay import Replay, Rollout


class Rollouts:
    """Draws new rollouts into the buffer that the groups take their own samples from.

    Of several processes each draws its share of the batches that one alone would draw, and all get all rollouts.
    """

    every = 1

    def __init__(
        self,
        settings: OnPolicy,
        groups: Groups,
        replay: Replay,
        space: Space,
        predict: Predict,
        size: int,
        accelerator: Accelerator,
    ):
        self.settings = settings
        self.groups = groups
        self.replay = replay
        self.space = space
        self.predict = predict
        self.size = size
        self.accelerator = accelerator
        self.inputs: dict[str, str] = {}

    def draw(self, step: int) -> dict[str, float]:
        """The new rollouts of an optimiser step, for all processes to draw together; there is nothing to tell of them.

        At most `size` are drawn at once.
        """
        num = self.settings.num_rollouts
        batches = self.groups.rollout_batches(range(step * num, (step + 1) * num), self.size)
        acc = self.accelerator
        mine: list[tuple[int, Rollout]] = []
        for numbers, counts in shared_out(batches, acc.process_index, acc.num_processes):
            rollouts = self._roll_out(numbers, acc.device)
            if counts:
                mine += zip(numbers, rollouts, strict=True)
        new: dict[int, Rollout] = dict(gather_object(mine))
        self.replay.add([new[number] for number in sorted(new)])
        return {}

    def _roll_out(self, numbers: Sequence[int], device: torch.device) -> list[Rollout]:
        """DPM-Solver++ without guidance, each rollout on a grid of its own offset."""
        path = self.groups.path
        seen = self.groups.rollout_batch(numbers, device)
        offsets = torch.cat([torch.rand(1, generator=stream) for stream in seen.streams])
        times = send(path.times(grid(self.settings.num_steps, offsets)), device)

        def denoised(x_t: Tensor, t: Tensor) -> Tensor:
            prediction = self.predict(self.settings.policy, x_t, t, seen.condition).float()
            return path.convert(prediction, x_t, t, self.space, "x0")

        noise = send(starting_noise(seen.streams, seen.shape), device)
        states = list(trajectory(path, times, noise, denoised))
        if self.settings.renoised:
            states = states[-1:]
        kept = min(self.settings.num_states, len(states))
        chosen = torch.stack([torch.randperm(len(states), generator=stream)[:kept] for stream in seen.streams])
        t = _pick([state.t for state in states], chosen)
        x_t = _pick([state.x_t for state in states], chosen)
        x0 = _pick([state.x0 for state in states], chosen)
        return [
            # a copy, since a row takes the whole batch along to other processes
            Rollout(record, blank, t[i].clone(), x0[i].clone(), path.convert(x0[i], x_t[i], t[i], "x0", "eps"))
            for i, (record, blank) in enumerate(zip(seen.records, seen.blank, strict=True))
        ]


def _pick(values: list[Tensor], chosen: Tensor) -> Tensor:
    """Of n values [b, ...] each row's chosen ones, [b, k, ...], on the CPU."""
    by_row = torch.stack([value.cpu() for value in values], 1)
    return by_row[torch.arange(len(by_row))[:, None], chosen]
