"""Each paper's formula, written out for one record in double precision, on a network of one number a policy.

What `test_methods.py` compares the methods with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BETA, B, D = 6.0, 4, 12  # B pairs of D numbers each
ABAR = torch.linspace(0.99, 0.02, 1000, dtype=torch.float64)
RANKS = ("rank 1", "rank 2", "rank 3", "rank 4")
FIELDS = ("winner", "loser", "prompt", "degraded", "own x0", "own eps", "sample 1", *RANKS)
RECORDS = {
    name: torch.randn(B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for seed, name in enumerate(FIELDS)
}
NOISE = torch.randn(B, D, generator=torch.Generator().manual_seed(21), dtype=torch.float64)
T = torch.tensor([5, 300, 600, 990])
OTHER = [1, 2, 3, 0]
DRAWS = {  # of each sample's own
    name: torch.randn(B, 4, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for seed, name in enumerate(("winner", "loser"), 31)
}
SCORES = {  # of a judge, who ranks images in another order than labels do
    "winner": [21.0, 19.5, 22.0, 20.0],
    "loser": [20.0, 20.5, 15.0, 20.0],
    "rank 1": [20.5, 20.0, 21.0, 20.0],
    "rank 2": [20.0, 21.5, 20.0, 20.0],
    "rank 3": [21.0, 20.5, 19.0, 22.0],
    "rank 4": [19.0, 20.2, 19.5, 20.5],
}
STEP_SCALES = torch.tensor([0.3, 0.9, 2.0, 0.5], dtype=torch.float64)  # where winner and loser are steps of a sampler
QUALITY = torch.tensor([1.0, 0.8, 0.8, 0.1], dtype=torch.float64).expand(B, 4)  # labels of ranked lists; two are equal
LIKED = torch.tensor([1.0, 0.0, 0.25, 1.0], dtype=torch.float64)  # of lone samples; the third is one by a share
TRAINED = {
    name: torch.tensor(strength, dtype=torch.float64, requires_grad=True)
    for name, strength in {"trainee": 0.9, "positive": 0.7, "negative": 0.8}.items()
}
FROZEN = {"reference": 0.5, "old": 0.85, "teacher": 0.65, "lagged": 0.6, "winner": 0.55, "loser": 0.45}


def network(policy: str, x_t: Tensor, t: Tensor, prompt: Tensor) -> Tensor:
    return torch.tanh((TRAINED | FROZEN)[policy] * x_t + prompt) + t[:, None].double() / 1000


def error(policy: str, i: int, x0: Tensor, target: Tensor, noise: Tensor = NOISE) -> Tensor:
    """mse of one pair's prediction under its own prompt."""
    prediction = noised_prediction(policy, i, x0, RECORDS["prompt"][i], noise)
    return sum((a - b) ** 2 for a, b in zip(target, prediction, strict=True)) / D


def noised_prediction(policy: str, i: int, x0: Tensor, prompt: Tensor, noise: Tensor = NOISE) -> Tensor:
    abar = float(ABAR[T[i]])
    x_t = math.sqrt(abar) * x0 + math.sqrt(1 - abar) * noise[i]
    return network(policy, x_t[None], T[i : i + 1], prompt[None])[0]


def margin(i: int, x_w: Tensor, x_l: Tensor, e_w: Tensor, e_l: Tensor) -> Tensor:
    """-(beta / 2) [ (mse_w - mse_l)_theta - (mse_w - mse_l)_ref ]"""
    of_trainee = error("trainee", i, x_w, e_w) - error("trainee", i, x_l, e_l)
    of_reference = error("reference", i, x_w, e_w) - error("reference", i, x_l, e_l)
    return -0.5 * BETA * (of_trainee - of_reference)


def dpo_margin(i: int) -> Tensor:
    return margin(i, RECORDS["winner"][i], RECORDS["loser"][i], NOISE[i], NOISE[i])


