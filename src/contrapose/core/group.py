"""A batch of groups: what is compared. And how one is composed of records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from contrapose.core.choices import RandomCourse
from contrapose.ranges import Range

if TYPE_CHECKING:
    from jaxtyping import Float, Num
    from torch import Tensor

# What a backbone made of prompts: named tensors with one leading row a prompt. Whole numbers are lengths of what is
# padded; they stay on the host, where shapes are decided.
Condition = Mapping[str, "Tensor"]


def join(conditions: Sequence[Condition]) -> Condition:
    """The rows of several conditions one after the other; what is shorter is padded with zeros at its end."""
    import torch

    joined = {}
    for name in conditions[0]:
        joined[name] = torch.cat(_padded([condition[name] for condition in conditions]))
    return joined


def _padded(values: Sequence[Tensor]) -> list[Tensor]:
    from torch import nn

    # [b] or [b, c] has no length of tokens: pooled texts, and the counts themselves
    if values[0].ndim < 3:
        return list(values)
    longest = max(value.shape[1] for value in values)
    # torch pads from the last dimension backwards: nothing to c, then the end of the tokens, of [b, tokens, c]
    return [nn.functional.pad(value, (0, 0, 0, longest - value.shape[1])) for value in values]


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample of each of `b` groups, and the noise under which it is looked at."""

    latent: Float[Tensor, "b ..."]
    noise: Float[Tensor, "b ..."]
    label: Float[Tensor, " b"]
    """Its share of preference: 1 and 0 for a decided pair, halves for a tie; 1 or 0 for a like or a dislike."""
    scores: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)
    """What judges say of it, by name."""
    draws: Float[Tensor, "b k ..."] | None = None
    """Further normal draws of its own, for what goes on by chance (`walks.py`); None where there are none."""

    def draw(self, place: int) -> Float[Tensor, "b ..."]:
        """One of its own draws; the composition has asked for so many."""
        assert self.draws is not None
        return self.draws[:, place]


@dataclass(frozen=True, eq=False)
class Group:
    """`b` prompts, and under each of them samples of the same names, all at the group's own time.

    A pair has the samples `winner` and `loser`; the samples of a larger group are named as its store names them. As a
    rule they share their noise, so that two of them differ in nothing else. `prompts` holds the named prompt slots
    (`prompt`, `degraded`).
    """

    samples: Mapping[str, Sample]
    prompts: Mapping[str, Condition]
    t: Num[Tensor, " b"]
    weights: Float[Tensor, "b ..."] | None = None
    """What each element counts in the means of errors, alike in all samples; they spread over a latent, and their mean
    is 1 (`reward.element_weights`). All count alike where it is None."""
    reward_scale: Float[Tensor, " b"] | None = None
    """What each group's rewards are multiplied by: of a step of a sampler, its k (`transitions.py`)."""


class Pick(NamedTuple):
    """One field of a record, a sample or a prompt: of the group's own record, or of another one drawn at random."""

    whose: Literal["own", "other"]
    field: str


LONE = "sample 1"
"""The sample of a group that has no other."""
OWN = "own"
"""The sample that a policy drew itself."""
REWARD = "reward"
"""The score by which samples of a policy's own are compared, a larger one being better: the sum of its judges'."""
ListLength = Annotated[int, Range(2, 64, integer=True)]
"""How many samples of a prompt are compared as one ranked list."""


def ranks(num_samples: int) -> dict[str, Pick]:
    """The best so many samples of a record, `rank 1` the best of all."""
    names = [f"rank {place}" for place in range(1, num_samples + 1)]
    return {name: Pick("own", name) for name in names}


_PAIR = {"winner": Pick("own", "winner"), "loser": Pick("own", "loser")}
_PROMPT = {"prompt": Pick("own", "prompt")}


@dataclass(frozen=True)
class OnPolicy:
    """A further sample of each group, `own`, drawn by a policy under the group's own prompt: how it is drawn.

    Of each trajectory `num_states` states are kept; its final sample is what a group gets when `renoised`, and else a
    state, as the data and the noise that the policy predicted there.
    """

    num_steps: int
    num_states: int
    num_rollouts: int
    """New ones for each optimiser step."""
    buffer_size: int
    """Rollouts that are kept."""
    renoised: bool
    policy: str = "lagged"
    """The policy that draws."""
    stand_in: str = "loser"
    """The record's sample that takes its place where none is drawn: in held-out groups."""


@dataclass(frozen=True)
class OwnGroups:
    """Whole groups of a policy's own samples, drawn while training goes on and scored by judges: how they are drawn.

    Such a group looks as one of a store does: its samples are picked by `winner`, `loser`, `rank 1` or `sample 1`, its
    labels rank them by `REWARD`, and its scores are what each judge says and `REWARD`.
    """

    num_samples: int
    """Of each prompt, each from noise of its own."""
    num_prompts: int
    """New ones at each draw."""
    every: int
    """Optimiser steps from one draw to the next."""
    buffer_size: int
    """Groups that are kept, the latest ones."""
    num_steps: int | None = None
    """Sampling steps; what is usual for the model when None."""
    guidance_scale: float = 1.0
    """Of classifier-free guidance, 1 being off."""
    size: str | None = None
    """Of the images, WIDTHxHEIGHT; the model's usual size when None."""
    tie_margin: float | None = None
    """A group whose best and worst reward differ by no more than this is left out; none is where it is None."""
    policy: str = "trainee"
    """The policy that draws, as it stands then."""

    def num_predictions(self, num_steps: int) -> int:
        """States of a prompt's samples that the policy is asked about, where a sample takes so many steps."""
        return self.num_samples * num_steps


