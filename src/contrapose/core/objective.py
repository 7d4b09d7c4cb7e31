"""THE page: a group of samples -> the predictions it needs -> implicit rewards -> a loss.

    predictions   every (policy, sample, prompt slot) that target and reward ask for, once, one stacked call a policy
    errors        mse(target, trainee) and mse(target, reference) for each side of the comparison
    rewards       r = (beta / 2) (mse(target, reference) - mse(target, trainee))                         reward.py
    loss          link(r, labels), times the weight of the noise level                                    links.py

Every method of the field is a choice of samples, target, reference and link; see `contrapose.methods`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor

from contrapose.core.group import Condition, Group
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
    """What one evaluation of the objective found; all but the loss detached."""

    loss: Float[Tensor, " b"]
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


@dataclass(frozen=True)
class Objective:
    """A method, made computable.

    `samples` names the sample that each side of the comparison looks at: (0, 1) for a pair, (0,) for a single, (0, 0)
    where both sides share one image. `space` is where errors are measured; None is the backbone's own.
    """

    target: Target
    link: Link
    beta: float
    samples: tuple[int, ...] = (0, 1)
    reference: str | None = "reference"
    weighting: Weighting = "none"
    space: Space | None = None

    def plan(self) -> dict[str, tuple[Row, ...]]:
        """The distinct predictions that one evaluation needs, by policy; frozen policies first."""
        rows = [self.target.row(side, sample) for side, sample in enumerate(self.samples)]
        rows += [Row(p, s, "prompt") for p in (self.reference, "trainee") if p for s in self.samples]
        distinct = dict.fromkeys(row for row in rows if row)
        policies = sorted({row.policy for row in distinct}, key=lambda p: (p == "trainee", p))
        return {policy: tuple(row for row in distinct if row.policy == policy) for policy in policies}

    def __call__(
        self,
        group: Group,
        t: Num[Tensor, " b"],
        noise: Float[Tensor, "b ..."],
        path: Path,
        space: Space,
        predict: Predict,
    ) -> Outcome:
        """Loss and diagnostics of one batch of groups; gradients flow through the trainee alone."""
        x_t = [path.add_noise(group.latents[:, s], noise, t) for s in range(group.latents.shape[1])]
        predictions = self._predictions(group, x_t, t, predict)
        measure = self.space or space

        def as_measured(prediction: Tensor, sample: int) -> Tensor:
            return path.convert(prediction.float(), x_t[sample], t, space, measure)

        trainee_errors, reference_errors, drifts = [], [], []
        for side, sample in enumerate(self.samples):
            row = self.target.row(side, sample)
            truth = (
                path.truth(group.latents[:, sample], noise, t, measure)
                if row is None
                else as_measured(predictions[row], sample)
            )
            trainee = as_measured(predictions[Row("trainee", sample, "prompt")], sample)
            trainee_errors.append(mean_square(truth - trainee))
            if self.reference:
                reference = as_measured(predictions[Row(self.reference, sample, "prompt")], sample)
                reference_errors.append(mean_square(truth - reference))
                drifts.append(mean_square(trainee.detach() - reference))
        trainee_error = torch.stack(trainee_errors, 1)
        reference_error = torch.stack(reference_errors, 1) if reference_errors else None
        rewards = implicit_reward(self.beta, trainee_error, reference_error)
        level = path.level(t)
        return Outcome(
            loss=self.link(rewards, group.labels) * weight(self.weighting, level),
            rewards=rewards.detach(),
            trainee_error=trainee_error.detach(),
            reference_error=reference_error,
            drift=torch.stack(drifts, 1) if drifts else None,
            level=level,
        )

    def _predictions(self, group: Group, x_t: list[Tensor], t: Tensor, predict: Predict) -> dict[Row, Tensor]:
        """One stacked call a policy; no gradient but the trainee's."""
        predictions: dict[Row, Tensor] = {}
        for policy, rows in self.plan().items():
            stacked = torch.cat([x_t[row.sample] for row in rows])
            slots = [group.prompts[row.slot] for row in rows]
            condition = {name: torch.cat([slot[name] for slot in slots]) for name in slots[0]}
            with torch.set_grad_enabled(policy == "trainee" and torch.is_grad_enabled()):
                answers = predict(policy, stacked, t.repeat(len(rows)), condition)
            predictions.update(zip(rows, answers.chunk(len(rows)), strict=True))
        return predictions