def ddspo_margin(i: int, x_l: Tensor, degraded: Tensor) -> Tensor:
    x_w = RECORDS["winner"][i]
    e_w = noised_prediction("reference", i, x_w, RECORDS["prompt"][i])
    return margin(i, x_w, x_l, e_w, noised_prediction("reference", i, x_l, degraded))


def paired(i: int) -> Tensor:
    return ddspo_margin(i, RECORDS["loser"][i], RECORDS["degraded"][i])


def not_paired(i: int) -> Tensor:
    return ddspo_margin(i, RECORDS["winner"][OTHER[i]], RECORDS["degraded"][i])


def random_positive(i: int) -> Tensor:
    """Another record's winner with its own prompt, strictly paired (Sec. 4.4)."""
    return ddspo_margin(i, RECORDS["winner"][OTHER[i]], RECORDS["prompt"][OTHER[i]])


def of_own_noise(i: int) -> Tensor:
    """DDSPO's margin where each side has noise of its own."""
    gains = []
    for side, prompt in (("winner", "prompt"), ("loser", "degraded")):
        x0, noise = RECORDS[side][i], DRAWS[side][:, 0]
        target = noised_prediction("reference", i, x0, RECORDS[prompt][i], noise)
        gains.append(error("trainee", i, x0, target, noise) - error("reference", i, x0, target, noise))
    return -0.5 * BETA * (gains[0] - gains[1])


def step_margin(i: int, clip: float, one_state: bool) -> Tensor:
    """log clip(ratio_w) - log clip(ratio_l) of two steps' densities, from the winner's state or from one of each."""
    logs = []
    for side in ("winner", "loser"):
        state = "winner" if one_state else side
        x0, noise, target = RECORDS[state][i], DRAWS[state][:, 0], DRAWS[side][i, 0]
        log_ratio = error("reference", i, x0, target, noise) - error("trainee", i, x0, target, noise)
        ratio = (0.5 * STEP_SCALES[i] * log_ratio).exp()
        logs.append(ratio.clamp(1 - clip, 1 + clip).log())
    return logs[0] - logs[1]


def level(t: int) -> tuple[float, float]:
    """Shares of data and noise at a time, t being one of a pair's."""
    return math.sqrt(float(ABAR[t])), math.sqrt(1 - float(ABAR[t]))


def inverted(i: int, side: str, steps: int, eta: float, renoise: bool) -> Tensor:
    """The noise that DDIM's inversion finds for an image, as InPO and SmPO walk, in equal steps to the pair's time."""
    x0, prompt, t = RECORDS[side][i], RECORDS["prompt"][i], int(T[i])

    def told(x: Tensor, time: int) -> Tensor:
        return network("trainee", x[None], torch.tensor([time]), prompt[None])[0].detach()

    def stepped(x: Tensor, e: Tensor, here: int, there: int) -> Tensor:
        (a, s), (a_next, s_next) = level(here), level(there)
        return a_next * (x - s * e) / a + s_next * e

    x, here = x0, 0
    for number in range(1, steps + 1):
        there, beyond = t * number // steps, min(t * (number + 1) // steps, 999)
        e = told(x, there)
        if renoise:
            e = (e + told(stepped(x, e, here, there), there)) / 2
        x = stepped(x, e, here, there)
        of_there, of_beyond = float(ABAR[there]), float(ABAR[beyond])
        variance = (1 - of_there) / (1 - of_beyond) * (1 - of_beyond / of_there)
        x = x + eta * math.sqrt(variance) * DRAWS[side][i, number - 1]
        here = there
    a, s = level(t)
    return (x - a * x0) / s


def inversion_margin(i: int, steps: int, eta: float = 0.0, renoise: bool = False) -> Tensor:
    gains = []
    for side in ("winner", "loser"):
        noise = NOISE.clone()
        noise[i] = inverted(i, side, steps, eta, renoise)
        x0 = RECORDS[side][i]
        gains.append(error("trainee", i, x0, noise[i], noise) - error("reference", i, x0, noise[i], noise))
    return -0.5 * BETA * (gains[0] - gains[1])


