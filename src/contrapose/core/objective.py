"""THE page: a group of samples -> the predictions it needs -> what they measure -> a loss.

    walk          where a method has one, a policy makes other states of the samples first                  walks.py
    sides         what is compared: on each side a trained policy, a sample, a prompt slot, and the truth for it
    predictions   every (policy, sample, slot) that the sides ask for, once, in one stacked call a policy
    (1) noising   x_t = a(t) x0 + s(t) eps                                                                 path.py
    (2) truth     sum of share x frozen prediction (DDSPO, eq. 7), or the noise that was added (Diffusion-DPO)
    (3) errors    T = mse(truth, trainee), R = mse(truth, reference), D = mse(trainee, reference), for each side; and
                  mse(trainee, anchor), mse(truth, anchor) for further frozen policies that the trainee is to stay near;
                  mse is the mean over elements of w x square, w the group's weights of mean 1, or 1 where it has none
    (4) reward    r = (beta / 2) (R - T), times what a group's own scale says                            reward.py
    (5) loss      L = weight(l) link(r, T, R, D, labels, scores), l the noise level                       links.py
    (6) parts     L itself; or, split, one loss a side i whose gradients add up to that of L:
                  dL/dr_i r_i + dL/dT_i T_i + dL/dD_i D_i, and so for each anchor; the slopes dL/d. are constants

With the sigmoid link, (2) to (5) are DDSPO's eq. 6, and Diffusion-DPO's eq. 14 where the truth is the noise. Every
method of the field is a choice of sides, reference and link; see `contrapose.methods`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from contrapose.core.choices import Space, Weighting
from contrapose.core.group import Condition, Group, Sample, join
from contrapose.core.links import Link
from contrapose.core.measured import Measured
from contrapose.core.moving import Following
from contrapose.core.path import Path
from contrapose.core.residuals import errors, overlap
from contrapose.core.reward import at_least_single, implicit_reward
from contrapose.core.running import Running
from contrapose.core.shares import Shares, mix
from contrapose.core.walks import Walk

if TYPE_CHECKING:
    from jaxtyping import Float


class Row(NamedTuple):
    """One prediction: this policy's, on this sample of the group, under this prompt slot."""

    policy: str
    sample: str
    slot: str = "prompt"


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a policy that is trained to explain the truth for this sample, under this slot."""

    sample: str
    policy: str = "trainee"
    slot: str = "prompt"
    truth: Shares[Row] | None = None
    """Shares of predictions of policies that are not trained; None is the noise that was added."""
    state: str | None = None
    """The sample that is noised to the same state, where another one is: both are then one prediction."""

    @property
    def row(self) -> Row:
        """The trained policy's prediction."""
        return Row(self.policy, self.state or self.sample, self.slot)


@dataclass(frozen=True)
class GuidedRows:
    """Every prediction as classifier-free guidance makes it: p(blank) + scale (p(slot) - p(blank)).

    `blank` is a slot that holds no prompt. As the two shares add up to 1, it is the same in every space.
    """

    scale: float
    blank: str = "blank"

    def shares(self, row: Row) -> Shares[Row]:
        """What the guided prediction of this row is made of; without a prompt there is nothing to guide."""
        if row.slot == self.blank:
            return {row: 1.0}
        return {row: self.scale, row._replace(slot=self.blank): 1 - self.scale}