@dataclass(frozen=True)
class OwnSteps(OwnGroups):
    """Groups of two steps of a policy's own stochastic sampler, `winner` and `loser`: how its trajectories are drawn.

    A step is a sample: the data and the noise that it implies at the time at which it was taken (`transitions.py`).
    Either each step of a trajectory has `num_samples` candidates, of which the best and the worst are kept and any one
    goes on; or a prompt has `num_samples` trajectories, of which the steps of the best and the worst are kept.
    """

    eta: float = 1.0
    """How much of its noise a step draws anew, above 0."""
    first_fork: int | None = None
    """The first step that has candidates; None where trajectories are whole."""

    def num_predictions(self, num_steps: int) -> int:
        if self.first_fork is None:
            return super().num_predictions(num_steps)
        return 1 + sum(self.widths(num_steps))

    def widths(self, num_steps: int) -> list[int]:
        """Candidates for each step of a trajectory; its last prediction is the image, and leads to none."""
        num_single = num_steps - 1 if self.first_fork is None else self.first_fork
        return [1] * num_single + [self.num_samples] * (num_steps - 1 - num_single)


@dataclass(frozen=True)
class Apart:
    """Every sample of a record becomes a group of its own, `LONE` in it: a like or a dislike, by its label."""

    like_share: float | None = None
    """Share of likes in what is drawn; as they come where it is None, or where all are of one kind."""


@dataclass(frozen=True)
class RandomPrompts:
    """Prompts of no relation to a group's samples, which take the place of its own by a chance at each noise level.

    Random conditioning (Kim et al. 2025, and DDSPO's code): near the noise a sample tells little of its prompt, so that
    other prompts are learnt there without samples of theirs.
    """

    course: RandomCourse
    rate: float
    """k in the course of the chance."""
    file: Path | None = None
    """Where the prompts are listed, with degraded ones; the other records' where it is None."""

    def chance(self, level: float) -> float:
        """p(l) at noise level l: sigmoid 1 / (1 + exp(-k (l - 0.7))), exponential exp(-k (1 - l)), always 1."""
        if self.course == "sigmoid":
            # the logistic function by way of tanh: exp of a steep rate has no number
            return 0.5 + 0.5 * math.tanh(0.5 * self.rate * (level - 0.7))
        if self.course == "exponential":
            return math.exp(-self.rate * (1 - level))
        return 1.0


@dataclass(frozen=True)
class Composition:
    """What a group is made of: its samples and its prompt slots, by name."""

    samples: Mapping[str, Pick] = field(default_factory=lambda: _PAIR)
    prompts: Mapping[str, Pick] = field(default_factory=lambda: _PROMPT)
    dropout: Mapping[str, float] = field(default_factory=dict)
    """How often a slot holds no prompt."""
    on_policy: OnPolicy | None = None
    own_groups: OwnGroups | None = None
    """Where the records give their prompts alone, and a policy draws all samples."""
    apart: Apart | None = None
    own_noise: bool = False
    """Whether each sample has noise of its own; else all of a group share theirs."""
    num_draws: int = 0
    """Normal draws of each sample's own beside its noise."""
    random_prompts: RandomPrompts | None = None
    judge: str | None = None
    """The judge whose scores of all samples must be there, where one is gone by."""
    needs_labels: bool = True
    """Whether something has to say which samples are better; else any will do, and of equal ones the first wins."""
    as_drawn: bool = False
    """Whether of each record the first so many samples are compared, ranked by the judge where there is one; else of a
    record that has more the best ones are, by their labels."""

    @property
    def picks(self) -> tuple[Pick, ...]:
        """All that is taken from records."""
        return (*self.samples.values(), *self.prompts.values())

    @property
    def fields(self) -> frozenset[str]:
        """The record fields that must be present."""
        return frozenset(pick.field for pick in self.picks)

    @property
    def num_own_draws(self) -> int:
        """Normal draws of each sample's own, its noise among them where that is not shared."""
        return self.own_noise + self.num_draws

    @property
    def has_own_times(self) -> bool:
        """Whether training looks at samples where a sampler passed, so that no time is drawn for them."""
        is_on_a_trajectory = self.on_policy is not None and not self.on_policy.renoised
        return is_on_a_trajectory or isinstance(self.own_groups, OwnSteps)

    @property
    def is_pair(self) -> bool:
        """Whether the two samples of one record are compared."""
        is_of_records = self.on_policy is None and self.own_groups is None
        return self.samples == _PAIR and is_of_records and self.apart is None
