"""The formulas of methods that compare a prompt's own samples by their scores, beside those of `formulas.py`."""

from __future__ import annotations

import math

import torch
from formulas import NOISE, RANKS, RECORDS, SCORES, T, error, noised_prediction
from torch import Tensor


def advantages(i: int, num: int) -> list[float]:
    """(s - mean) / (deviation + 1e-4) of the first so many samples' scores"""
    scores = [SCORES[name][i] for name in RANKS[:num]]
    mean = sum(scores) / num
    deviation = math.sqrt(sum((s - mean) ** 2 for s in scores) / num)
    return [(s - mean) / (deviation + 1e-4) for s in scores]


def apart(i: int, name: str, policy: str) -> Tensor:
    """mse(theta, policy) on a sample"""
    theta, other = (
        noised_prediction(asked, i, RECORDS[name][i], RECORDS["prompt"][i]) for asked in ("trainee", policy)
    )
    return ((theta - other) ** 2).mean()


def of(policy: str, i: int, name: str) -> Tensor:
    return error(policy, i, RECORDS[name][i], NOISE[i])


def dgpo(i: int, num: int, beta: float, clip: float, pull: float) -> Tensor:
    """-(1 / B) log sigmoid(sum_i A_i B (R - T) / G) + pull mse(theta, ref), T without gradient where it has gone far"""
    gain, drift = torch.zeros(()), torch.zeros(())
    for name, a in zip(RANKS[:num], advantages(i, num), strict=True):
        own = of("trainee", i, name)
        ratio = float(torch.exp(of("old", i, name) - own).detach())
        if ratio > 1 + clip if a > 0 else ratio < 1 - clip:
            own = own.detach()
        gain = gain + a * beta * (of("reference", i, name) - own) / num
        drift = drift + apart(i, name, "reference") / num
    return torch.log1p(torch.exp(-gain)) / beta + pull * drift


def nft(i: int, num: int, b: float, limit: float, pull: float) -> Tensor:
    """(limit / b) (q mse(n, v+) / |n - v+| + (1 - q) mse(n, v-) / |n - v-|) + pull mse(theta, ref)"""
    loss = torch.zeros(())
    for name, a in zip(RANKS[:num], advantages(i, num), strict=True):
        x0, prompt = RECORDS[name][i], RECORDS["prompt"][i]
        theta, old = (noised_prediction(policy, i, x0, prompt) for policy in ("trainee", "old"))
        good = (max(-limit, min(limit, a)) / limit + 1) / 2
        for share, prediction in ((good, b * theta + (1 - b) * old), (1 - good, (1 + b) * old - b * theta)):
            square = ((NOISE[i] - prediction) ** 2).mean()
            loss = loss + limit * share / b * square / (math.sqrt(2 / math.pi) * square.detach().sqrt())
        loss = loss + pull * apart(i, name, "reference")
    return loss / num


def awm(i: int, num: int, p: float, clip: float, pulls: tuple[float, float]) -> Tensor:
    """max(-a w, -a clip(w)) + pull mse(theta, ref) + old_pull mse(theta, old), a = A / 5, l = -t (T^p) / p"""
    loss, level = torch.zeros(()), float(T[i].float() / 999)
    for name, a in zip(RANKS[:num], advantages(i, num), strict=True):
        powers = [(of(policy, i, name) + 1e-10) ** p for policy in ("trainee", "old")]
        ratio = torch.exp(level * (powers[1] - powers[0]) / p)
        loss = loss - min(a / 5 * ratio, a / 5 * ratio.clamp(1 - clip, 1 + clip))
        loss = loss + pulls[0] * apart(i, name, "reference") + pulls[1] * apart(i, name, "old")
    return loss / num


def crd(i: int, num: int, beta: float, pull: float) -> Tensor:
    """(5 / B) mean (B (r - mean r) - (q - mean q))^2 + mean p mse(theta, ref), r of errors over residuals' sizes"""
    rewards, good = [], [(a / 5 + 1) / 2 for a in advantages(i, num)]
    for name in RANKS[:num]:
        sized = {}
        for policy in ("old", "trainee"):
            square = of(policy, i, name)
            sized[policy] = square / (math.sqrt(2 / math.pi) * square.detach().sqrt())
        rewards.append(sized["old"] - sized["trainee"])
    loss = torch.zeros(())
    for name, reward, q in zip(RANKS[:num], rewards, good, strict=True):
        apart_by = beta * (reward - sum(rewards) / num) - (q - sum(good) / num)
        loss = loss + 5 / beta * apart_by**2 + (1e-4 + q * (pull - 1e-4)) * apart(i, name, "reference")
    return loss / num