def self_npo(i: int, steps: int, stride: int, scale: float) -> Tensor:
    """Self-NPO's code: the teacher walks without a prompt, and its answer is learnt from a noisier state."""
    x0, noise, blank = RECORDS["winner"][i], NOISE[i], RECORDS["prompt"][i]
    here = (int(T[i]) // stride + 1) * stride - 1
    a, s = level(here)
    x = a * x0 + s * noise
    for walked in range(steps + 1):
        a, s = level(here)
        e = network("teacher", x[None], torch.tensor([here]), blank[None])[0]
        predicted = (x - s * e) / a
        if walked == steps:
            break
        there = max(here - stride, 0)
        a_next, s_next = level(there)
        x = a_next * predicted + s_next * e
        here = there
    uniform = 0.5 * (1 + math.erf(float(DRAWS["winner"][i, 1, 0]) / math.sqrt(2)))
    later = here + 1 + int(uniform * (999 - here))
    a_later, s_later = level(later)
    nsr, nsr_later = s / a, s_later / a_later
    sampled = (x / a + math.sqrt(nsr_later**2 - nsr**2) * DRAWS["winner"][i, 0]) * a_later
    answer = network("trainee", sampled[None], torch.tensor([later]), blank[None])[0]
    difference = (sampled - s_later * answer) / a_later - predicted
    return ((difference**2 + scale**2).sqrt() - scale).mean()


def sureness(i: int) -> float:
    """10 (2 p - 1) of the released code, scores over their range of 2.5."""
    winner, loser = (math.exp(SCORES[side][i] / 2.5) for side in ("winner", "loser"))
    return 10 * (2 * winner / (winner + loser) - 1)


def data_driven(i: int) -> Tensor:
    x_w, x_l, c = RECORDS["winner"][i], RECORDS["loser"][i], RECORDS["prompt"][i]
    return margin(i, x_w, x_l, noised_prediction("winner", i, x_w, c), noised_prediction("loser", i, x_l, c))


def dro(i: int, m: float, renoised: bool) -> Tensor:
    """max(0, m + [mse(n, theta(xr)) - mse(n, ref(xr))] - [mse(e_pol, theta(xp)) - mse(e_pol, ref(xp))])"""
    x_r, x_p, noise = RECORDS["winner"][i], RECORDS["own x0"][i], NOISE if renoised else RECORDS["own eps"]
    e_pol = noised_prediction("lagged", i, x_p, RECORDS["prompt"][i]) if renoised else noise[i]
    real = error("trainee", i, x_r, NOISE[i]) - error("reference", i, x_r, NOISE[i])
    own = error("trainee", i, x_p, e_pol, noise) - error("reference", i, x_p, e_pol, noise)
    return F.relu(m + real - own)


def dspo(i: int, strength: float, m: Tensor | None = None) -> Tensor:
    """mean ((th_w - n) - k (th_w - ref_w))^2, k = B (1 - sigmoid(inside)), as SD1.5's code has it on predictions"""
    x_w, c = RECORDS["winner"][i], RECORDS["prompt"][i]
    theta, reference = (noised_prediction(policy, i, x_w, c) for policy in ("trainee", "reference"))
    k = strength * (1 - logistic(dpo_margin(i) if m is None else m))
    return ((theta - NOISE[i] - k * (theta - reference)) ** 2).mean()


def squared_dspo(i: int, limit: float) -> Tensor:
    """((1 - sigmoid(inside)) (th_w - ref_w))^2 where it has gone far, else (1 - sigmoid(inside))^2, as SDXL's code"""
    x_w, c = RECORDS["winner"][i], RECORDS["prompt"][i]
    gone = noised_prediction("trainee", i, x_w, c) - noised_prediction("reference", i, x_w, c)
    wrong = 1 - logistic(dpo_margin(i))
    if (gone**2).mean() >= limit:
        return ((wrong * gone) ** 2).mean()
    return wrong**2


Keep = Callable[[Tensor, Tensor, float], float]
"""What is kept of the loser's gradient, from both errors' gradients in predictions and the loser's reward."""


def guarded_margin(i: int, keep: Keep, truths: Sequence[Tensor] | None = None) -> Tensor:
    """-(beta / 2) [ (T_w - T_l) - (R_w - R_l) ]: T_l keeps its value, and of its gradient what a guard leaves."""
    truths = truths or (NOISE[i], NOISE[i])
    predictions, errors, references = [], [], []
    for side, truth in zip(("winner", "loser"), truths, strict=True):
        predictions.append(noised_prediction("trainee", i, RECORDS[side][i], RECORDS["prompt"][i]))
        errors.append(((predictions[-1] - truth) ** 2).mean())
        references.append(error("reference", i, RECORDS[side][i], truth))
    along = torch.autograd.grad(sum(errors), predictions, retain_graph=True)
    kept = keep(*along, float(0.5 * BETA * (references[1] - errors[1]).detach()))
    of_loser = errors[1].detach() + kept * (errors[1] - errors[1].detach())
    return -0.5 * BETA * ((errors[0] - of_loser) - (references[0] - references[1]))


def guarded_ddspo(i: int, keep: Keep) -> Tensor:
    truths = [
        noised_prediction("reference", i, RECORDS[side][i], RECORDS[slot][i])
        for side, slot in (("winner", "prompt"), ("loser", "degraded"))
    ]
    return guarded_margin(i, keep, truths)


def sdpo(mu: float) -> Keep:
    """clamp((1 - mu) |g_w|^2 / <g_l, g_w>, 0, 1) where <g_l, g_w> > 0, else 1"""

    def keep(of_winner: Tensor, of_loser: Tensor, reward: float) -> float:
        across = float(of_winner @ of_loser)
        return min(1.0, (1 - mu) * float(of_winner @ of_winner) / across) if across > 0 else 1.0

    return keep


def cooling(temperature: float) -> Keep:
    """min(1, 2 sigmoid(r_l / temperature))"""
    return lambda of_winner, of_loser, reward: min(1.0, 2 / (1 + math.exp(-reward / temperature)))


def reverse_kl(m: Tensor, q: float) -> Tensor:
    """p log(p / q) + (1 - p) log((1 - p) / (1 - q)), p the logistic function of the margin"""
    p = logistic(m)
    return p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))