@runtime_checkable
class Predict(Protocol):
    """A backbone's denoiser: the named policy's prediction, in the backbone's own space."""

    def __call__(self, policy: str, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of one evaluation. Everything is detached but `parts`, and `loss` where that is the only part.

    Iterate `parts` once and call backward on each before taking the next: their gradients sum to the gradient of
    `loss`, their values do not sum to its value.
    """

    loss: Float[Tensor, " b"]
    parts: Iterable[Float[Tensor, " b"]]
    measured: Measured
    followed: Mapping[str, Float[Tensor, " b"]]
    """What the objective's running numbers follow, by their names."""


def weight(kind: Weighting, level: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Loss weight of a noise level l = t / (T - 1): none 1; linear l; sigmoid sigma(20 l - 16.5) (DDSPO code)."""
    if kind == "linear":
        return level
    if kind == "sigmoid":
        return torch.sigmoid(20 * level - 16.5)
    return torch.ones_like(level)


@dataclass(frozen=True, eq=False)
class Scene:
    """A batch of groups, and the denoiser of `space` that is asked about it; answers come in the space `measure`."""

    group: Group
    path: Path
    space: Space
    measure: Space
    predict: Predict
    guided: GuidedRows | None = None

    def ask(self, rows: Iterable[Row]) -> dict[Row, Float[Tensor, "b ..."]]:
        """These predictions, guided where the scene says so: each once, in one stacked call a policy."""
        if self.guided is None:
            return self._ask_each(rows)
        shares = {row: self.guided.shares(row) for row in rows}
        answers = self._ask_each(part for parts in shares.values() for part in parts)
        return {row: mix(answers, parts) for row, parts in shares.items()}

    def _ask_each(self, rows: Iterable[Row]) -> dict[Row, Float[Tensor, "b ..."]]:
        # a dict keeps the order in which rows were first asked for, so that the same plan makes the same batches
        distinct = list(dict.fromkeys(rows))
        answers: dict[Row, Tensor] = {}
        for policy in dict.fromkeys(row.policy for row in distinct):
            answers |= self._ask_policy(policy, [row for row in distinct if row.policy == policy])
        return answers

    def _ask_policy(self, policy: str, rows: Sequence[Row]) -> dict[Row, Float[Tensor, "b ..."]]:
        samples = [self.group.samples[row.sample] for row in rows]
        # (1), [b, ...] for each of the k rows
        x_t = [self.path.add_noise(sample.latent, sample.noise, self.group.t) for sample in samples]
        condition = join([self.group.prompts[row.slot] for row in rows])
        # [k b, ...]: all k rows make one batch of the network, the b groups of the first row before those of the second
        stacked = self.predict(policy, torch.cat(x_t), self.group.t.repeat(len(rows)), condition)
        # single precision before the space is changed, since (3) takes differences of nearly equal predictions
        answers = at_least_single(stacked).chunk(len(rows))
        return {
            row: self.path.convert(answer, x, self.group.t, self.space, self.measure)
            for row, answer, x in zip(rows, answers, x_t, strict=True)
        }

    def truth(self, side: Side, answers: Mapping[Row, Float[Tensor, "b ..."]]) -> Float[Tensor, "b ..."]:
        """(2): what should have been predicted on a side, its shares of these answers or the noise that was added."""
        if side.truth is not None:
            return mix(answers, side.truth)
        sample = self.group.samples[side.sample]
        return self.path.truth(sample.latent, sample.noise, self.group.t, self.measure)


class Fixed(NamedTuple):
    """What no step of the trainee changes: for each side its truth and the frozen policies' answers to its row."""

    truths: list[Tensor]
    references: list[Tensor] | None
    """The reference's; None where there is no reference."""
    anchors: dict[str, list[Tensor]]
    """Each anchor's, by the policy's name."""


@dataclass(frozen=True)
class Objective:
    """A method, made computable. Raises `ValueError` where a truth or an anchor asks a policy that is trained.

    `reference` names the policy that rewards are measured against, on every side. `anchors` are further frozen policies
    whose distances from the trainee and from the truth the link reads, as for a penalty on drift: DiffusionNFT's reward
    is relative to an `old` policy that follows the trainee, and its drift is taken from the fixed `reference`. `space`
    is where errors are measured; None is the backbone's own. `split` takes the gradient one side at a time: one side's
    activations in memory, one forward of the trainee more, the same gradient. `moving` are frozen policies that follow
    the trainee, `running` numbers that follow a batch's means, for the link to read, and `walk` is what goes before the
    comparison. Where `huber` is a scale, T, R and D are means of Huber's distance instead of squares. With `guided`
    all predictions are guided ones, the trainee's too.
    """

    sides: tuple[Side, ...]
    link: Link
    beta: float
    reference: str | None = "reference"
    anchors: tuple[str, ...] = ()
    weighting: Weighting = "none"
    space: Space | None = None
    split: bool = False
    moving: Mapping[str, Following] = field(default_factory=dict)
    running: Mapping[str, Running] = field(default_factory=dict)
    walk: Walk | None = None
    huber: float | None = None
    guided: GuidedRows | None = None

    def __post_init__(self) -> None:
        # a truth has no gradient: asked of the trainee, it would move with what it is to correct
        trained = [row for side in self.sides for row in side.truth or () if row.policy in self.trained]
        if trained:
            raise ValueError(f"a truth is asked of {trained[0].policy}, which is trained; ask a copy that follows it")
        moving_targets = [policy for policy in self.anchors if policy in self.trained]
        if moving_targets:
            raise ValueError(
                f"anchor {moving_targets[0]} is trained, so that nothing is anchored; take a frozen policy"
            )

    @property
    def trained(self) -> tuple[str, ...]:
        """The distinct policies that are trained."""
        return tuple(dict.fromkeys(side.policy for side in self.sides))

    @property
    def compares_prompts(self) -> bool:
        """Whether all sides are of one sample, under prompts of their own."""
        return len(self.sides) > 1 and len({side.sample for side in self.sides}) == 1

    @property
    def frozen(self) -> tuple[str, ...]:
        """The further policies that are asked or that follow the trainee, neither trained nor the reference."""
        walking = () if self.walk is None else (self.walk.policy,)
        policies = dict.fromkeys([*self.plan(), *walking, *self.moving])
        return tuple(policy for policy in policies if policy not in (*self.trained, self.reference))

    @property
    def part_policies(self) -> tuple[str, ...]:
        """The trained policy that each part of an outcome has its gradient for, in the order of the parts."""
        # With adapters, several trainees share one module: each part is to be backpropagated before another trainee is
        # switched on. Sides that look at one prediction are one part, so that a single row is never split.
        if self.split or len(self.trained) > 1:
            return tuple(self.sides[places[0]].policy for places in self._places_by_row())
        return self.trained

    def plan(self) -> dict[str, tuple[Row, ...]]:
        """The distinct predictions that one evaluation needs, by policy; frozen policies first."""
        trained = [side.row for side in self.sides]
        truths = [row for side in self.sides for row in side.truth or ()]
        compared = [policy for policy in (self.reference, *self.anchors) if policy is not None]
        # R and D compare the reference with the trainee on the trainee's own input, not on the truth's
        references = [row._replace(policy=policy) for policy in compared for row in trained]
        rows = [*truths, *references, *trained]
        if self.guided is not None:
            rows = [part for row in rows for part in self.guided.shares(row)]
        # where a truth is the reference's answer to that same input, as DDSPO's winner has it, the row is asked once
        plan: dict[str, tuple[Row, ...]] = {}
        for row in dict.fromkeys(rows):
            plan[row.policy] = (*plan.get(row.policy, ()), row)
        # False comes before True: frozen policies are asked before a trainee's activations are in memory
        return dict(sorted(plan.items(), key=lambda item: (item[0] in self.trained, item[0])))

    def __call__(
        self, group: Group, path: Path, space: Space, predict: Predict, running: Mapping[str, float] | None = None
    ) -> Outcome:
        """Loss and measures of one batch of groups; gradients flow through the trained policies alone.

        `running` holds the objective's running numbers as they stand; without it they are where they start.
        """
        if self.walk is not None:
            with torch.no_grad():
                group = self.walk(group, path, space, predict)
        scene = Scene(group, path, space, self.space or space, predict, self.guided)
        if running is None:
            running = {name: mean.start for name, mean in self.running.items()}
        # the frozen policies first, once for all parts: no answer of theirs is recorded for a backward
        fixed = self._fixed(scene)
        split = len(self.part_policies) > 1 and torch.is_grad_enabled()
        # Split, this forward is for the numbers alone, at which the slopes of (6) are taken, and keeps no activations.
        # Whole, its graph is the one that `loss` is backpropagated through.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not split):
            measured = self._measure(scene, fixed, list(range(len(self.sides))), running)
            loss = self._loss(measured)
        parts = self._parts(scene, fixed, measured) if split else (loss,)
        # what is written down must not keep a graph, and with it the activations, alive
        numbers = measured.detached()
        followed = {name: mean.of(numbers) for name, mean in self.running.items()}
        return Outcome(loss, parts, numbers, followed)

    def _loss(self, measured: Measured) -> Float[Tensor, " b"]:
        """The loss (5) of each group."""
        return self.link(measured) * weight(self.weighting, measured.level)

    # Truths are constants of (3), as in every paper of the family (stop-gradient); frozen policies have no gradient.
    @torch.no_grad()
    def _fixed(self, scene: Scene) -> Fixed:
        plan = self.plan()
        answers = scene.ask(row for policy in plan if policy not in self.trained for row in plan[policy])
        truths = [scene.truth(side, answers) for side in self.sides]

        def answered_by(policy: str) -> list[Tensor]:
            """What this policy says of every side's row."""
            return [answers[side.row._replace(policy=policy)] for side in self.sides]

        references = None if self.reference is None else answered_by(self.reference)
        return Fixed(truths, references, {policy: answered_by(policy) for policy in self.anchors})

    def _places_by_row(self) -> list[list[int]]:
        """The sides' places, those together that look at the same prediction of the trainee."""
        places: dict[Row, list[int]] = {}
        for place, side in enumerate(self.sides):
            places.setdefault(side.row, []).append(place)
        return list(places.values())

    def _measure(self, scene: Scene, fixed: Fixed, places: Sequence[int], running: Mapping[str, float]) -> Measured:
        """The numbers of the sides at these places, with the trainee's gradient where that is being recorded."""
        sides = [self.sides[place] for place in places]
        samples = [scene.group.samples[side.sample] for side in sides]
        answers = scene.ask(side.row for side in sides)
        predictions = [answers[side.row] for side in sides]
        truths = [fixed.truths[place] for place in places]
        weights = scene.group.weights
        # (3): from [b, ...] a side to [b, n], n the number of these places
        trainee_error = errors(truths, predictions, weights, self.huber)
        reference_error = drift = None
        if fixed.references is not None:
            references = [fixed.references[place] for place in places]
            reference_error = errors(truths, references, weights, self.huber)
            drift = errors(predictions, references, weights, self.huber)
        drift_from: dict[str, Tensor] = {}
        errors_of: dict[str, Tensor] = {}
        # further anchors have no part in the reward: a penalty may hold the trainee near a policy that r does not know
        for policy, answers_of in fixed.anchors.items():
            anchors = [answers_of[place] for place in places]
            drift_from[policy] = errors(predictions, anchors, weights, self.huber)
            errors_of[policy] = errors(truths, anchors, weights, self.huber)
        scale = scene.group.reward_scale
        beta = self.beta if scale is None else self.beta * scale[:, None]
        return Measured(
            rewards=implicit_reward(beta, trainee_error, reference_error),
            T=trainee_error,
            R=reference_error,
            D=drift,
            drift_from=drift_from,
            errors_of=errors_of,
            overlap=overlap(truths, predictions, weights),
            labels=torch.stack([sample.label for sample in samples], 1),
            level=scene.path.level(scene.group.t),
            scores=_scores(samples),
            running=running,
        )

    def _parts(self, scene: Scene, fixed: Fixed, measured: Measured) -> Iterator[Float[Tensor, " b"]]:
        """For each of the trainee's predictions, the sum of slope x number over the sides that look at it: (6).

        The chain rule: the loss is a function of the sides' r, T, D and distances from anchors, and only they depend on
        the trainee. A part's value means nothing; its gradient is the share of this prediction in that of the loss.
        """
        slopes = self._slopes(measured)
        # the trainee is asked again only when a part is, so that one part's activations are in memory at a time
        for places in self._places_by_row():
            live = self._measure(scene, fixed, places, measured.running).live()
            # [names, b, sides of this row]; slopes are constants, so that backward goes through `live` alone
            part = torch.stack([slopes[name][:, places] * live[name] for name in slopes])
            yield part.sum((0, 2))

    def _slopes(self, measured: Measured) -> dict[str, Float[Tensor, "b n"]]:
        """d loss / d r, T, D and the distances from anchors, each where the link reads it."""
        # r, T and D become leaves: the graph reaches from them to the loss, and no farther back to the network
        leaves = {name: value.detach().requires_grad_() for name, value in measured.live().items()}
        # each group's loss reads its own numbers alone, so that the slopes of the sum are those of each
        loss = self._loss(measured.with_live(leaves)).sum()
        # of what a link does not read there is no slope: a sigmoid of rewards gives T and D none
        slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return {name: slope for name, slope in zip(leaves, slopes, strict=True) if slope is not None}


def _scores(samples: Sequence[Sample]) -> dict[str, Float[Tensor, "b n"]]:
    """What judges say of these samples, side by side; of one that a policy drew itself they say nothing."""
    scores = {}
    for judge in samples[0].scores:
        if any(judge not in sample.scores for sample in samples):
            continue
        scores[judge] = torch.stack([sample.scores[judge] for sample in samples], 1)
    return scores
