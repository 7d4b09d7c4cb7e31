"""A method's own groups: samples that a policy draws of the prompts while it trains, and what judges say of them.

A sample depends on (seed, its number, its place) and the policy's weights alone, and its scores on it and its prompt.
Of several processes each draws and judges its share, and all get all groups.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import fmean

import torch
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor

from contrapose.backbones.base import Backbone
from contrapose.backbones.generation import Generation
from contrapose.core.group import REWARD, Condition, OwnGroups
from contrapose.errors import UserError
from contrapose.judges.judge import Judge, Jury, PolicyJudgeSettings, images_at_once, in_batches, judge_of
from contrapose.judges.probes import AskedModel
from contrapose.pixels import to_pixels
from contrapose.processes import shared_out
from contrapose.runs.metrics import ROLLOUTS
from contrapose.seeds import generator, starting_noise
from contrapose.train.loop import Trainer
from contrapose.train.own_groups import DrawnGroup
from contrapose.worlds.judges import ImageJudge

log = logging.getLogger(__name__)


class JudgedRollouts:
    """Draws new groups into the buffer that training takes its groups from.

    Raises `UserError` for a judge whose weights are missing, and for scores that count and that no judge gives.
    """

    def __init__(self, settings: OwnGroups, trainer: Trainer, backbone: Backbone):
        assert trainer.groups.drawn is not None
        self.settings = settings
        self.every = settings.every
        self.run = trainer.run
        self.groups = trainer.groups
        self.drawn = trainer.groups.drawn
        self.trainable = trainer.trainable
        self.accelerator = trainer.accelerator
        self.backbone = backbone
        self.jury = Jury([self._judge(judge) for judge in self.run.judging.rollout_judges])
        self.weights = self.run.judging.weights(self.jury)
        self.inputs = {"rollout_judges": self.jury.version}
        self.shape = backbone.images.shape_for(settings.size)
        self.steps = settings.num_steps or backbone.sampler.steps

    def draw(self, step: int) -> dict[str, float]:
        """The new groups of an optimiser step, for all processes to draw together, and what is told of them.

        Raises `UserError` where the first groups are all tied, so that there is nothing to train on.
        """
        settings = self.settings
        # by the step alone, so that a run that is carried on draws of the prompts that come next
        first = step // self.every * settings.num_prompts
        numbers = range(first, first + settings.num_prompts)
        mine = dict(shared_out(numbers, self.accelerator.process_index, self.accelerator.num_processes))
        drawn = [group for group in self.groups_of(list(mine)) if mine[group.number]]
        new: list[DrawnGroup] = sorted(gather_object(drawn), key=lambda group: group.number)
        margin = settings.tie_margin
        decided = [group for group in new if margin is None or group.spread > margin]
        if len(decided) > settings.buffer_size and step == 0 and self.accelerator.is_main_process:
            log.warning(
                f"of the {len(decided)} groups of a draw the latest {settings.buffer_size} are kept (buffer), and the "
                "others were drawn and judged for nothing; raise buffer, or draw of fewer prompts"
            )
        self.drawn.add(decided, step * self.run.optimisation.batch_size)
        if not self.drawn.groups:
            raise UserError(self.all_tied(len(new)))
        metrics = {
            f"{ROLLOUTS}spread": fmean(group.spread for group in new),
            f"{ROLLOUTS}tied": 1 - len(decided) / len(new),
        }
        for name in (REWARD, *self.jury.higher_is_better):
            metrics[f"{ROLLOUTS}{name}"] = fmean(fmean(group.scores[name]) for group in new)
        return metrics

    def all_tied(self, num_groups: int) -> str:
        """What to do where no group is decided."""
        return (
            f"the judges make no difference between the {self.settings.num_samples} samples of any of {num_groups} "
            "prompts; draw more --samples-per-prompt or --prompts-per-draw, or set another judge or --tie-margin"
        )

    def groups_of(self, numbers: Sequence[int]) -> list[DrawnGroup]:
        """The groups of these numbers; their samples go through the network as many at once as in training."""
        num = self.settings.num_samples
        jobs = [(number, place) for number in numbers for place in range(num)]
        size = self.run.optimisation.micro_batch
        judged_together = -(-images_at_once(self.jury, size) // size) * size
        latents: list[Tensor] = []
        scores: dict[str, list[float]] = {}
        for first in range(0, len(jobs), judged_together):
            judged = jobs[first : first + judged_together]
            drawn = torch.cat([self._latents(judged[start : start + size]) for start in range(0, len(judged), size)])
            for name, values in self.scores_of(drawn, [number for number, _ in judged]).items():
                scores.setdefault(name, []).extend(values)
            latents += drawn.float().cpu().unbind()
        # the judges' images are made: the training step wants the autoencoder's memory
        self.backbone.images.rest()
        groups: list[DrawnGroup] = []
        for number, place in zip(numbers, range(0, len(jobs), num), strict=True):
            of_group = slice(place, place + num)
            said = {name: tuple(values[of_group]) for name, values in scores.items()}
            groups.append(DrawnGroup(number, self.groups.prompt_of(number), torch.stack(latents[of_group]), said))
        return groups

    def scores_of(self, latents: Tensor, numbers: Sequence[int]) -> dict[str, list[float]]:
        """What the judges say of samples under the prompts of these numbers, and the weighted sum, `REWARD`."""
        prompts = [self.groups.store.prompt(self.groups.prompt_of(number)) for number in numbers]
        decode = in_batches(self._images, self.run.optimisation.micro_batch)
        marks = self.jury.of_latents(latents, prompts, decode)
        scores: dict[str, list[float]] = {name: marks[name].values.tolist() for name in self.jury.higher_is_better}
        rewards = [0.0] * len(numbers)
        for name, weight in self.weights.items():
            for place, number in enumerate(scores[name]):
                rewards[place] += weight * number
        return scores | {REWARD: rewards}

    def _judge(self, settings: ImageJudge) -> Judge:
        """A judge, which may be the policy that draws, as it stands whenever it judges."""
        policy = self.settings.policy
        if isinstance(settings, PolicyJudgeSettings):
            read = partial(self.groups.condition, device=self.accelerator.device)
            asked = replace(AskedModel.of(self.backbone, self._predict), read=read)
            judge = settings.of_policy(asked, policy)
            if judge is not None:
                return judge
        return judge_of(settings, str(self.accelerator.device), self.run.model, self.backbone.fingerprint)

    def _predict(self, policy: str, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        with self._sampled(policy):
            return self.trainable.predict(policy, x_t, t, condition)

    @contextmanager
    def _sampled(self, policy: str) -> Iterator[None]:
        """The policy in evaluation, in the precision of training."""
        with self.trainable.sampled(policy), self.accelerator.autocast():
            yield

    @torch.no_grad()
    def _latents(self, batch: Sequence[tuple[int, int]]) -> Tensor:
        """What the stock pipeline draws with the policy as it stands, each sample from a stream of its own."""
        policy = self.settings.policy
        streams = [generator(self.run.seed, "own sample", number, place) for number, place in batch]
        records = self.groups.store.records
        texts = [records[self.groups.prompt_of(number)].prompt for number, _ in batch]
        generation = Generation(
            self._read(texts),
            self._read([None]),
            starting_noise(streams, self.shape),
            streams,
            self.steps,
            self._guidance_scale,
        )
        with self._sampled(policy):
            drawn: Tensor = self.backbone.sampler.generate(generation)
        return drawn

    @property
    def _guidance_scale(self) -> float:
        """The scale that is set; where that is off, what a network with guidance as an input is fed in training."""
        fed = self.backbone.denoiser.fed
        scale = self.settings.guidance_scale
        return fed if fed is not None and scale == 1 else self.backbone.sampler.checked_scale(scale)

    def _read(self, texts: Sequence[str | None]) -> Condition:
        """What the policy reads of prompts, or of none."""
        return self.trainable.read(self.settings.policy, self.groups.embeddings(texts))

    def _images(self, latents: Tensor) -> list[Image.Image]:
        # outside of autocast, which would take an autoencoder down to numbers that it leaves
        return [Image.fromarray(pixels) for pixels in to_pixels(self.backbone.images.decode(latents))]
