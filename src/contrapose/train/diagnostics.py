"""Numbers that a person can read: is the trainee learning the comparison, where, and how far has it gone?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from contrapose.core.measured import Measured
from contrapose.core.objective import Outcome

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # noise levels at which held-out pairs are measured
_SHARE = "_share"  # after the name of a side, of which lone samples have one each


def accuracy(rewards: Tensor) -> Tensor:
    """Share of pairs whose winner has the higher reward; a tie counts half."""
    margin = rewards[:, 0] - rewards[:, -1]
    return (margin > 0).float().mean() + 0.5 * (margin == 0).float().mean()


def of_batch(outcome: Outcome, swapped: bool = False) -> dict[str, Tensor]:
    """A micro-batch's means, still on the device; each is weighted by the number of groups later, and then `settled`.

    Of lone samples the margin is the reward of a like and the negative reward of a dislike; labels that were `swapped`
    for training are turned back for it, as winners and losers keep their places.
    """
    measured = outcome.measured
    means = {"loss": outcome.loss.detach().mean()}
    num_sides = measured.rewards.shape[1]
    if num_sides == 1 and measured.R is not None:
        means |= _of_lone_samples(measured, swapped)
    elif num_sides == 1:
        means["error"] = measured.T.mean()  # of a winner or of a loser, by the method's setting
    else:
        for name, side in (("winner", 0), ("loser", -1)):  # the first side and the last
            if measured.R is not None:
                means[f"{name}_error_gain"] = (measured.R - measured.T)[:, side].mean()
            else:
                means[f"{name}_error"] = measured.T[:, side].mean()
    if num_sides > 1:
        means["accuracy"] = accuracy(measured.rewards)
        means["margin"] = (measured.rewards[:, 0] - measured.rewards[:, -1]).mean()
    # from where the run began, if rewards are against a policy that has followed since
    drift = measured.drift_from.get("reference", measured.D)
    if drift is not None:
        means["drift"] = drift.mean()
    return means


def _of_lone_samples(measured: Measured, swapped: bool) -> dict[str, Tensor]:
    assert measured.R is not None
    liked = 1 - measured.labels[:, 0] if swapped else measured.labels[:, 0]
    gain = (measured.R - measured.T)[:, 0]
    signed = (2 * liked - 1) * measured.rewards[:, 0]
    # against a partner of reward 0, which is what the reference gives to everything
    means = {"accuracy": accuracy(torch.stack([signed, torch.zeros_like(signed)], 1)), "margin": signed.mean()}
    # parts of the mean over all samples, of which `settled` makes the means over likes and over dislikes
    for name, share in (("winner", liked), ("loser", 1 - liked)):
        means[f"{name}_error_gain"] = (share * gain).mean()
        means[name + _SHARE] = share.mean()
    return means


def settled(numbers: Mapping[str, float]) -> dict[str, float]:
    """A step's means once all of its groups are in: of lone samples those of likes and of dislikes, where any are."""
    means = {name: value for name, value in numbers.items() if not name.endswith(_SHARE)}
    for name, share in numbers.items():
        if not name.endswith(_SHARE):
            continue
        key = f"{name.removesuffix(_SHARE)}_error_gain"
        if share == 0:
            del means[key]
        else:
            means[key] /= share
    return means


@torch.no_grad()
def of_held_out(measure: Callable[[float], list[Outcome]], swapped: bool = False) -> dict[str, float]:
    """Accuracy, margin and drift on the held-out pairs, by noise level and overall; one transfer in all."""
    means: list[dict[str, Tensor]] = []
    for level in LEVELS:
        outcomes = measure(level)
        sizes = [len(outcome.loss) for outcome in outcomes]
        counts = torch.tensor(sizes, dtype=torch.float32, device=outcomes[0].loss.device)
        per_batch = [of_batch(outcome, swapped) for outcome in outcomes]
        of_level = {}
        for name in per_batch[0]:
            values = torch.stack([batch[name] for batch in per_batch])
            of_level[name] = (values * counts).sum() / counts.sum()
        means.append(of_level)
    names = list(means[0])
    rows = torch.stack([torch.stack(list(of_level.values())) for of_level in means]).tolist()
    by_level = [settled(dict(zip(names, row, strict=True))) for row in rows]
    numbers: dict[str, float] = {}
    for level, settled_means in zip(LEVELS, by_level, strict=True):
        numbers |= {f"{name}@{level}": value for name, value in settled_means.items()}
    # held-out groups are the same at every level, so that all levels have the same names
    overall = {}
    for name in by_level[0]:
        of_levels = [settled_means[name] for settled_means in by_level]
        overall[name] = sum(of_levels) / len(of_levels)
    return overall | numbers
