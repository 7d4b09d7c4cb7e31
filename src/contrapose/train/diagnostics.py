"""Numbers that a person can read: is the trainee learning the comparison, where, and how far has it gone?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from contrapose.core.objective import Outcome

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # noise levels at which held-out pairs are measured


def accuracy(rewards: Tensor) -> Tensor:
    """Share of pairs whose winner has the higher reward; a tie counts half."""
    margin = rewards[:, 0] - rewards[:, -1]
    return (margin > 0).float().mean() + 0.5 * (margin == 0).float().mean()


def of_batch(outcome: Outcome) -> dict[str, Tensor]:
    """A micro-batch's means, still on the device; each is weighted by the number of groups later."""
    found = {"loss": outcome.loss.detach().mean()}
    for name, side in (("winner", 0), ("loser", -1)):
        if outcome.reference_error is not None:
            found[f"{name}_error_gain"] = (outcome.reference_error - outcome.trainee_error)[:, side].mean()
        else:
            found[f"{name}_error"] = outcome.trainee_error[:, side].mean()
    if outcome.rewards.shape[1] > 1:
        found["accuracy"] = accuracy(outcome.rewards)
        found["margin"] = (outcome.rewards[:, 0] - outcome.rewards[:, 1]).mean()
    if outcome.drift is not None:
        found["drift"] = outcome.drift.mean()
    return found


@torch.no_grad()
def of_held_out(measure: Callable[[float], list[Outcome]]) -> dict[str, float]:
    """Accuracy, margin and drift on the held-out pairs, by noise level and overall; one transfer in all."""
    means: dict[str, Tensor] = {}
    for level in LEVELS:
        outcomes = measure(level)
        counts = torch.tensor([len(o.loss) for o in outcomes], dtype=torch.float32, device=outcomes[0].loss.device)
        per_batch = [of_batch(o) for o in outcomes]
        for name in per_batch[0]:
            values = torch.stack([b[name] for b in per_batch])
            means[f"{name}@{level}"] = (values * counts).sum() / counts.sum()
    numbers = dict(zip(means, torch.stack(list(means.values())).tolist(), strict=True))
    names = dict.fromkeys(name.partition("@")[0] for name in numbers)
    overall = {n: sum(numbers[f"{n}@{level}"] for level in LEVELS) / len(LEVELS) for n in names}
    return overall | numbers
