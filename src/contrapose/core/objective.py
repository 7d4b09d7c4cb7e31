"""THE page: a group of samples -> the predictions it needs -> implicit rewards -> a loss.

    predictions   every (policy, sample, prompt slot) that target and reward ask for, once, one stacked call a policy
    errors        mse(target, trainee) and mse(target, reference) for each side of the comparison
    rewards       r = (beta / 2) (mse(target, reference) - mse(target, trainee))                         reward.py
    loss          link(r, labels), times the weight of the noise level                                    links.py
    parts         losses with the loss's gradient, each backpropagated before the next: the loss itself, or one a sample

Every method of the field is a choice of samples, target, reference and link; see `contrapose.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor

from contrapose.core.group import Condition, Group, join
from contrapose.core.links import Link
from contrapose.core.path import Path, Space
from contrapose.core.reward import implicit_reward, mean_square
from contrapose.core.targets import Row, Target

Weighting = Literal["none", "linear", "sigmoid"]


@runtime_checkable
class Predict(Protocol):
    """A backbone's denoiser: the named policy's prediction, in the backbone's own space."""

    def __call__(self, policy: str, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one evaluation of the objective found; all detached but `parts`, and `loss` where it is the only part.

    The gradients of `parts` add up to that of `loss`. Each is to be backpropagated before the next is asked for, and
    they are read once; a part of several is no loss by its value.
    """

    loss: Float[Tensor, " b"]
    parts: Iterable[Float[Tensor, " b"]]
    rewards: Float[Tensor, "b n"]
    trainee_error: Float[Tensor, "b n"]
    reference_error: Float[Tensor, "b n"] | None
    drift: Float[Tensor, "b n"] | None  # mse(trainee, reference): how far the trainee has gone
    level: Float[Tensor, " b"]


def weight(kind: Weighting, level: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Loss weight of a noise level l = t / (T - 1): none 1; linear l; sigmoid sigma(20 l - 16.5) (DDSPO code)."""
    if kind == "linear":
        return level
    if kind == "sigmoid":
        return torch.sigmoid(20 * level - 16.5)
    return torch.ones_like(level)


@dataclass(frozen=True, eq=False)
class Scene:
    """A batch of groups at its noise level, and the denoiser of `space` that is asked about it in `measure`.

    Noise is shared by a group's samples, or, with one axis more, each one's own.
    """

    group: Group
    t: Num[Tensor, " b"]
    noise: Float[Tensor, "b ..."] | Float[Tensor, "b m ..."]
    path: Path
    space: Space
    measure: Space
    predict: Predict

    def ask(self, rows: Sequence[Row]) -> dict[Row, Tensor]:
        """One policy's predictions, in one stacked call."""
        x_t = [self.path.add_noise(*self._sample(row.sample), self.t) for row in rows]
        condition = join([self.group.prompts[row.slot] for row in rows])
        stacked = self.predict(rows[0].policy, torch.cat(x_t), self.t.repeat(len(rows)), condition)
        answers = stacked.float().chunk(len(rows))
        return {
            row: self.path.convert(answer, x, self.t, self.space, self.measure)
            for row, answer, x in zip(rows, answers, x_t, strict=True)
        }

    def truth(self, sample: int) -> Float[Tensor, "b ..."]:
        """What should be predicted for the noise that was added."""
        return self.path.truth(*self._sample(sample), self.t, self.measure)

    def _sample(self, sample: int) -> tuple[Tensor, Tensor]:
        """Its data and its noise."""
        own = self.noise.ndim == self.group.latents.ndim
        return self.group.latents[:, sample], self.noise[:, sample] if own else self.noise


def errors(truths: Sequence[Tensor], answers: Sequence[Tensor]) -> Float[Tensor, "b n"]:
    """mse(truth, answer), side by side."""
    return torch.stack([mean_square(truth - answer) for truth, answer in zip(truths, answers, strict=True)], 1)


@dataclass(frozen=True)
class Objective:
    """A method, made computable.

    `samples` names the sample that each side of the comparison looks at: (0, 1) for a pair, (0,) for a single, (0, 0)
    where both sides share one image. `trainees` and `slots` name the policy that is trained on each side and the prompt
    it is asked under. `space` is where errors are measured; None is the backbone's own. `split` takes
    the gradient one sample at a time: half a pair's activations, one forward of the trainee more, the same gradient.
    """

    target: Target
    link: Link
    beta: float
    samples: tuple[int, ...] = (0, 1)
    reference: str | None = "reference"
    weighting: Weighting = "none"
    space: Space | None = None
    split: bool = False
    trainees: tuple[str, ...] = ("trainee", "trainee")
    slots: tuple[str, ...] = ("prompt", "prompt")

    @property
    def trained(self) -> tuple[str, ...]:
        """The distinct policies that are trained."""
        return tuple(dict.fromkeys(self.trainees[: len(self.samples)]))

    @property
    def frozen(self) -> tuple[str, ...]:
        """The further policies that are asked, neither trained nor the reference."""
        return tuple(policy for policy in self.plan() if policy not in (*self.trained, self.reference))

    def trainee_rows(self) -> list[Row]:
        """Each side's prediction by the policy that is trained on it."""
        return [Row(self.trainees[side], sample, self.slots[side]) for side, sample in enumerate(self.samples)]

    def plan(self) -> dict[str, tuple[Row, ...]]:
        """The distinct predictions that one evaluation needs, by policy; frozen policies first."""
        trained = self.trainee_rows()
        rows = [self.target.row(side, sample) for side, sample in enumerate(self.samples)]
        rows += [row._replace(policy=self.reference) for row in trained if self.reference]
        distinct = dict.fromkeys(row for row in [*rows, *trained] if row)
        policies = sorted({row.policy for row in distinct}, key=lambda p: (p in self.trained, p))
        return {policy: tuple(row for row in distinct if row.policy == policy) for policy in policies}

    def __call__(
        self,
        group: Group,
        t: Num[Tensor, " b"],
        noise: Float[Tensor, "b ..."] | Float[Tensor, "b m ..."],
        path: Path,
        space: Space,
        predict: Predict,
    ) -> Outcome:
        """Loss and diagnostics of one batch of groups; gradients flow through the trainee alone."""
        scene = Scene(group, t, noise, path, space, self.space or space, predict)
        truths, references = self._constants(scene)
        reference_error = errors(truths, references) if references else None
        look = partial(self._look, scene, truths, reference_error)
        level, sides = path.level(t), range(len(self.samples))

        def score(rewards: Tensor) -> Tensor:
            return self.link(rewards, group.labels) * weight(self.weighting, level)

        trained = self.trainee_rows()
        by_row = [[side for side in sides if trained[side] == row] for row in dict.fromkeys(trained)]
        # Several trainees share one module: each is to be taken back before another is switched on.
        split = (self.split or len(self.trained) > 1) and len(by_row) > 1 and torch.is_grad_enabled()
        with torch.set_grad_enabled(torch.is_grad_enabled() and not split):
            rewards, trainee_error, answers = look(list(sides))
            loss = score(rewards)
        parts: Iterable[Tensor] = (loss,)
        if split:
            slopes = _slopes(score, rewards)
            parts = ((slopes[:, some] * look(some)[0]).sum(1) for some in by_row)
        drift = errors([answer.detach() for answer in answers], references) if references else None
        return Outcome(loss, parts, rewards.detach(), trainee_error.detach(), reference_error, drift, level)

    @torch.no_grad()
    def _constants(self, scene: Scene) -> tuple[list[Tensor], list[Tensor]]:
        """What no step changes: the truth for each side, and the reference's answer if there is a reference."""
        known = {
            row: answer
            for policy, rows in self.plan().items()
            if policy not in self.trained
            for row, answer in scene.ask(rows).items()
        }
        rows = [self.target.row(side, sample) for side, sample in enumerate(self.samples)]
        truths = [known[row] if row else scene.truth(s) for row, s in zip(rows, self.samples, strict=True)]
        references = [row._replace(policy=self.reference) for row in self.trainee_rows()] if self.reference else []
        return truths, [known[row] for row in references]

    def _look(
        self, scene: Scene, truths: list[Tensor], reference_error: Tensor | None, sides: list[int]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"], list[Tensor]]:
        """The trainee's rewards on these sides, its errors, and its answers."""
        rows = [self.trainee_rows()[side] for side in sides]
        found: dict[Row, Tensor] = {}
        for policy in dict.fromkeys(row.policy for row in rows):
            found |= scene.ask([row for row in dict.fromkeys(rows) if row.policy == policy])
        answers = [found[row] for row in rows]
        error = errors([truths[side] for side in sides], answers)
        against = None if reference_error is None else reference_error[:, sides]
        return implicit_reward(self.beta, error, against), error, answers


def _slopes(score: Callable[[Tensor], Tensor], rewards: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """d loss / d r."""
    rewards = rewards.detach().requires_grad_()
    return torch.autograd.grad(score(rewards).sum(), rewards)[0]
