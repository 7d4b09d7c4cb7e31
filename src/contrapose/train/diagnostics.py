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
    measured = outcome.measured
    means = {"loss": outcome.loss.detach().mean()}
    for name, side in (("winner", 0), ("loser", -1)):  # the first side and the last, which may be one
        if measured.R is not None:
            means[f"{name}_error_gain"] = (measured.R - measured.T)[:, side].mean()
        else:
            means[f"{name}_error"] = measured.T[:, side].mean()
    if measured.rewards.shape[1] > 1:
        means["accuracy"] = accuracy(measured.rewards)
        means["margin"] = (measured.rewards[:, 0] - measured.rewards[:, -1]).mean()
    if measured.D is not None:
        means["drift"] = measured.D.mean()
    for policy, drift in measured.drift_from.items():
        means[f"drift_from_{policy}"] = drift.mean()
    return means


@torch.no_grad()
def of_held_out(measure: Callable[[float], list[Outcome]]) -> dict[str, float]:
    """Accuracy, margin and drift on the held-out pairs, by noise level and overall; one transfer in all."""
    means: dict[str, Tensor] = {}
    for level in LEVELS:
        outcomes = measure(level)
        sizes = [len(outcome.loss) for outcome in outcomes]
        counts = torch.tensor(sizes, dtype=torch.float32, device=outcomes[0].loss.device)
        per_batch = [of_batch(outcome) for outcome in outcomes]
        for name in per_batch[0]:
            values = torch.stack([batch[name] for batch in per_batch])
            means[f"{name}@{level}"] = (values * counts).sum() / counts.sum()
    numbers = dict(zip(means, torch.stack(list(means.values())).tolist(), strict=True))
    names = dict.fromkeys(name.partition("@")[0] for name in numbers)
    overall = {}
    for name in names:
        of_levels = [numbers[f"{name}@{level}"] for level in LEVELS]
        overall[name] = sum(of_levels) / len(of_levels)
    return overall | numbers