def mapo(i: int, strength: float, s: float) -> Tensor:
    """T_w - B log sigmoid(1000 (f(T_w) - f(T_l))), f(x) = s x / (exp(s x) - 1), as the authors' code has it"""
    of_winner, of_loser = (error("trainee", i, RECORDS[side][i], NOISE[i]) for side in ("winner", "loser"))
    log_odds = s * of_winner / (torch.exp(s * of_winner) - 1) - s * of_loser / (torch.exp(s * of_loser) - 1)
    return of_winner - strength * F.logsigmoid(1000 * log_odds)


def tdpo_margin(i: int) -> Tensor:
    """(beta / 2) [ (R - T)(c) - (R - T)(c-) ] of the winner, to the forward noise"""
    of_own, of_degraded = prompt_rewards(i)
    return of_own - of_degraded


def tkto(i: int, utility: Callable[[Tensor], Tensor], baseline: float, weights: tuple[float, float]) -> Tensor:
    """Half of w_l (1 - U(r(c) - z)) + w_d (1 - U(z - r(c-))), z the baseline where it is above 0"""
    of_own, of_degraded = prompt_rewards(i)
    z = max(baseline, 0.0)
    return (weights[0] * (1 - utility(of_own - z)) + weights[1] * (1 - utility(z - of_degraded))) / 2


