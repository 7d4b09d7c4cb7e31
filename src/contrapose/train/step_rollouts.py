"""A method's own steps: trajectories of a stochastic sampler, whose steps are judged by what they lead to.

A trajectory depends on (seed, its number) and the policy's weights alone, and so does what is kept of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from contrapose.core.group import REWARD, Condition, OwnSteps
from contrapose.core.solver import grid
from contrapose.core.transitions import Fork, Step, forks, implied, reward_scale
from contrapose.seeds import generator, starting_noise
from contrapose.store.ranking import ranked
from contrapose.train.data import send
from contrapose.train.judged_rollouts import JudgedRollouts
from contrapose.train.own_groups import DrawnGroup, TakenStep

Place = tuple[int, int]  # a trajectory of a fork, and one of its candidates


class StepRollouts(JudgedRollouts):
    """Draws groups of two steps: the best and the worst candidate for one step, or one of each of two trajectories."""

    settings: OwnSteps

    def all_tied(self, num_groups: int) -> str:
        return (
            f"the judges make no difference between the best and the worst of any of {num_groups} steps; draw more "
            "--prompts-per-draw, or set another judge or --tie-margin"
        )

    def groups_of(self, numbers: Sequence[int]) -> list[DrawnGroup]:
        """The groups of these numbers; as many states go through the network at once as in training."""
        size = max(1, self.run.optimisation.micro_batch // self.settings.num_samples)
        take = self._whole if self.settings.first_fork is None else self._forked
        groups: list[DrawnGroup] = []
        for start in range(0, len(numbers), size):
            with self.trainable.sampled(self.settings.policy):
                groups += take(numbers[start : start + size])
        self.backbone.images.rest()
        # those of each number one after the other, however many numbers were drawn at once
        return sorted(groups, key=lambda group: group.number)

    def _forked(self, numbers: Sequence[int]) -> Iterator[DrawnGroup]:
        """Of each fork the best and the worst candidate, by the data that are predicted in them."""
        num = self.settings.num_samples
        streams = [generator(self.run.seed, "own steps", number) for number in numbers]
        noise = starting_noise(streams, self.shape)
        judged = [number for number in numbers for _ in range(num)]
        # earlier steps have one candidate, and nothing to be compared with
        for fork in list(self._trajectories(numbers, streams, noise))[self.settings.first_fork :]:
            scores = self.scores_of(fork.x0.flatten(0, 1), judged)
            for row, number in enumerate(numbers):
                of_row = {name: values[row * num : (row + 1) * num] for name, values in scores.items()}
                yield self._group(number, fork, [(row, candidate) for candidate in range(num)], of_row)

    def _whole(self, numbers: Sequence[int]) -> Iterator[DrawnGroup]:
        """For each step of a prompt's trajectories those of the best and the worst, by the data at their ends."""
        num = self.settings.num_samples
        jobs = [(number, place) for number in numbers for place in range(num)]
        streams = [generator(self.run.seed, "own steps", number, place) for number, place in jobs]
        # trajectories of one prompt begin at one noise, and part at their first step
        shared = starting_noise([generator(self.run.seed, "own steps", number) for number in numbers], self.shape)
        of_jobs = [number for number, _ in jobs]
        taken = list(self._trajectories(of_jobs, streams, shared.repeat_interleave(num, 0)))
        scores = self.scores_of(taken[-1].x0[:, 0], of_jobs)
        for row, number in enumerate(numbers):
            rows = range(row * num, (row + 1) * num)
            of_row = {name: values[rows.start : rows.stop] for name, values in scores.items()}
            for fork in taken:
                yield self._group(number, fork, [(trajectory, 0) for trajectory in rows], of_row)

    def _trajectories(
        self, numbers: Sequence[int], streams: Sequence[torch.Generator], noise: Tensor
    ) -> Iterator[Fork]:
        """Trajectories from this noise under the prompts of these numbers, with chance from a stream for each."""
        device = self.accelerator.device
        path = self.groups.path
        times = send(path.times(grid(self.steps, torch.ones(len(numbers)))), device)

        def draw(width: int) -> Tensor:
            drawn = [torch.randn((width, *self.shape), generator=stream) for stream in streams]
            return send(torch.stack(drawn), device)

        def choose(width: int) -> Tensor:
            chosen = [torch.randint(width, (), generator=stream) for stream in streams]
            return send(torch.stack(chosen), device)

        predicted = self._predicted_under(numbers)
        widths = self.settings.widths(self.steps)
        return forks(path, times, send(noise, device), predicted, self.settings.eta, widths, draw, choose)

    def _predicted_under(self, numbers: Sequence[int]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Data and noise as the policy predicts them under these prompts, guided where that is set."""
        path = self.groups.path
        space = self.trainable.space
        scale = self.settings.guidance_scale
        texts = [self.groups.store.records[self.groups.prompt_of(number)].prompt for number in numbers]
        rows = 1 if scale == 1 else 2

        # steps have one candidate or all of them: each condition is made once, and not at every step
        @cache
        def condition_of(width: int) -> Condition:
            # the candidates of one trajectory after another, and without a prompt after all of them
            asked: list[str | None] = [text for text in texts for _ in range(width)]
            asked += [None] * (len(asked) * (rows - 1))
            return self.groups.condition(asked, self.accelerator.device)

        def predicted(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            condition = condition_of(len(x) // len(texts))
            with self.accelerator.autocast():
                answers = self.trainable.predict(
                    self.settings.policy, x.repeat(rows, *[1] * (x.ndim - 1)), t.repeat(rows), condition
                )
            prediction, *blank = answers.float().chunk(rows)
            if blank:
                prediction = scale * prediction + (1 - scale) * blank[0]
            return path.convert(prediction, x, t, space, "x0"), path.convert(prediction, x, t, space, "eps")

        return predicted

    def _group(
        self, number: int, fork: Fork, places: Sequence[Place], scores: Mapping[str, Sequence[float]]
    ) -> DrawnGroup:
        """The best and the worst of these steps of a fork, each as the data and the noise that it implies."""
        order = ranked(scores[REWARD]).order
        best = order[0]
        worst = order[-1]
        rows = [places[best][0], places[worst][0]]
        candidates = [places[best][1], places[worst][1]]
        path = self.groups.path
        step = Step(*(part[rows] for part in fork.step))
        t = fork.t[rows]
        x0, eps = implied(path, step, t, fork.x_t[rows], fork.candidates[rows, candidates])
        # best and worst are steps from one time, which have one scale
        scale = reward_scale(path, step, t, self.trainable.space)
        taken = TakenStep(t[0].cpu(), eps.cpu(), scale[0].cpu())
        said = {name: (values[best], values[worst]) for name, values in scores.items()}
        return DrawnGroup(number, self.groups.prompt_of(number), x0.cpu(), said, taken)
