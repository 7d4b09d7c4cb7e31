"""What the tests of the core compare: policies of a few numbers, and groups of named samples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from contrapose.core.group import Group, Sample
from contrapose.core.measured import Measured
from contrapose.core.objective import Objective, Outcome, Row, Side
from contrapose.core.path import DiffusionPath

PATH = DiffusionPath(torch.linspace(0.999, 0.01, 1000))
B, SHAPE = 3, (4, 2, 2)
TIMES = torch.tensor([10, 400, 900])

PLAIN = (Side("winner"), Side("loser"))
PROMPTS = (
    Side("winner", truth={Row("reference", "winner"): 1.0}),
    Side("loser", truth={Row("reference", "loser", "degraded"): 1.0}),
)
POLICIES = (
    Side("winner", truth={Row("winner", "winner"): 1.0}),
    Side("loser", truth={Row("loser", "loser"): 1.0}),
)
GUIDED = (  # classifier-free guidance of scale 3 as the truth, and a mixture of two policies
    Side("winner", truth={Row("reference", "winner"): 3.0, Row("reference", "winner", "degraded"): -2.0}),
    Side("loser", truth={Row("winner", "loser"): 0.25, Row("old", "loser"): 0.75}),
)
KINDS = {"noise": PLAIN, "prompts": PROMPTS, "policies": POLICIES, "guided": GUIDED}


class Net(nn.Module):
    """Any network: linear in the latent, with the prompt's bias."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(0.3 * torch.randn(16, 16, generator=random))
        self.prompt = nn.Parameter(torch.randn(8, 16, generator=random))

    def forward(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        flat = x_t.flatten(1) @ self.weight + condition["embedding"] @ self.prompt
        return (flat * (1 + t[:, None] / 1000)).view_as(x_t)


class Policies:
    """A backbone's `predict`, which keeps an account of its calls: policy, rows, and whether a gradient is recorded."""

    def __init__(self, **nets: Net) -> None:
        self.nets = nets
        self.calls: list[tuple[str, int, bool]] = []

    def __call__(self, policy: str, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        self.calls.append((policy, len(x_t), torch.is_grad_enabled()))
        return self.nets[policy](x_t, t, condition)


def some_policies(trainee_seed: int = 0) -> Policies:
    """A trainee (by default at its reference), and every frozen policy that a method here asks."""
    return Policies(trainee=Net(trainee_seed), reference=Net(0), winner=Net(1), loser=Net(2), lagged=Net(3), old=Net(4))


def near_the_reference(distance: float, trainee_seed: int = 5) -> Policies:
    """The same in double precision, with the trainee only so far from its reference, as in training."""
    policies = some_policies(trainee_seed)
    for net in policies.nets.values():
        net.double()
    with torch.no_grad():
        parameters = (policies.nets[name].parameters() for name in ("trainee", "reference"))
        for ours, theirs in zip(*parameters, strict=True):
            ours.copy_(theirs + distance * (ours - theirs))
    return policies


def a_group(
    *names: str, labels: Mapping[str, Tensor] | None = None, scores: Tensor | None = None, b: int = B,
    dtype: torch.dtype = torch.float32,
) -> Group:  # fmt: skip
    """Random samples of these names, `winner` and `loser` where none is given; the first is preferred unless told.

    `scores` [b, n] are the judge's that is called `judge`.
    """
    random = torch.Generator().manual_seed(0)
    names = names or ("winner", "loser")
    prompts = {slot: {"embedding": torch.randn(b, 8, generator=random).to(dtype)} for slot in ("prompt", "degraded")}
    noise = torch.randn(b, *SHAPE, generator=random).to(dtype)
    samples = {}
    for place, name in enumerate(names):
        label = labels[name] if labels else torch.full((b,), float(place == 0))
        judged = {} if scores is None else {"judge": scores[:, place]}
        latent = torch.randn(b, *SHAPE, generator=random).to(dtype)
        samples[name] = Sample(latent, noise, label.to(dtype), judged)
    return Group(samples, prompts, TIMES[:b])


def evaluate(objective: Objective, group: Group, predict: Policies) -> Outcome:
    """One evaluation, predictions being the noise."""
    return objective(group, PATH, "eps", predict)


def gradient(outcome: Outcome, net: nn.Module) -> list[Tensor]:
    """The gradient of all parts together."""
    for part in outcome.parts:
        part.sum().backward()
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    return gradients


def relative_error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference of any two tensors, relative to the largest number in theirs."""
    scales = [theirs_.abs().max() for theirs_ in theirs]
    assert min(scales) > 0
    return max(float((a - b).abs().max() / scale) for a, b, scale in zip(ours, theirs, scales, strict=True))


def measured(rewards: Tensor, labels: Tensor | None = None, **fields: object) -> Measured:
    """What a link sees where rewards and labels are all that it reads; other fields as they are told."""
    others = {
        "T": torch.zeros_like(rewards),
        "R": torch.zeros_like(rewards),
        "D": torch.zeros_like(rewards),
        "overlap": torch.zeros(*rewards.shape, rewards.shape[1]),
        "labels": torch.zeros_like(rewards) if labels is None else labels,
        "level": torch.zeros(len(rewards)),
    }
    return Measured(rewards, **(others | fields))