def prompt_rewards(i: int) -> list[Tensor]:
    """(beta / 2) (R - T) of the winner to the forward noise, under its own prompt and under the degraded one"""
    rewards = []
    for slot in ("prompt", "degraded"):
        errors = []
        for policy in ("reference", "trainee"):
            answer = noised_prediction(policy, i, RECORDS["winner"][i], RECORDS[slot][i])
            errors.append(((answer - NOISE[i]) ** 2).mean())
        rewards.append(0.5 * BETA * (errors[0] - errors[1]))
    return rewards


def reward(i: int, name: str) -> Tensor:
    x0 = RECORDS[name][i]
    return 0.5 * BETA * (error("reference", i, x0, NOISE[i]) - error("trainee", i, x0, NOISE[i]))


def plackett_luce(i: int, names: Sequence[str]) -> Tensor:
    """-sum_k log [ exp r_k / sum of exp r_j over those that are not better ]"""
    quality = dict(zip(RANKS, QUALITY[i].tolist(), strict=True))
    rewards = {name: reward(i, name) for name in names}
    loss = torch.zeros((), dtype=torch.float64)
    for name in names:
        beaten = [torch.exp(rewards[other]) for other in names if quality[other] <= quality[name]]
        loss = loss - torch.log(torch.exp(rewards[name]) / sum(beaten))
    return loss


def rank_dpo(i: int, quality: Sequence[float]) -> Tensor:
    """-sum over better pairs of |g_i - g_j| |1 / log(1 + t_i) - 1 / log(1 + t_j)| log sigmoid(r_i - r_j)"""
    rewards = [reward(i, name) for name in RANKS]
    ranks = []
    for own in quality:
        better = [other for other in quality if other > own]
        ranks.append(1 + len(better))
    loss = torch.zeros((), dtype=torch.float64)
    for a in range(4):
        for b in range(4):
            if quality[a] > quality[b]:
                gain = 2 ** quality[a] - 2 ** quality[b]
                discount = abs(1 / math.log(1 + ranks[a]) - 1 / math.log(1 + ranks[b]))
                loss = loss + gain * discount * nll(rewards[a] - rewards[b])
    return loss


def win_rates(i: int) -> list[float]:
    """mean over the others of sigmoid(R_i - R_j)"""
    scores = [SCORES[name][i] for name in RANKS]
    wins = [[1 / (1 + math.exp(b - a)) for k, b in enumerate(scores) if k != own] for own, a in enumerate(scores)]
    return [sum(row) / 3 for row in wins]


def chats(i: int, paper_beta: float) -> Tensor:
    """-B [ (mse_w^+ - mse_w^ref) + (mse_l^- - mse_l^ref) ], without the half of the DPO family"""
    gains = [
        error(policy, i, RECORDS[side][i], NOISE[i]) - error("reference", i, RECORDS[side][i], NOISE[i])
        for policy, side in (("positive", "winner"), ("negative", "loser"))
    ]
    return -paper_beta * sum(gains)


def kto(i: int, paper_beta: float, utility: Callable[[Tensor], Tensor], baseline: float = 0.0,
        weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:  # fmt: skip
    """w_y (1 - U(s_y B (g - z))), g = mse_ref - mse_theta without a half, z the baseline where it is above 0"""
    x0 = RECORDS["sample 1"][i]
    gain = error("reference", i, x0, NOISE[i]) - error("trainee", i, x0, NOISE[i])
    losses = [
        weight * (1 - utility(sign * paper_beta * (gain - max(baseline, 0.0))))
        for sign, weight in zip((1, -1), weights, strict=True)
    ]
    return LIKED[i] * losses[0] + (1 - LIKED[i]) * losses[1]


def logistic(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def nll(m: Tensor) -> Tensor:
    return torch.log1p(torch.exp(-m))
